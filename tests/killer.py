"""A logger that sends its process a signal at a row of metrics.csv, by default one that no one can catch: ends that
come at a known place."""

import os
import signal
import time

import psutil
from lightning.pytorch.loggers.logger import Logger


class Killer(Logger):
    """`column` in {"loss", "validation_loss"}: a signal once the row of `step` that holds it is written. `pause`:
    seconds a row. `other`: to the second of the processes that train together."""

    name = version = "killer"

    def __init__(
        self,
        save_dir: str,
        step: int,
        column: str = "loss",
        pause: float = 0.0,
        by: str = "SIGKILL",
        other: bool = False,
    ):
        super().__init__()
        self.step, self.column, self.pause, self.by = step, column, pause, signal.Signals[by]
        self.other = other

    @property
    def experiment(self):
        return None

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        time.sleep(self.pause)
        if step == self.step and self.column in metrics:
            os.kill(training_with_this_one() if self.other else os.getpid(), self.by)


def training_with_this_one() -> int:
    """The second process of trainer=ddp; another child may draw loss pages."""
    return next(child.pid for child in psutil.Process().children() if "train" in child.cmdline())


def killed_at(step: int, column: str = "loss", pause: float = 0.0, by: str = "SIGKILL") -> list[str]:
    """Words for a training command that is to die there."""
    return [
        "logger=none",
        "+logger.killer._target_=tests.killer.Killer",
        f"+logger.killer.step={step}",
        f"+logger.killer.column={column}",
        f"+logger.killer.pause={pause}",
        f"+logger.killer.by={by}",
    ]
