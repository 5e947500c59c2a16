"""One logger of a run: any class of Lightning's `Logger`. Those that hold more than numbers have a subclass."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_exp.runs.run import Run
from llama_exp.tracking.description import Description


class Tracker:
    """name: as in logger=NAME; kind: the class; given: its arguments as the config has them.

    `advice` is what to type where it cannot start. Each method sends what this logger can hold; what it cannot, it
    leaves out.
    """

    advice = ""

    def __init__(self, name: str, kind: Any, given: dict[str, Any], described: Description | None):
        self.name, self.description = name, described
        self.artifacts = bool(given.pop("artifacts", False)) if self.holds_artifacts else False
        self.step = 0  # of the last numbers
        usual = self.arguments(kind, described) if described else {}
        self.logger = kind(**{**usual, **given})

    holds_artifacts = False

    def arguments(self, kind: Any, described: Description) -> dict[str, Any]:
        """Arguments of the class that the config need not give."""
        takes = inspect.signature(kind).parameters
        return {"save_dir": str(described.folder)} if "save_dir" in takes else {}

    def start(self) -> None:
        _ = self.logger.experiment  # what is wrong shows here, not in the middle of a fit
        self.logger.log_hyperparams(self.description.config)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """The numbers of an optimizer step."""
        self.step = max(self.step, step)
        self.logger.log_metrics(dict(values), step)

    def log_earlier(self, rows: Sequence[Mapping[str, float]], have_all: bool) -> None:
        """The steps of the processes before this one, for a logger that may have lost them in a kill."""

    def log_status(self, status: str) -> None:
        """finished, stopped early, stopped at 25 %; for a logger that can filter by it."""

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Numbers of the run as a whole, such as {"test/squad/f1": 61.2}."""
        self.logger.log_metrics(dict(values), self.step)

    def log_best(self, best: float, last: float) -> None:
        """The lowest validation loss, and the last one, of the whole run."""
        self.log_summary({"best_validation_loss": best})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None) -> None:
        """Replies with their scores."""

    def log_figure(self, name: str, picture: Path, page: Path) -> None:
        """A picture, and a page that shows more of the same."""

    def log_adapter(self, run: Run) -> None:
        """The adapter's files, where logger.NAME.artifacts asks for them."""

    def log_evaluation(self, run: Run, folder: Path, prefix: str) -> None:
        """The files of an evaluation, with the adapter that they are of; where artifacts are asked for."""

    def finish(self, code: int) -> None:
        self.logger.finalize("success" if code == 0 else "failed")
