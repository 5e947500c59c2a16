"""An Optuna study of one sweep, in OUTPUTS/optuna.db: what draws its trials, what prunes them, what it is called."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from llama_exp import metrics
from llama_exp.config.identity import flat, identity, sweep_id
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.trials.space import OBJECTIVE

LOSS = "validation_loss"
SAMPLERS = ("tpe", "random")
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

    @classmethod
    def of(cls, values: dict[str, Any], config: Config) -> "Settings":
        """Raises UserError for what is no setting, or measured at no validation."""
        known = [field.name for field in dataclasses.fields(cls)]
        if strange := [key for key in values if key not in known]:
            raise UserError(f"hydra.sweeper.{strange[0]}: no such key; there are {', '.join(known)}.")
        metric, rungs = values["metric"] or config.monitor, values["rungs"] if values["pruner"] else []
        if not isinstance(rungs, list) or not _are_shares(rungs):
            raise UserError(
                f"hydra.sweeper.rungs={rungs}: wanted growing shares of a run, a percent or more apart, above 0 and "
                "below 1: [0.25,0.5]."
            )
        names = tuple(map(str, metric)) if isinstance(metric, list) else (str(metric),)
        settings = cls(**{**values, "metric": names, "rungs": tuple(rungs)})
        settings.check()
        if values["metric"] or metrics.AUTO not in config.dataset.metrics:
            settings.check_metric(config)
        return settings

    def check(self) -> None:
        at = "hydra.sweeper."
        for key, least in (("n_trials", 1), ("startup", 1), ("seed", 0)):
            if not isinstance(value := getattr(self, key), int) or value < least:
                raise UserError(f"{at}{key}={value}: wanted a whole number of at least {least}.")
        if self.sampler not in SAMPLERS:
            raise UserError(f"{at}sampler={self.sampler}: wanted {', '.join(SAMPLERS)}.")
        if self.pruner not in (*PRUNERS, None):
            raise UserError(f"{at}pruner={self.pruner}: wanted {', '.join(PRUNERS)}, null.")
        if len(self.metric) > 1 and self.pruner:
            raise UserError(f"Several metrics say nothing of what to prune: add {at}pruner=null.")

    def check_metric(self, config: Config) -> None:
        measured, more = [LOSS], ""
        names = [name for name in config.dataset.metrics if name != metrics.AUTO]
        if config.validation_scores:
            measured += [score for name in names for score in metrics.load(name).scores]
        else:
            more = " Scores are measured with validation_scores=50, or so many."
        if metrics.AUTO in config.dataset.metrics:
            more += " Which scores there are, the data decide: name them, dataset.metrics=[rouge]."
        if strange := [name for name in self.metric if name not in measured]:
            raise UserError(
                f"hydra.sweeper.metric={strange[0]}: wanted what is measured at a validation: "
                f"{', '.join(measured)}.{more}"
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


def _are_shares(rungs: list[Any]) -> bool:
    if not all(isinstance(rung, int | float) and 0 < rung < 1 for rung in rungs):
        return False
    steps = [step_of(rung) for rung in rungs]
    return steps == sorted({*steps}) and all(0 < step < 100 for step in steps)


def step_of(rung: float) -> int:
    return round(100 * rung)


def study_name(config: Config, drawn: Mapping[str, Any], metric: Sequence[str]) -> str:
    """The same for the same runs, judged alike: evaluating them, or how they are launched, makes no other study."""
    values = flat(config)
    fixed = {**identity(config, everything=True), **{key: values.get(key) for key in OBJECTIVE}}
    pairs = [*fixed.items(), *drawn.items(), ("metric", list(metric))]
    return sweep_id(f"{key}={value}" for key, value in pairs)


def open_study(settings: Settings, outputs: Path, name: str) -> optuna.Study:
    """The study, with the trials of earlier commands. Raises UserError where its database cannot be opened."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    outputs.mkdir(parents=True, exist_ok=True)
    path = outputs / "optuna.db"
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    pruner = settings.make_pruner()
    try:
        study = optuna.create_study(storage=url, study_name=name, load_if_exists=True, directions=settings.directions)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{path}, which holds the study, cannot be opened: {reason}") from error
    study.sampler, study.pruner = settings.make_sampler(len(study.trials)), pruner
    return study


def trials_of(study: optuna.Study, *states: str) -> Sequence[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[optuna.trial.TrialState[state] for state in states])
