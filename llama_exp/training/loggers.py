"""The loggers that a run writes to, beside metrics.csv."""

import contextlib
import hashlib
import os
from typing import Any

import lightning as L

from llama_exp.runs.run import Run


def build_loggers(run: Run) -> list:
    """The configured logger, or none. One that cannot start is said and left out: metrics.csv is the truth."""
    config, folder = run.config, run.folder
    if not config.logger:
        return []
    from hydra.utils import instantiate

    extra: dict[str, Any] = {"save_dir": str(folder)}
    if config.logger["_target_"].endswith("WandbLogger"):
        extra |= {
            "name": run.name,
            "id": hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            "resume": "allow",
            "group": f"{config.dataset.name}-{config.model.name}",
            "config": run.values,
            "offline": not os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "offline",
        }
    try:
        logger = instantiate({**extra, **config.logger}, _convert_="all")
        _ = logger.experiment  # starts it: what is wrong shows here, not in the middle of a fit
        return [logger]
    except Exception as error:
        print(
            f"The logger {config.logger['_target_']} could not start ({error}); metrics.csv is written all the same.",
            flush=True,
        )
        return []


def _finish_loggers(trainer: L.Trainer, code: int) -> None:
    for logger in trainer.loggers:
        with contextlib.suppress(Exception):
            logger.finalize("success" if code == 0 else "failed")
        if type(logger).__name__ == "WandbLogger":
            import wandb

            with contextlib.suppress(Exception):
                wandb.finish(exit_code=code)
