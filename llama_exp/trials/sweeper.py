"""Hydra's side of hydra/sweeper=optuna."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from llama_exp.adaptive.sweeper import ChoosingSweeper
from llama_exp.config.compose import load_config
from llama_exp.errors import UserError
from llama_exp.programs import install
from llama_exp.runs.run import FAILED, Outcome


class OptunaSweeper(ChoosingSweeper):
    """`settings`: the other keys of conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, params: Mapping[str, Any] | None = None, **settings: Any) -> None:
        super().__init__(params)
        self.settings = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.line = task_function.command_line  # type: ignore[attr-defined]

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        self.check()
        try:
            from llama_exp.trials.search import Search
            from llama_exp.trials.space import Space
            from llama_exp.trials.study import Settings, study_name
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise UserError(f"hydra/sweeper=optuna needs optuna. Install it: {install('optuna')}") from None
        space = Space.of(self.overrides(arguments))
        config = load_config(*space.fixed)
        settings = Settings.of(self.settings, config)
        name = study_name(config, space.drawn, settings.metric)
        return Search(space, settings, self.launcher, config, name, self.count_failure).run()

    def count_failure(self, cell: JobReturn, why: str) -> None:
        """A cell whose trial has failed although it ended well, or was not launched: it counts as failed."""
        self.line.failures.append(why)
        failed, ended = Outcome(f"{FAILED}{why}", Path()), cell._return_value
        if ended is None:
            cell.return_value, cell.status = failed, JobStatus.COMPLETED
            return self.hydra_context.callbacks.on_job_end(config=self.config, job_return=cell)
        for callback in self.hydra_context.callbacks.callbacks:
            if hasattr(callback, "replace"):  # the table of the sweep (cli/sweep.py)
                callback.replace(ended, failed)

    def check(self) -> None:
        """Raise UserError for keys that a sweep of trials does not go with."""
        config, own = self.config, "hydra/sweeper=optuna"
        if self.line.name != "train":
            raise UserError(f"{own} trains its trials: it belongs to train, not to {self.line.name}.")
        if config.preflight:
            raise UserError(f"preflight=true forecasts the cells of a grid, and {own} draws them. Leave one out.")
        if config.stop_at is not None:
            raise UserError(f"{own} stops its trials itself, at hydra.sweeper.rungs=[0.25,0.5]: leave out stop_at=.")
        if config.validations == 0:
            raise UserError(f"{own} judges trials by their validations, and validations=0 makes none.")
        if config.trainer.get("limit_val_batches") == 0:
            raise UserError(f"{own} judges trials by their validations, and trainer.limit_val_batches=0 makes none.")
        if config.lora.r == 0:
            raise UserError(f"{own} trains its trials, and lora.r=0 trains nothing.")
