"""What the runs say: a table, a page and pictures from the results on disk.

    python -m llama_exp.report             # outputs/report/index.html, *.png, runs.csv
    python -m llama_exp.report FOLDER --metric squad/exact_match --settings conf/report.yaml

The table is printed at once; the pictures follow. Nothing here needs a model, a GPU or the network.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from llama_exp.config import command_line
from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.report import captions, costs, findings, items, words
from llama_exp.report.costs import Prices
from llama_exp.report.families import families
from llama_exp.report.grouping import comparisons
from llama_exp.report.page import Picture, Pictures, panel_notes, render
from llama_exp.report.results import (
    Evaluation,
    Run,
    Unread,
    asked_of,
    collect,
    identity_among,
    read_curve,
    stored_leaves,
)
from llama_exp.report.score_tables import Table, scores_table
from llama_exp.report.settings import Comparison
from llama_exp.report.spreadsheet import write_csv
from llama_exp.runs.files import atomic_write
from llama_exp.sanitize import clean

GAP = 2  # between columns
COSTS = ("trainable", "tokens", "memory", "training")  # the columns that a narrow terminal does without, in this order
EVALUATED = ("split", "eval_sample", "eval_seed")  # beside the data: what decides which items are answered


def report(
    folder: Path, metric: str | None = None, console: Console | None = None, prices: Prices | None = None
) -> Path:
    """Print the table and write `folder`/report/. Returns the page's path; UserError where there is nothing to report."""
    console = console or _console()
    runs, unread = collect(folder)
    if not runs:
        raise UserError(_nothing(folder, unread))
    compared = comparisons(runs, metric)
    if metric and not any(c.metric == metric for c in compared):
        known = sorted({m for c in compared for m in c.metrics})
        raise UserError(f"No evaluation has the metric {clean(metric)}. Known: {', '.join(known) or 'none yet'}.")
    home, prices = folder / "report", prices or costs.load()
    compared = weighed(compared, home / "items")
    pending = findings.pending(runs)
    print_tables(console, compared, prices)
    typed = {run.folder: next_command(run, folder, compared) for run, _ in pending}
    _print_pending(console, pending, typed)
    try:
        write_csv(home / "runs.csv", runs)
        pictures, unread_curves = draw(home, compared, runs, prices)
        studies, unread_studies = judged(folder, home)
        unread = unread + unread_curves + unread_studies
        shown = [(name, lines, link) for name, lines, _, link in studies]
        page = render(clean(folder), compared, runs, unread, pictures, pending, typed, prices, shown)
        with atomic_write(home / "index.html") as file:
            file.write(page)
    except OSError as error:
        raise UserError(f"Cannot write the report to {home}: {error.strerror or error}.") from None
    for name, _, brief, _ in studies:
        _say(console, f"People, in the study {name}: {brief}")
    for one in unread:
        _say(console, f"Not read: {clean(one.path)} ({one.reason})", "yellow")
    _say(console, f"Report: {home / 'index.html'}")
    return home / "index.html"


def judged(folder: Path, home: Path) -> tuple[list[tuple[str, list[str], str, str]], list[Unread]]:
    """(name, findings, the first with its caveat, link from `home`) of every study in which people judged; and those that cannot
    be read."""
    if next(folder.glob("**/study.json"), None) is None:
        return [], []
    from llama_exp.human.report import included  # statistics and the ratings' store

    found, unread = included(folder)
    return [(name, lines, brief, quote(os.path.relpath(page, home))) for name, lines, brief, page in found], unread


def weighed(compared: list[Comparison], cache: Path) -> list[Comparison]:
    """The comparisons with what their items tell. Predictions are read once; what was read is kept in `cache`."""
    if not any(c.settings() for c in compared):
        return compared
    from llama_exp.report.worth import weigh  # scipy: a second

    read = cache_of_this_report(cache)
    return [weigh(c, read) for c in compared]


def cache_of_this_report(folder: Path) -> Callable[[Evaluation], items.Items | str]:
    """`items.read` that reads nothing twice: an untuned model stands in several comparisons."""
    known: dict[Path, items.Items | str] = {}

    def read(evaluation: Evaluation) -> items.Items | str:
        if evaluation.folder not in known:
            known[evaluation.folder] = items.read(evaluation, folder)
        return known[evaluation.folder]

    return read


def print_tables(console: Console, compared: list[Comparison], prices: Prices = Prices()) -> None:  # noqa: B008  frozen
    """The finding, then a row per setting; as `report` prints it."""
    for c in compared:
        numbers, left_out = fitting(scores_table(c, wide=False), c.metric, console.width)
        name = Text(f"{words.title(c)}, {words.split_of(c)}")
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
        if left_out:
            _say(console, f"Too wide for this terminal, and on the page: {', '.join(left_out)}.", "dim")
        for line in findings.answer(c, prices):
            _say(console, line)
        console.print()


def fitting(table: Table, drawn: str, width: int) -> tuple[Table, list[str]]:
    """The table without the columns that `width` has no room for, and their names: a number cut short is a wrong one.

    What a run cost goes first, then scores from the right. The drawn score stays, and what is left of it.
    """

    def needed(at: int) -> int:
        cells = (table.columns[at].name, *(row[at] for row in table.rows))
        may_wrap = not table.columns[at].kind  # the name of a setting, which may be long
        return GAP + max(
            len(part) for cell in cells for part in (cell.split() if may_wrap and len(cell) > 20 else [cell])
        )

    names = [column.name for column in table.columns]
    first = next(at for at, name in enumerate(names) if name.startswith(drawn))
    scores = [at for at in range(len(names) - 1, first, -1) if names[at] not in (*COSTS, "against the best")]
    spare, kept = [names.index(name) for name in COSTS] + scores, list(range(len(names)))
    while spare and sum(map(needed, kept)) > width:
        kept.remove(spare.pop(0))
    columns = tuple(table.columns[at] for at in kept)
    shown = dataclasses.replace(table, columns=columns, rows=[tuple(row[at] for at in kept) for row in table.rows])
    return shown, [name for at, name in enumerate(names) if at not in kept]


def _print_pending(console: Console, pending: list[tuple[Run, str]], typed: dict[Path, str], limit: int = 12) -> None:
    if not pending:
        return
    _say(console, f"{plural(len(pending), 'run')} without a score here:", "bold")
    for run, why in pending[:limit]:
        _say(console, f"  {run.name} ({why})", "yellow")
        _say(console, f"    {typed[run.folder]}")
    if len(pending) > limit:
        _say(console, f"  and {len(pending) - limit} more; the page lists them all.")


def next_command(run: Run, folder: Path, compared: list[Comparison]) -> str:
    """What to type to continue a run, or to evaluate it on what the other runs on its data answered."""
    try:
        leaves = stored_leaves(run.folder / "config.yaml")
    except (OSError, ValueError, RecursionError):
        leaves = {}
    place = command_line.folder_options(run.folder, run.dataset, folder, leaves.get("out"))
    if run.status not in ("finished", "stopped early"):
        return command_line.command("train.py", leaves or run.identity, *place)
    own = identity_among(leaves) or run.identity
    asked = {key: leaves[key] for key in EVALUATED if key in leaves}
    for c in compared:
        others = (
            asked_of(c.settings()[0][1].scored[0].evaluation) if c.settings() and c.trained_on == run.dataset else {}
        )
        if all(others.get(key) == own.get(key) for key in ("dataset.name", "dataset.source", "dataset.path")):
            asked = {key: others[key] for key in EVALUATED if key in others}
            break
    return command_line.command("evaluate.py", own | asked, *place)


def draw(home: Path, compared: list[Comparison], runs: list[Run], prices: Prices) -> tuple[Pictures, list[Unread]]:
    """All figures, as PNG files in `home` and as SVG for the page."""
    from llama_exp.report import drawing, plots, training_plots

    files: dict[str, None] = {}

    def picture(file_name: str, figure, label: str, **kept) -> Picture:
        stem = re.sub(r"[^A-Za-z0-9._]+", "-", file_name)[:80].strip("-.")
        while f"{stem}.png" in files:
            stem += "-2"
        files[f"{stem}.png"] = None
        with atomic_write(home / f"{stem}.png", "wb") as file:
            file.write(drawing.png(figure))
        return Picture(drawing.svg(figure, len(files), label), **kept)

    drawn: dict[int, list[Picture]] = {}
    spent: dict[int, Picture] = {}
    for i, c in enumerate(compared):
        for panel in c.panels:
            if c.best() and panel.settings:
                name, caption = words.panel_name(panel, c), captions.caption(panel, c)
                drawn.setdefault(i, []).append(
                    picture(
                        f"score-{words.title(c)}-{c.metric}-{name}",
                        plots.scores(panel, c),
                        caption,
                        name=name,
                        caption=caption,
                        notes=panel_notes(panel, c, runs, home.parent),
                    )
                )
        if sum(s.rank > 0 for _, s, _ in costs.priced(c, prices)) > 1:
            caption = captions.cost_caption(c, prices)
            front = {s.key for _, s, _ in costs.front(c, prices)}
            unit = prices.currency if costs.axis(c, prices) == "money" else "seconds"
            spent[i] = picture(
                f"cost-{words.title(c)}-{c.metric}",
                plots.costs(costs.priced(c, prices), front, c, unit),
                caption,
                caption=caption,
                notes=captions.cost_notes(c),
            )
    curves, unread = {}, []
    for run in runs:
        curves[run.folder], problems = read_curve(run)
        unread += problems
    losses, groups = [], families(runs)
    for family in groups:
        name = training_plots.family_name(family, groups)
        stem = f"loss-{name}" if name else f"loss-{family.dataset}-{family.model}"
        caption = captions.losses_caption({r.name: curves[r.folder] for r in family.runs})
        losses += [
            picture(stem, figure, caption, name=name, caption=caption, width=figure.get_figwidth() * 5)
            for figure in training_plots.losses(family, curves)
        ]
    time, bars = None, training_plots.bars(runs)
    if bars:
        caption = captions.time_caption(bars, training_plots.BARS)
        time = picture("seconds", training_plots.time_spent(bars), caption, caption=caption)
    for old in home.glob("*.png"):
        if old.name not in files and re.match(r"(score-|cost-|loss-|seconds)", old.name):
            old.unlink()
    return Pictures(drawn, spent, losses, time, tuple(files)), unread


def _nothing(folder: Path, unread: list[Unread]) -> str:
    what = f"No runs in {clean(folder)}" + ("." if folder.is_dir() else ": there is no such folder.")
    read = [f"Not read: {clean(u.path)} ({u.reason})" for u in unread if Path(u.path) != folder]
    return "\n".join(
        [
            what,
            *read,
            "Make one first: python train.py experiment=quickstart",
            "or name another folder: python -m llama_exp.report FOLDER",
        ]
    )


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and console.width < 200:
        console.width = 200  # a log has no width of its own; in 80 columns few of the scores would have room
    return console


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m llama_exp.report", description="Table, page and pictures from results.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="where the runs are (default: outputs)")
    parser.add_argument("--metric", help="the score to draw (default: the dataset's own)")
    parser.add_argument(
        "--settings", type=Path, default=costs.SETTINGS, help="prices and targets (default: conf/report.yaml)"
    )
    asked = parser.parse_args(arguments)
    try:
        report(asked.folder, asked.metric, prices=costs.load(asked.settings))
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0
