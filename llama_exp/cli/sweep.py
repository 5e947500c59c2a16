"""What a sweep prints, as a Hydra callback: each cell's name at its start, and at the end a table of the outcomes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.text import Text

from llama_exp.cli.errors import unknown_launcher
from llama_exp.config.identity import sweep_id
from llama_exp.console import make_console, make_table
from llama_exp.dashboard.sweep_end import end_sweep, wandb_settings
from llama_exp.errors import SweepRefused
from llama_exp.formatting import plural
from llama_exp.runs.run import BUSY, FAILED, Outcome
from llama_exp.runs.summary import PART
from llama_exp.tracking.description import SWEEP

LAUNCHERS = ("llama_exp.launch.", "hydra._internal.core_plugins.basic_launcher.")


def wrong_question(config: DictConfig) -> str:
    """Why question=, or a key that belongs to it, would do nothing; "" where it is well."""
    adaptive = config.hydra.sweeper._target_.endswith(".AdaptiveSweeper")
    if config.get("question") and config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
        return f"question={config.question} chooses the cells itself: leave out hydra/sweeper=optuna."
    if config.get("question") and not adaptive:
        return f"question={config.question} is typed on the command line of train: llama-exp train -m question=… …"
    idle = [key for key in ("target", "budget") if config.get(key) is not None and not config.get("question")]
    return f"{idle[0]}= belongs to a question: add question=best, or question=target target=70." if idle else ""


@dataclass(frozen=True)
class Postponed(Outcome):
    """A cell that another process works on; `again` runs it once more."""

    again: Callable[[], Outcome]


class SweepOutcomes(Callback):
    """Collects each cell's outcome; prints the table, and the report where cells were evaluated."""

    def __init__(self) -> None:
        self.cells: list[tuple[list[str], str]] = []  # (overrides, message)
        self.outcomes: list[Any] = []
        self.typed: set[str] = set()
        self.by_trial = False  # hydra/sweeper=optuna launches a trial several times, each time to go further

    def replace(self, ended: Any, outcome: Outcome) -> None:
        """Say of a cell what it came to in the end."""
        at = next(number for number, one in enumerate(self.outcomes) if one is ended)
        self.cells[at], self.outcomes[at] = (self.cells[at][0], outcome.message), outcome

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not config.hydra.launcher._target_.startswith(LAUNCHERS):
            raise SweepRefused(unknown_launcher(config.hydra.runtime.choices["hydra/launcher"]))
        if refusal := wrong_question(config):
            raise SweepRefused(refusal)
        self.cells.clear()
        self.outcomes.clear()
        self.by_trial = config.hydra.sweeper._target_.endswith(".OptunaSweeper")
        os.environ[SWEEP] = sweep_id(config.hydra.overrides.task)  # cells in other processes inherit it
        self.typed = {
            override.lower() for override in config.hydra.overrides.task
        }  # Hydra hands a cell `evaluate=True`

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """`Cell 2: sample=30 lora.r=4`: the overrides in which the cells differ."""
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            own = [override for override in config.hydra.overrides.task if override.lower() not in self.typed]
            print(f"\nCell {config.hydra.job.num + 1}: {' '.join(own)}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        outcome = job_return._return_value  # not .return_value, which raises and prints
        message = outcome.message if isinstance(outcome, Outcome) else str(outcome)
        overrides = list(job_return.overrides or [])
        if self.by_trial:
            overrides = [override for override in overrides if not override.startswith("stop_at=")]
            self.forget_part(overrides)
        self.outcomes.append(outcome)
        self.cells.append((overrides, message))

    def forget_part(self, overrides: list[str]) -> None:
        """The part of a trial that ends here is no cell of its own: the trial has gone on."""
        for number, (earlier, message) in enumerate(self.cells):
            if earlier == overrides and PART in message:
                del self.cells[number], self.outcomes[number]
                return

    def rows(self) -> list[tuple[str, str]]:
        """(cell, outcome). Cells that failed for the same reason share the row of the first one."""
        common = set.intersection(*(set(overrides) for overrides, _ in self.cells)) if len(self.cells) > 1 else set()
        same: dict[Any, list[str]] = {}
        for number, (overrides, message) in enumerate(self.cells):
            name = " ".join(override for override in overrides if override not in common)
            same.setdefault((message, 0 if message.startswith(FAILED) else number), []).append(name)
        return [
            (names[0] + (f" and {plural(len(names) - 1, 'more cell')}" if names[1:] else ""), message.split("\n")[0])
            for (message, _), names in same.items()
        ]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("preflight"):
            return self.print_forecasts()
        self.run_postponed()
        self.print_table()
        logger, dashboard = OmegaConf.to_container(config.get("logger") or OmegaConf.create()), config.get("dashboard")
        on_wandb = dashboard or wandb_settings(logger) is not None
        if config.get("evaluate") or config.get("question") or on_wandb:
            from llama_exp.cli.commands import report
            from llama_exp.report.command import ReportOptions

            done = zip(self.outcomes, self.cells, strict=True)
            runs = [one.folder for one, (_, text) in done if isinstance(one, Outcome) and not text.startswith(FAILED)]
            if not runs:
                return
            report(ReportOptions(outputs=config.outputs), first=runs)
        if on_wandb:
            end_sweep(Path(config.outputs), sweep_id(config.hydra.overrides.task), logger, dashboard)

    def run_postponed(self) -> None:
        """Come back, once, to the cells that another process worked on."""
        for number, outcome in enumerate(self.outcomes):
            if isinstance(outcome, Postponed):
                print(f"\nCell {number + 1} again", flush=True)
                self.outcomes[number] = outcome.again()
                self.cells[number] = (self.cells[number][0], self.outcomes[number].message)

    def print_forecasts(self) -> None:
        """The table of preflight=true. A cell without a forecast was refused."""
        from llama_exp.preflight.forecast import CellForecast
        from llama_exp.preflight.table import print_forecasts

        forecasts = []
        for (overrides, message), outcome in zip(self.cells, self.outcomes, strict=True):
            reason = message.removeprefix(FAILED).split("\n")[0]
            refused = CellForecast(" ".join(overrides), None, f"refused: {reason}")
            forecasts.append(getattr(outcome, "forecast", refused))
        print_forecasts(forecasts)

    def print_table(self) -> None:
        failed = sum(message.startswith(FAILED) for _, message in self.cells)
        busy = sum(message == BUSY for _, message in self.cells)
        title = f"{plural(len(self.cells), 'cell')}, {failed} failed" + f", {busy} {BUSY}" * bool(busy)
        table = make_table(title)
        for name in ("cell", "outcome"):
            table.add_column(name)
        for cell, message in self.rows():
            table.add_row(Text(cell), Text(message))
        print()
        make_console().print(table)
