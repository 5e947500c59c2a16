"""The report in the terminal: a table and the findings of each comparison, then the runs that have no score."""

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from llama_exp.config.command_line import outputs_option, shell_quoted
from llama_exp.formatting import plural
from llama_exp.metrics import likelihood
from llama_exp.report import findings
from llama_exp.report.answer import Answer
from llama_exp.report.cells import Comparison
from llama_exp.report.costs import Prices
from llama_exp.report.labels import split_of, title
from llama_exp.report.load import RunRecord
from llama_exp.report.tables import AGAINST_BEST, TextTable, score_head, scores_table

GAP = 2  # spaces between columns
COSTS = ("trainable", "tokens", "memory", "training")  # the columns that a narrow terminal drops first, in this order


def make_console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and console.width < 200:
        console.width = 200  # a log has no width of its own; in 80 columns few of the scores would have room
    return console


def say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def print_tables(
    console: Console,
    compared: list[Comparison],
    answers: Sequence[Answer | None] = (),
    prices: Prices = Prices(),  # noqa: B008  frozen
) -> None:
    """The answer, a row per cell, and the findings; as `report` prints them."""
    for c, answer in zip_longest(compared, answers):
        for index, line in enumerate(answer.sentences if answer else ()):
            say(console, line, "bold" if index == 0 else "")
        numbers, left_out = drop_columns(scores_table(c, wide=False), score_head(c), console.width)
        name = Text(f"{title(c)}, {split_of(c)}")
        table = RichTable(
            title=name, title_justify="left", title_style="bold", box=None, header_style="dim", padding=(0, GAP, 0, 0)
        )
        for column in numbers.columns:
            table.add_column(Text(column.name), justify="right" if column.kind else "left", no_wrap=bool(column.kind))
        for i, row in enumerate(numbers.rows):
            table.add_row(
                *map(Text, row), style="bold green" if i == numbers.best else "green" if i in numbers.tied else ""
            )
        console.print(table)
        if set(c.metrics) <= likelihood.SCORES.keys():
            say(console, f"Scored by {likelihood.LOSS_ONLY}.")
        if left_out:
            say(console, f"Columns that do not fit this terminal (see the page): {', '.join(left_out)}.", "dim")
        for line in findings.answer(c, prices):
            say(console, line)
        console.print()


def drop_columns(table: TextTable, ranked: str, width: int) -> tuple[TextTable, list[str]]:
    """The table without the columns that `width` has no room for, and their names: a number cut short would be wrong.

    Costs are dropped first, then scores from the right. The ranked score stays, and what is left of it.
    """

    def needed(at: int) -> int:
        cells = (table.columns[at].name, *(row[at] for row in table.rows))
        may_wrap = not table.columns[at].kind  # the name of a cell, which may be long
        return GAP + max(
            len(part) for cell in cells for part in (cell.split() if may_wrap and len(cell) > 20 else [cell])
        )

    names = [column.name for column in table.columns]
    first = next(at for at, name in enumerate(names) if name == ranked or name.startswith(f"{ranked} ("))
    scores = [at for at in range(len(names) - 1, first, -1) if names[at] not in (*COSTS, AGAINST_BEST)]
    spare, shown_columns = [names.index(name) for name in COSTS] + scores, list(range(len(names)))
    while spare and sum(map(needed, shown_columns)) > width:
        shown_columns.remove(spare.pop(0))
    columns = tuple(table.columns[at] for at in shown_columns)
    shown = dataclasses.replace(
        table, columns=columns, rows=[tuple(row[at] for at in shown_columns) for row in table.rows]
    )
    return shown, [name for at, name in enumerate(names) if at not in shown_columns]


def print_pending(
    console: Console, pending: list[tuple[RunRecord, str]], commands: dict[Path, str], limit: int = 12
) -> None:
    if not pending:
        return
    say(console, f"{plural(len(pending), 'run')} without a score here:", "bold")
    for run, why in pending[:limit]:
        say(console, f"  {run.name} ({why})", "yellow")
        say(console, f"    {commands[run.folder]}")
    if len(pending) > limit:
        say(console, f"  and {len(pending) - limit} more; the page lists them all.")


def print_others(console: Console, count: int, folder: Path) -> None:
    """What is on the page and was not printed, and the command that prints it."""
    if count:
        command = " ".join(["llama-exp report", *map(shell_quoted, outputs_option(folder))])
        say(console, f"{plural(count, 'other comparison')}: {command}")
