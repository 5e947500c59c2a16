"""report/adaptive.json: what a sweep with a question came to (llama_exp/adaptive), for the page and answer.json."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from llama_exp.formatting import format_duration, percent, plural
from llama_exp.report.answer import FEW_GROUPS
from llama_exp.report.load import UnreadFile

FILE = "adaptive.json"


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """certainty: probability that the answer is right; known: whether that is enough; ended: why; null while it runs.

    runs                   that the answer rests on
    groups                 of validation items that each of them answered; null: not known
    seconds                of training and evaluating them, and of answering the test set where it ended
    seconds_of_whole_grid  expected, each setting once
    not_run                {setting: why no run of it was needed}, the ones that may come nearest first
    """

    question: str
    answer: str
    certainty: float
    known: bool
    ended: str | None
    runs: int
    groups: int | None
    seconds: float
    seconds_of_whole_grid: float
    not_run: dict[str, str]

    def __post_init__(self) -> None:
        if not (0 <= self.certainty <= 1 and self.runs >= 0 and 0 <= self.seconds < inf):
            raise ValueError("a number that cannot be")

    @property
    def sentence(self) -> str:
        open_ = "" if self.known else f" Open: {self.ended or 'the sweep has not ended'}."
        return (
            f"Asked {self.question}: {self.answer}, {percent(self.certainty)} certain.{open_} "
            f"{plural(self.runs, 'run')}, one after another {format_duration(self.seconds)}; the whole grid, each "
            f"setting once, would take about {format_duration(self.seconds_of_whole_grid)}.{self._few_groups}"
        )

    @property
    def _few_groups(self) -> str:
        if self.groups is None or self.groups >= FEW_GROUPS:
            return ""
        return f" The validation items have {plural(self.groups, 'group')}: the score depends on which they are."


def load_question(report: Path) -> tuple[AskedQuestion | None, list[UnreadFile]]:
    """Of the folder report/; None where no question was asked, or its file cannot be read."""
    path = report / FILE
    if not path.is_file():
        return None, []
    from pydantic import TypeAdapter, ValidationError  # only where there is one

    try:
        return TypeAdapter(AskedQuestion).validate_json(path.read_bytes()), []
    except ValidationError as error:
        return None, [UnreadFile(path, error.errors()[0]["msg"])]
    except OSError as error:
        return None, [UnreadFile(path, error.strerror or str(error))]
