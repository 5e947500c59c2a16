"""The report in the terminal, in about ten lines of 80 columns: the answer, the leading cells, and the command to run
next. The page says what it rests on.
"""

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llama_exp.config.command_line import outputs_option, shell_quoted
from llama_exp.console import GAP, make_table, say, show
from llama_exp.formatting import plural
from llama_exp.metrics import likelihood
from llama_exp.report import findings
from llama_exp.report.answer import Answer
from llama_exp.report.cells import Comparison
from llama_exp.report.costs import Prices
from llama_exp.report.headline import twice_the_data
from llama_exp.report.labels import split_of, title
from llama_exp.report.load import RunRecord
from llama_exp.report.tables import AGAINST_BEST, TextTable, ordered_cells, score_head, scores_table

CELLS = 5  # in a table; the page has them all
PENDING = 3  # runs without a score that are named
COSTS = ("trainable", "tokens", "memory", "training")  # the columns that a narrow terminal drops first, in this order


def print_tables(
    console: Console,
    compared: list[Comparison],
    answers: Sequence[Answer | None] = (),
    prices: Prices = Prices(),  # noqa: B008  frozen
) -> None:
    """Of each comparison the answer, the leading cells, and the command to run next."""
    for c, answer in zip_longest(compared, answers):
        for index, line in enumerate(_answer(c, answer, prices)):
            say(console, line, "bold" if index == 0 else "")
        _print_cells(console, c)
        if set(c.metrics) <= likelihood.SCORES.keys():
            say(console, f"Scored by {likelihood.LOSS_ONLY}.")
        if answer and answer.next:
            show(console, f"Run next: {answer.next.command}")
        console.print()


def _answer(c: Comparison, answer: Answer | None, prices: Prices) -> list[str]:
    """The recommendation, what twice the data buys, and what is least known; without an answer the first finding."""
    if not answer:
        return findings.answer(c, prices)[:1]
    return [answer.sentences[0], *twice_the_data(answer, c), *answer.unknown[:1]]


def _print_cells(console: Console, c: Comparison) -> None:
    whole = scores_table(c, wide=False)
    numbers = drop_columns(leading_rows(whole, c), score_head(c), console.width)
    left_out = f", {len(numbers.rows)} of {len(whole.rows)} cells" if len(numbers.rows) < len(whole.rows) else ""
    table = make_table(f"{title(c)}, {split_of(c)}{left_out}")
    for column in numbers.columns:
        table.add_column(Text(column.name), justify="right" if column.kind else "left", no_wrap=bool(column.kind))
    for i, row in enumerate(numbers.rows):
        style = "bold green" if i == numbers.best else "green" if i in numbers.tied else ""
        table.add_row(*map(Text, row), style=style)
    console.print(table)


def leading_rows(table: TextTable, c: Comparison, limit: int = CELLS) -> TextTable:
    """The rows of the untuned model and of the best cells, in the order of the table."""
    rank = {cell.key: index for index, (_, cell) in enumerate(c.ranked())}
    cells = [cell for _, cell in ordered_cells(c)]
    by_score = sorted(range(len(cells)), key=lambda at: (cells[at].rank > 0, rank.get(cells[at].key, len(rank))))
    kept = sorted(by_score[:limit])
    return dataclasses.replace(
        table,
        rows=[table.rows[at] for at in kept],
        best=kept.index(table.best) if table.best in kept else None,
        tied=frozenset(kept.index(at) for at in table.tied if at in kept),
    )


def drop_columns(table: TextTable, ranked: str, width: int) -> TextTable:
    """The table without the columns that `width` has no room for: a number cut short would be wrong.

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
    return dataclasses.replace(
        table, columns=columns, rows=[tuple(row[at] for at in shown_columns) for row in table.rows]
    )


def print_pending(console: Console, pending: list[tuple[RunRecord, str]], commands: dict[Path, str]) -> None:
    if not pending:
        return
    say(console, f"{plural(len(pending), 'run')} without a score here:", "bold")
    for run, why in pending[:PENDING]:
        say(console, f"  {run.name} ({why})", "yellow")
        show(console, f"    {commands[run.folder]}")
    if len(pending) > PENDING:
        say(console, f"  and {len(pending) - PENDING} more; the page lists them all.")


def print_others(console: Console, count: int, folder: Path) -> None:
    """What is on the page and was not printed, and the command that prints it."""
    if count:
        command = " ".join(["llama-exp report", *map(shell_quoted, outputs_option(folder))])
        show(console, f"{plural(count, 'other comparison')}: {command}")
