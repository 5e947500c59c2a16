"""The loggers that a run writes to, beside metrics.csv."""

import contextlib
import hashlib
import inspect
import os
from typing import Any

import lightning as L

from llama_exp.config.targets import import_target
from llama_exp.config.trainer_keys import named_loggers
from llama_exp.runs.run import Run


def build_loggers(run: Run) -> list:
    """The configured loggers. One that cannot start is left out with a message: metrics.csv does not depend on it."""
    found = (_start(name, logger, run) for name, logger in named_loggers(run.config.logger).items())
    return [logger for logger in found if logger is not None]


def _start(name: str, settings: dict[str, Any], run: Run) -> Any:
    given = {key: value for key, value in settings.items() if key != "_target_"}
    try:
        kind = import_target(settings["_target_"], f"logger.{name}")
        logger = kind(**{**_usual_arguments(kind, run), **given})
        _ = logger.experiment  # starts it: what is wrong shows here, not in the middle of a fit
        return logger
    except Exception as error:
        print(f"The logger {name} could not start ({error}); metrics.csv is written all the same.", flush=True)
        return None


def _usual_arguments(kind: Any, run: Run) -> dict[str, Any]:
    """Where a logger writes and how the run is named there, as far as its class takes such arguments."""
    if kind.__name__ == "WandbLogger":
        return {
            "save_dir": str(run.folder),
            "name": run.name,
            "id": hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:16],  # a resumed run is the same run
            "resume": "allow",
            "group": f"{run.config.dataset.name}-{run.config.model.title}",
            "config": run.values,
            "offline": not os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "offline",
        }
    takes = inspect.signature(kind).parameters
    return {"save_dir": str(run.folder)} if "save_dir" in takes else {}


def finish_loggers(trainer: L.Trainer, code: int) -> None:
    for logger in trainer.loggers:
        with contextlib.suppress(Exception):
            logger.finalize("success" if code == 0 else "failed")
        if type(logger).__name__ == "WandbLogger":
            import wandb

            with contextlib.suppress(Exception):
                wandb.finish(exit_code=code)
