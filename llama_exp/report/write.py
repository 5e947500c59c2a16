"""The report of a folder of runs, in four steps: load, compare, analyse, write.

write_report(Path("outputs"))    prints the tables; writes outputs/report/{index.html, answer.json, *.png, runs.csv}
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from llama_exp.console import make_console, say, show
from llama_exp.errors import UserError
from llama_exp.programs import program
from llama_exp.report import costs, findings
from llama_exp.report.answer import SCHEMA, Answer, answer_of
from llama_exp.report.cells import Comparison
from llama_exp.report.compare import comparisons
from llama_exp.report.costs import Prices
from llama_exp.report.items import EvaluationItems, load_items
from llama_exp.report.load import EvaluationRecord, UnreadFile, load_runs
from llama_exp.report.next_command import next_command
from llama_exp.report.question import AskedQuestion, load_question
from llama_exp.report.runs_csv import write_csv
from llama_exp.report.terminal import print_others, print_pending, print_tables
from llama_exp.runs.files import atomic_write, remove_leftovers, write_json
from llama_exp.sanitize import clean


@dataclass(frozen=True, slots=True)
class ExtraSection:
    """What another program found about these runs, such as what raters preferred.

    sentences  for the page
    summary    one line for the terminal
    page       the file that has more
    """

    name: str
    sentences: Sequence[str]
    summary: str
    page: Path


def write_report(
    folder: Path,
    metric: str | None = None,
    prices: Prices | None = None,
    console: Console | None = None,
    extra_sections: Sequence[ExtraSection] = (),
    unread: Sequence[UnreadFile] = (),
    first: Collection[Path] = (),
) -> Path:
    """Print the tables and write `folder`/report/.

    Args:
        metric: the score to rank by; default: the dataset's own.
        prices: default: conf/report.yaml.
        extra_sections: shown after the scores.
        unread: files that the caller could not read, to be listed with the report's own.
        first: folders of the runs of a sweep that has just ended: what compares them comes first on the page, and
            alone in the terminal.

    Returns:
        The path of the page. Raises UserError where there is nothing to report or it cannot be written.
    """
    console, prices, home = console or make_console(), prices or costs.load(), folder / "report"
    remove_leftovers(home)
    runs, unread_runs = load_runs(folder)
    if not runs:
        raise UserError(_nothing_found(folder, unread_runs))
    compared = comparisons(runs, metric)
    if metric and not any(c.metric == metric for c in compared):
        known = sorted({m for c in compared for m in c.metrics})
        raise UserError(f"No evaluation has the metric {clean(metric)}. Known: {', '.join(known) or 'none yet'}.")
    compared = analyse_all(compared, home / "items")
    compared, shown = in_front(compared, first)
    pending = findings.pending(runs)
    answers = [answer_of(c, prices, folder) for c in compared]
    asked, unread_question = load_question(home)
    print_tables(console, compared[:shown], answers[:shown], prices)
    commands = {run.folder: next_command(run, folder, compared) for run, _ in pending}
    mine = {path.resolve() for path in first}
    print_pending(console, [one for one in pending if not mine or one[0].folder.resolve() in mine], commands)
    print_others(console, len(compared) - shown, folder)
    try:
        write_csv(home / "runs.csv", runs)
        write_json(home / "answer.json", _answers_file(answers, asked))
        from llama_exp.report.figures.draw import draw_figures  # matplotlib: the tables are printed before it is loaded
        from llama_exp.report.page import render

        pictures, unread_curves = draw_figures(home, compared, runs, prices)
        unread = [*unread_runs, *unread_curves, *unread_question, *unread]
        sections = [(s.name, s.sentences, quote(os.path.relpath(s.page, home))) for s in extra_sections]
        with atomic_write(home / "index.html") as file:
            file.write(
                render(
                    clean(folder), compared, answers, runs, unread, pictures, pending, commands, prices, sections, asked
                )
            )
    except OSError as error:
        raise UserError(f"Cannot write the report to {home}: {error.strerror or error}.") from None
    for section in extra_sections:
        say(console, f"People, in the study {section.name}: {section.summary}")
    for one in unread:
        show(console, f"Not read: {clean(one.path)} ({one.reason})", "yellow")
    show(console, f"Report: {home / 'index.html'}")
    return home / "index.html"


def in_front(compared: list[Comparison], first: Collection[Path]) -> tuple[list[Comparison], int]:
    """The comparisons with a run of `first` in front of the others, and how many they are; all without one."""
    mine = {path.resolve() for path in first}
    own = [bool(mine & {one.run.folder.resolve() for one in c.runs() if one.run.rank}) for c in compared]
    if not any(own):  # only untuned models: they belong to every comparison on their items
        own = [bool(mine & {one.run.folder.resolve() for one in c.runs()}) for c in compared]
    if not any(own):
        return compared, len(compared)
    ordered = sorted(zip(own, compared, strict=True), key=lambda pair: not pair[0])
    return [c for _, c in ordered], sum(own)


def analyse_all(compared: list[Comparison], cache: Path) -> list[Comparison]:
    """Every comparison, analysed. Predictions are read once; what was read is stored in `cache`."""
    if not any(c.cells() for c in compared):
        return compared
    from llama_exp.report.analyse import analyse  # scipy: a second
    from llama_exp.report.forgetting import with_forgetting

    read = read_once(cache)
    return [with_forgetting(analyse(c, read), read) for c in compared]


def read_once(cache: Path) -> Callable[[EvaluationRecord], EvaluationItems | str]:
    """`load_items` that reads nothing twice: an untuned model is in several comparisons."""
    known: dict[Path, EvaluationItems | str] = {}

    def read(evaluation: EvaluationRecord) -> EvaluationItems | str:
        if evaluation.folder not in known:
            known[evaluation.folder] = load_items(evaluation, cache)
        return known[evaluation.folder]

    return read


def _answers_file(answers: Sequence[Answer | None], asked: AskedQuestion | None) -> dict:
    question = dataclasses.asdict(asked) if asked else None
    return {"schema": SCHEMA, "answers": [dataclasses.asdict(a) for a in answers if a], "question": question}


def _nothing_found(folder: Path, unread: list[UnreadFile]) -> str:
    what = f"No runs in {clean(folder)}" + ("." if folder.is_dir() else ": there is no such folder.")
    read = [f"Not read: {clean(u.path)} ({u.reason})" for u in unread if Path(u.path) != folder]
    return "\n".join(
        [
            what,
            *read,
            f"Make one first: {program('train')} experiment=quickstart",
            "or name another folder: llama-exp report FOLDER",
        ]
    )
