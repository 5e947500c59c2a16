"""The breakdown command, and the options of the report, which cli/commands.py runs to add human studies."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from llama_exp.config.options import REQUIRED, option
from llama_exp.report import costs


@dataclass(frozen=True)
class ReportOptions:
    outputs: str = option("outputs", "folder with the runs", positional=True)
    metric: str | None = option(None, "the score to draw; null: the dataset's own")
    price_per_gpu_hour: float | None = option(
        None, "what one GPU costs for an hour, such as 2.50; null: the value in settings"
    )
    currency: str | None = option(None, "currency code; null: the value in settings")
    targets: dict[str, float] = option(
        {}, "scores whose sample size is estimated, such as '{squad/f1: 70}'", shown="{}"
    )
    settings: str = option(str(costs.SETTINGS), "YAML file with prices and targets", shown="conf/report.yaml")

    def prices(self) -> costs.Prices:
        """Those of the file, with what was typed instead."""
        typed = {key: getattr(self, key) for key in ("price_per_gpu_hour", "currency", "targets")}
        return dataclasses.replace(
            costs.load(Path(self.settings)), **{key: of for key, of in typed.items() if of not in (None, {})}
        )


@dataclass(frozen=True)
class BreakdownOptions:
    folders: list[str] = option(
        REQUIRED, "folders of evaluations, outputs/DATASET/RUN/eval/EVALUATION", positional=True, shown="FOLDER …"
    )


def breakdown(options: BreakdownOptions) -> None:
    """Print an evaluation's scores by kind of question, such as MedQuAD's question type or SQuAD's question word:

        llama-exp breakdown outputs/medical/llama2_7b_chat-all-r16-seed0/eval/medical-test-all

    Every score has its 95 % interval. Many rows are many comparisons: the best of twenty kinds looks good by luck.
    """
    from llama_exp.report.breakdown import format_tables, load_breakdown  # scipy: a second

    for folder in options.folders:
        tables = load_breakdown(Path(folder))
        name = folder if len(options.folders) > 1 else ""
        print(name, format_tables(tables) or "No tag with several values.", sep="\n", flush=True)
