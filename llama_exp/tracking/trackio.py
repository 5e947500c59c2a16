"""trackio: a local dashboard (`trackio show`), or a Space on the Hugging Face hub with space_id=OWNER/NAME.

Runs lie in TRACKIO_DIR, else where the hub's cache is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from llama_exp.tracking.content import as_markdown
from llama_exp.tracking.description import Description
from llama_exp.tracking.tracker import Tracker


class TrackioLogger(Logger):
    """Lightning's interface to trackio; other keywords are those of trackio.init."""

    def __init__(self, project: str = "llama_exp", **keywords: Any):
        super().__init__()
        self.project, self.keywords, self._run = project, keywords, None

    name = property(lambda self: self.project)
    version = property(lambda self: self.keywords.get("name"))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._run is None:
            import trackio

            self._run = trackio.init(self.project, **{"resume": "allow", "embed": False, **self.keywords})
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.experiment.config.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)


class TrackioTracker(Tracker):
    def arguments(self, kind: Any, described: Description) -> dict[str, Any]:
        # trackio finds a run again by its name alone
        return {
            "name": f"{described.name}-{described.id[:6]}",
            "group": described.group,
            "config": {**described.config, "tags": " ".join(described.tags), "job": described.job},
        }

    def start(self) -> None:
        _ = self.logger.experiment

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None) -> None:
        import pandas
        import trackio

        frame = pandas.DataFrame([[_cell(value) for value in row] for row in rows], columns=list(columns))
        self.logger.experiment.log({name: trackio.Table(dataframe=frame)}, step=self.step if step is None else step)

    def log_figure(self, name: str, picture: Path, page: Path) -> None:
        import trackio

        self.logger.experiment.log({f"{name}/figure": trackio.Image(str(picture))}, step=self.step)

    def finish(self, code: int) -> None:
        self.logger.experiment.finish()


def _cell(value: Any) -> Any:
    """Text that trackio, which reads a cell as Markdown, shows as it is."""
    return as_markdown(value) if isinstance(value, str) else value
