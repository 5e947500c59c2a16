"""What a sweep says: at each cell's start which one it is, and at the end what they came to, and why. A Hydra callback."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from llama_exp.cli.main import failures
from llama_exp.formatting import plural
from llama_exp.runs.run import Outcome


class Summary(Callback):
    """Collects what each cell came to; prints the table, and the report where cells were evaluated."""

    def __init__(self) -> None:
        self.cells: list[tuple[list[str], str]] = []
        self.typed: set[str] = set()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.cells.clear()
        failures.clear()
        self.typed = {word.lower() for word in config.hydra.overrides.task}  # Hydra tells a cell `evaluate=True`

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """`Cell 2: sample=30 lora.r=4`: the words that the cells differ in, which were not typed as they stand."""
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            own = [word for word in config.hydra.overrides.task if word.lower() not in self.typed]
            print(f"\nCell {config.hydra.job.num + 1}: {' '.join(own)}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        done = job_return._return_value  # not .return_value, which raises and prints
        self.cells.append((list(job_return.overrides or []), done.message if isinstance(done, Outcome) else str(done)))

    def rows(self) -> list[tuple[str, str]]:
        """(cell, what it came to). Cells that failed alike share the row of the first one."""
        common = set.intersection(*(set(said) for said, _ in self.cells)) if len(self.cells) > 1 else set()
        alike: dict[Any, list[str]] = {}
        for number, (overrides, said) in enumerate(self.cells):
            name = " ".join(word for word in overrides if word not in common)
            alike.setdefault((said, 0 if said.startswith("FAILED") else number), []).append(name)
        return [
            (names[0] + (f" and {plural(len(names) - 1, 'more cell')}" if names[1:] else ""), said.split("\n")[0])
            for (said, _), names in alike.items()
        ]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("preflight"):
            from llama_exp.preflight.forecast import sum_up

            return sum_up()
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            "cell", "came to", title=f"{plural(len(self.cells), 'cell')}, {len(failures)} failed", title_justify="left"
        )
        for cell, said in self.rows():
            table.add_row(Text(cell), Text(said))
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, 120)
        console.print(table)
        if config.get("evaluate"):
            from llama_exp.report.command import main

            main([config.outputs])
