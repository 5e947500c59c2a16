"""TensorBoard: scores as scalars and beside the hyperparameters (HPARAMS), replies as text, the curves as an image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_exp.tracking.content import as_markdown, flat
from llama_exp.tracking.tracker import Tracker

FIRST = ("examples", "lora.r", "optimizer.lr", "sample", "seed")  # what one compares runs by


class TensorBoardTracker(Tracker):
    advice = "pip install tensorboard"

    def start(self) -> None:
        _ = self.logger.experiment
        self.scores: dict[str, float] = {}

    def log_summary(self, values: Mapping[str, float]) -> None:
        self.scores |= values

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)
        self.logger.experiment.add_text(name, text, step if step is not None else self.step)

    def log_figure(self, name: str, picture: Path, page: Path) -> None:
        from matplotlib.image import imread

        self.logger.experiment.add_image(name, imread(picture), self.step, dataformats="HWC")

    def finish(self, code: int) -> None:
        """Hyperparameters go with the scores in one record, of which TensorBoard keeps the first of a run: it is left
        to the evaluation where there are no scores yet."""
        described = self.description
        values = {**flat(described.config), "tags": " ".join(described.tags), "job": described.job}
        self.logger.log_metrics(self.scores, self.step)
        writer = self.logger.experiment._get_file_writer()
        experiment, *session = _hparams({key: _plain(of) for key, of in values.items()}, self.scores)
        for record in [experiment, *session] if self.scores else session:
            writer.add_summary(record, self.step)
        super().finish(code)


def _hparams(values: Mapping[str, Any], scores: Mapping[str, float]) -> tuple[Any, Any, Any]:
    """The records of the page HPARAMS. It ticks the first five keys and scores, and sorts the keys by name; those that
    "differ" come before the others."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    first = sorted(scores, key=lambda name: (name.endswith(("_low", "_high", "/items")), not name.startswith("test/")))
    experiment, start, end = hparams(dict(values), {name: scores[name] for name in first})
    stored = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(stored.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in FIRST
    stored.content = content.SerializeToString()
    return experiment, start, end


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if value == "---" else as_markdown(str(value))


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
