"""What a sweep says at its end: which cells were trained, skipped or failed, and why. A Hydra callback."""

from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

failures: list[str] = []  # why cells of this process failed; read by cli.run for the exit code


def failed(reason: str) -> dict[str, str]:
    """Record a failed cell; the sweep goes on."""
    failures.append(reason)
    print(f"FAILED: {reason}\nThe sweep goes on with the next cell.", flush=True)
    return {"said": f"FAILED: {reason}"}


class Summary(Callback):
    """Collects what each cell came to; prints the table, and the report where cells were evaluated."""

    def __init__(self) -> None:
        self.cells: list[tuple[list[str], str]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.cells.clear()
        failures.clear()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        done = job_return._return_value  # not .return_value, which raises and prints
        self.cells.append((list(job_return.overrides or []), done["said"] if isinstance(done, dict) else str(done)))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("preflight"):
            from llama_exp.preflight import sum_up

            return sum_up()
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        common = set.intersection(*(set(words) for words, _ in self.cells)) if len(self.cells) > 1 else set()
        title = f"{len(self.cells)} cells, {len(failures)} failed"
        table = Table("cell", "came to", title=title, title_justify="left")
        for words, said in self.cells:
            table.add_row(Text(" ".join(word for word in words if word not in common)), Text(said.split("\n")[0]))
        Console().print(table)
        if config.get("evaluate"):
            from llama_exp.report import main

            main([config.outputs])
