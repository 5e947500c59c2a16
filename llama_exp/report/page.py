"""The report as one HTML file: the finding first, then the figures, then everything it rests on.

templates/page.html.jinja puts lists of strings on the page, and escapes every one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from llama_exp.report import captions, findings, tables
from llama_exp.report.answer import Answer
from llama_exp.report.cells import Comparison
from llama_exp.report.costs import Prices
from llama_exp.report.figures.style import CSS
from llama_exp.report.labels import split_of, title
from llama_exp.report.load import RunRecord, UnreadFile
from llama_exp.report.templating import load_template

PAGE_COLOURS = ("--ink", "--muted", "--grid", "--paper")  # set in the template itself


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure: its SVG for the page, and the sentences around it."""

    svg: str
    name: str = ""
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class Pictures:
    scores: dict[int, list[Picture]] = field(default_factory=dict)  # index of the comparison -> its panels
    costs: dict[int, Picture] = field(default_factory=dict)
    losses: list[Picture] = field(default_factory=list)
    time: Picture | None = None
    files: tuple[str, ...] = ()


def render(
    folder: str,
    compared: list[Comparison],
    answers: list[Answer | None],
    runs: list[RunRecord],
    unread: list[UnreadFile],
    pictures: Pictures,
    pending: list[tuple[RunRecord, str]],
    commands: dict[Path, str],
    prices: Prices,
    studies: Sequence[tuple[str, Sequence[str], str]],
) -> str:
    """The whole page as one string. `studies`: (name, what people found, link to its page)."""
    differing, same = tables.identity_tables(runs)
    return load_template("page.html.jinja").render(
        folder=folder,
        sections=[_section(i, c, a, pictures, prices) for i, (c, a) in enumerate(zip(compared, answers, strict=True))],
        runs=len(runs),
        pending=pending,
        pending_table=tables.pending_table(pending, commands),
        studies=studies,
        losses=pictures.losses,
        losses_explained=captions.SAY.losses_explained(),
        time=pictures.time,
        dropped=tables.dropped_table(runs),
        dropped_explained=captions.dropped_explained(runs),
        differing=differing,
        same=same,
        versions=tables.versions_table(runs),
        unread=tables.unread_table(unread) if unread else None,
        pictures=pictures.files,
        colours={name: Markup(colour) for colour, name in CSS.items() if name not in PAGE_COLOURS},
    )


def _section(index: int, c: Comparison, answer: Answer | None, pictures: Pictures, prices: Prices) -> dict:
    """What the page shows of one comparison."""
    return {
        "title": title(c),
        "split": split_of(c),
        "answer": [*(answer.sentences if answer else ()), *findings.answer(c, prices)],
        "description": findings.description(c),
        "figures": pictures.scores.get(index, []),
        "table": tables.scores_table(c),
        "members": tables.runs_table(c),
        "curves": tables.curve_table(c, prices),
        "cost": pictures.costs.get(index),
        "costs": tables.cost_table(c, prices),
        "costs_explained": captions.costs_explained(c, prices),
        "best_of": sum(s.rank > 0 for _, s in c.cells()),
    }
