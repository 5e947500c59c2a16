"""What a sweep says at its end: which cells were trained, skipped or failed, and why. A Hydra callback."""

from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

failures: list[str] = []  # read by cli.run for the exit code


class Summary(Callback):
    """Collects every job's return value; prints the table, and the report where cells were evaluated."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, str, str]] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.cells.clear()
        failures.clear()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN":
            return
        words = " ".join(job_return.overrides or [])
        if job_return.status == JobStatus.COMPLETED:
            done = job_return._return_value or {}
            self.cells.append((words, done.get("said", "done"), str(done.get("run", ""))))
        else:
            reason = str(job_return._return_value).strip() or type(job_return._return_value).__name__
            failures.append(words)
            self.cells.append((words, f"FAILED: {reason}", ""))
            print(f"FAILED {words}\n  {reason}\nThe sweep goes on with the next cell.", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("cell", "came to", "run", title=f"{len(self.cells)} cells, {len(failures)} failed")
        for words, said, run in self.cells:
            table.add_row(Text(words), Text(said.split("\n")[0]), Text(run))
        Console().print(table)
        if config.get("evaluate"):
            from llama_exp.report import main

            main([config.outputs])
