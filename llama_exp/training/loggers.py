"""The loggers that a run writes to, beside metrics.csv."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import lightning as L

from llama_exp.config.identity import flat
from llama_exp.config.schema import Config


def build_loggers(config: Config, folder: Path) -> list:
    """The configured logger, or none. One that cannot start is said and left out: metrics.csv is the truth."""
    if not config.logger:
        return []
    from hydra.utils import instantiate

    extra: dict[str, Any] = {"save_dir": str(folder)}
    if config.logger["_target_"].endswith("WandbLogger"):
        name = f"{folder.parent.name}/{folder.name}"
        extra |= {
            "name": name,
            "id": hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            "resume": "allow",
            "group": f"{config.dataset.name}-{config.model.name}",
            "config": flat(config),
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
