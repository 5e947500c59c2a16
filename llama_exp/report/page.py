"""The report as one HTML file: the finding first, then the figures, then everything it rests on.

templates/page.html.jinja puts lists of strings on the page, and escapes every one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_exp.report import captions, findings, tables
from llama_exp.report.answer import Answer
from llama_exp.report.cells import Comparison
from llama_exp.report.costs import Prices
from llama_exp.report.figures.style import page_colours
from llama_exp.report.headline import headline, large_numbers
from llama_exp.report.labels import panel_name, split_of, title
from llama_exp.report.load import RunRecord, UnreadFile
from llama_exp.report.next_command import use_commands
from llama_exp.report.question import AskedQuestion
from llama_exp.report.templating import load_template
from llama_exp.report.tuning import settings_table


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure: its SVG for the page, the same for a phone, and the sentences around it.

    command  what to type to add what is missing in it
    """

    svg: str
    narrow: str = ""
    name: str = ""
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    command: str = ""
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class Pictures:
    scores: dict[int, list[Picture]] = field(default_factory=dict)  # index of the comparison -> its panels
    costs: dict[int, Picture] = field(default_factory=dict)
    forgetting: dict[int, Picture] = field(default_factory=dict)
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
    asked: AskedQuestion | None,
) -> str:
    """The whole page as one string. `studies`: (name, what people found, link to its page)."""
    differing, same = tables.identity_tables(runs)
    return load_template("page.html.jinja").render(
        folder=folder,
        asked=asked,
        sections=[_section(i, c, a, pictures, prices) for i, (c, a) in enumerate(zip(compared, answers, strict=True))],
        runs=len(runs),
        pending=pending,
        pending_table=tables.pending_table(pending, commands),
        studies=studies,
        no_baseline=captions.SAY.no_baseline(),
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
        colours=page_colours(),
    )


def _section(index: int, c: Comparison, answer: Answer | None, pictures: Pictures, prices: Prices) -> dict:
    """What the page shows of one comparison."""
    best = c.best()
    leading = panel_name(best[0], c) if best else ""
    figures = pictures.scores.get(index, [])
    sentences, run_next = split_sentences(answer) if answer else ((), None)
    found, numbers = findings.answer(c, prices), large_numbers(answer, c) if answer else []
    return {
        "id": f"comparison-{index + 1}",
        "title": title(c),
        "split": split_of(c),
        "headline": headline(numbers) or (*sentences, *found)[0],
        "numbers": numbers,
        "answer": sentences,
        "next": run_next,
        "use": run_to_use(c, answer),
        "findings": found,
        "description": findings.description(c),
        "figures": sorted(figures, key=lambda one: one.name != leading),  # the best first
        "table": tables.scores_table(c),
        "members": tables.runs_table(c),
        "curves": tables.curve_table(c, prices),
        "forgetting": pictures.forgetting.get(index),
        "cost": pictures.costs.get(index),
        "costs": tables.cost_table(c, prices),
        "costs_explained": captions.costs_explained(c, prices),
        # the findings say how much the choice flatters
        "corrected": c.validated or bool(c.ranking and c.ranking.winner),
        "settings": [(panel_name(p, c), table) for p in c.panels if (table := settings_table(p, c))],
        "settings_explained": captions.SAY.settings_explained(),
        "best_of": len(c.cells()),
    }


def run_to_use(c: Comparison, answer: Answer | None) -> tuple[str, list[tuple[str, str]]] | None:
    """(its name, its commands): a run of the recommended cell where that was run, else of the best; None: untuned."""
    found = answer.recommended if answer else None
    if not (best := c.best()) or (found and found.rank == 0):
        return None
    panel, cell = best
    wanted = (found.rank, found.examples) if found else (cell.rank, cell.examples)
    cells = [one for one in panel.cells if (one.rank, one.examples) == wanted] or [cell]
    run = cells[0].runs[0].run
    return (run.name, use_commands(run)) if run.rank else None


def split_sentences(answer: Answer) -> tuple[tuple[str, ...], tuple[str, str, str] | None]:
    """The sentences without the one that holds the command to run next; and that one as (before, command, after)."""
    if not answer.next:
        return answer.sentences, None
    command, kept, found = answer.next.command, [], ("", answer.next.command, "")
    for sentence in answer.sentences:
        before, here, after = sentence.partition(command)
        if here:
            found = before.strip().rstrip(":"), command, after.strip()
        else:
            kept.append(sentence)
    return tuple(kept), found
