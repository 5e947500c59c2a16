"""An Optuna study of one sweep: where it is stored, what draws its trials, what prunes them."""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from llama_exp import metrics
from llama_exp.config.schema import Config
from llama_exp.errors import UserError

LOSS = "validation_loss"
SAMPLERS = ("tpe", "random", "nsgaii")
PRUNERS = ("median", "asha")


@dataclass(frozen=True)
class Settings:
    """What hydra.sweeper.* says; docs/optuna.md has each key."""

    n_trials: int
    metric: tuple[str, ...]
    sampler: str
    pruner: str | None
    rungs: tuple[float, ...]
    startup: int
    seed: int
    storage: str | None
    study_name: str | None

    @classmethod
    def of(cls, values: dict[str, Any], config: Config) -> "Settings":
        """Raises UserError for what is no setting, or measured at no validation."""
        known = [field.name for field in dataclasses.fields(cls)]
        if strange := [key for key in values if key not in known]:
            raise UserError(f"hydra.sweeper.{strange[0]}: no such key; there are {', '.join(known)}.")
        pruner = None if values["pruner"] == "none" else values["pruner"]
        lists = {"metric": as_tuple(values["metric"] or config.monitor), "rungs": as_tuple(values["rungs"])}
        settings = cls(**{**values, **lists, "pruner": pruner, "rungs": lists["rungs"] if pruner else ()})
        settings.check(config)
        return settings

    def check(self, config: Config) -> None:
        at = "hydra.sweeper."
        for key, least in (("n_trials", 1), ("startup", 1), ("seed", 0)):
            if not isinstance(value := getattr(self, key), int) or value < least:
                raise UserError(f"{at}{key}={value}: wanted a whole number of at least {least}.")
        for key, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if (value := getattr(self, key)) not in (*known, *([None] if key == "pruner" else [])):
                raise UserError(f"{at}{key}={value}: wanted {', '.join(known)}{', null' * (key == 'pruner')}.")
        if not all(isinstance(r, int | float) and 0 < r < 1 for r in self.rungs) or list(self.rungs) != sorted(
            {*self.rungs}
        ):
            raise UserError(f"{at}rungs={list(self.rungs)}: wanted growing shares above 0 and below 1: [0.25,0.5].")
        if len(self.metric) > 1 and self.pruner:
            raise UserError(f"Several metrics say nothing of what to prune: add {at}pruner=null.")
        measured = [LOSS]
        if config.validation_scores:
            measured += [score for name in config.dataset.metrics for score in metrics.load(name).scores]
        if strange := [name for name in self.metric if name not in measured]:
            more = "" if config.validation_scores else " Scores are measured with validation_scores=50, or so many."
            raise UserError(
                f"{at}metric={strange[0]}: wanted what is measured at a validation: {', '.join(measured)}.{more}"
            )

    @staticmethod
    def lower_is_better(metric: str) -> bool:
        return metric == LOSS or metrics.describe(metric).lower_is_better

    @property
    def directions(self) -> list[str]:
        return ["minimize" if self.lower_is_better(name) else "maximize" for name in self.metric]

    def make_sampler(self, trials: int) -> BaseSampler:
        """`trials`: how many there are; another seed than theirs, or a study that goes on would draw them again."""
        seed = self.seed + trials
        if self.sampler == "random":
            return RandomSampler(seed=seed)
        if self.sampler == "nsgaii":
            return NSGAIISampler(seed=seed)
        # constant_liar: trials that run at the same time are not drawn close together
        return TPESampler(seed=seed, n_startup_trials=self.startup, constant_liar=True)

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Optuna counts in steps: here percents of a run."""
        if self.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=self.startup)
        if self.pruner == "asha" and self.rungs:
            ends = [*self.rungs, 1.0]
            factor = max(2, round(ends[1] / ends[0]))
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=step_of(ends[0]), reduction_factor=factor)
        return optuna.pruners.NopPruner()


def as_tuple(value: Any) -> tuple:
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)


def step_of(rung: float) -> int:
    return round(100 * rung)


def open_study(settings: Settings, outputs: Path, name: str) -> optuna.Study:
    """The study, with the trials of earlier commands. Raises UserError where its storage cannot be opened."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    outputs.mkdir(parents=True, exist_ok=True)
    where = settings.storage or f"sqlite:///{outputs / 'optuna.db'}"
    try:
        return _opened(settings, where, settings.study_name or name)
    except Exception as error:  # SQLAlchemy's, a driver's, Optuna's
        reason = str(error).split("\n")[0]
        raise UserError(f"hydra.sweeper.storage={where} cannot be opened: {reason}") from error


def _opened(settings: Settings, where: str, name: str) -> optuna.Study:
    study = optuna.create_study(storage=where, study_name=name, load_if_exists=True, directions=settings.directions)
    if [direction.name.lower() for direction in study.directions] != settings.directions:
        raise UserError(f"study {name} there has other metrics: name another one, hydra.sweeper.study_name=…")
    study.sampler, study.pruner = settings.make_sampler(len(study.trials)), settings.make_pruner()
    return study


def trials_of(study: optuna.Study, *states: str) -> Sequence[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[optuna.trial.TrialState[state] for state in states])
