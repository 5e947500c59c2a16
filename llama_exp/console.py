"""How this program looks in a terminal: one width, one kind of table, one progress bar."""

import os
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from llama_exp.formatting import format_duration

GAP = 2  # spaces between columns
LOG_WIDTH = 120  # a file or a pipe has no width of its own; COLUMNS sets it
LOG_LINES = 10  # of progress in a log


def make_console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = LOG_WIDTH
    return console


def say(console: Console, text: str, style: str = "") -> None:
    """A sentence, broken between words in a terminal and whole in a log, where it can be searched for."""
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def show(console: Console, text: str, style: str = "") -> None:
    """What is to be copied, a command or a path: no line break is put into it."""
    console.print(Text(text, style=style), soft_wrap=True)


def make_table(title: str) -> Table:
    """An empty table in the one style: no frame, a bold title, a dim head."""
    return Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="dim",
        padding=(0, GAP, 0, 0),
    )


def bar_columns() -> list:
    """The bar and its time, as training and evaluation show them."""
    return [BarColumn(bar_width=10), TimeRemainingColumn(compact=True), TextColumn("left")]


class Countdown:
    """How many of `total` things are done and how long the others take: a bar in a terminal, some lines in a log.

    with Countdown("answered", 300) as countdown:
        countdown.add(8)
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done, self.before = what, total, done, done
        self.console = make_console()
        self.began = time.monotonic()
        columns = TextColumn("  {task.description}"), MofNCompleteColumn(), *bar_columns()
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> "Countdown":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def add(self, count: int) -> None:
        shown = LOG_LINES * self.done // self.total
        self.done += count
        self.bar.update(self.task, completed=self.done)
        if not self.console.is_terminal and LOG_LINES * self.done // self.total > shown:
            print(f"  {self.what} {self.done}/{self.total}{self.time_left()}", flush=True)

    def time_left(self) -> str:
        """`, about 12 s left`, by the pace so far; "" at the end."""
        pace = (time.monotonic() - self.began) / max(self.done - self.before, 1)
        left = pace * (self.total - self.done)
        return f", about {format_duration(left)} left" if left else ""
