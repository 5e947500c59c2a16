"""The options of the report command. cli/commands.py runs it, as it adds the findings of human studies."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from llama_exp.config.options import option
from llama_exp.report import costs


@dataclass(frozen=True)
class ReportOptions:
    outputs: str = option("outputs", "folder with the runs", positional=True)
    metric: str | None = option(None, "the score to draw; null: the dataset's own")
    price_per_gpu_hour: float | None = option(None, "what one GPU costs for an hour, such as 2.50; null: of settings")
    currency: str | None = option(None, "how money is named; null: of settings")
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
