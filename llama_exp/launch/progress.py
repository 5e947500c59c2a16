"""All cells of a sweep that runs in other processes: a line as each one ends, and in a terminal a table of the rest."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.live import Live
from rich.text import Text

from llama_exp.console import make_console, make_table
from llama_exp.formatting import format_duration
from llama_exp.launch.cells import Cell
from llama_exp.runs.run import Outcome
from llama_exp.sanitize import clean


class Progress:
    def __init__(self, cells: Sequence[Cell]) -> None:
        self.total, self.done, self.failed = len(cells), 0, 0
        common = set.intersection(*(set(cell.overrides) for cell in cells)) if len(cells) > 1 else set()
        self.common = common
        self.names = {cell.key: self._name(cell) for cell in cells}
        self.console = make_console()
        self.live = Live(console=self.console, refresh_per_second=2, transient=True)
        self.since: dict[tuple[str, str], float] = {}  # (cell, worker): when it was first seen to run

    def _name(self, cell: Cell) -> str:
        return " ".join(o for o in cell.overrides if o not in self.common)

    def add(self, cells: Sequence[Cell]) -> None:
        self.total += len(cells)
        self.names |= {cell.key: self._name(cell) for cell in cells}

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        self.done += 1
        self.failed += outcome.has_failed
        text = f"{self.done}/{self.total}  {self.names[cell.key]}: {outcome.message.splitlines()[0]}"
        self.console.print(Text(text), soft_wrap=True)

    def show(self, running: Mapping[Cell, tuple[str, str]]) -> None:
        """running: {cell: (worker, what it has printed last)}."""
        if not self.console.is_terminal:
            return
        table = make_table(f"{self.done} of {self.total} cells, {self.failed} failed")
        for name in ("worker", "cell", "for"):
            table.add_column(name)
        table.add_column("says", no_wrap=True, overflow="ellipsis")
        for cell, (worker, line) in running.items():
            began = self.since.setdefault((cell.key, worker), time.monotonic())
            spent = format_duration(time.monotonic() - began)
            table.add_row(Text(worker), Text(self.names[cell.key]), spent, Text(clean(line)))
        self.live.update(Group(table))
