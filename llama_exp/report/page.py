"""The report as one HTML file: the finding first, then the pictures, then everything it rests on.

What is computed here is plain lists of strings; `page.html` puts them on the page, and escapes every one of them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_exp.formatting import format_count, join_list, plural
from llama_exp.report import findings, labels
from llama_exp.report.cells import Comparison, Panel
from llama_exp.report.compare import AXES
from llama_exp.report.costs import Prices
from llama_exp.report.load import RunRecord, UnreadFile
from llama_exp.report.next_command import untuned_command
from llama_exp.report.tables import TextTable, columns, cost_table, cost_words, curve_table, runs_table, scores_table
from llama_exp.sanitize import as_dict, clean

LOSSES_WORDS = (
    "Pale lines are the loss on the training batches, strong lines with dots the loss on validation examples, which "
    "are not trained on. Where the strong line turns up while the pale one still falls, the run learned its examples "
    "by heart: more steps or more rank would not help there, more data might."
)
PAGE_COLOURS = ("--ink", "--muted", "--grid", "--paper")  # set in page.html itself


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure: its SVG for the page, and the words around it."""

    svg: str
    name: str = ""
    caption: str = ""
    notes: tuple[str, ...] = ()
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class Pictures:
    scores: dict[int, list[Picture]] = field(default_factory=dict)  # place of the comparison -> its panels
    costs: dict[int, Picture] = field(default_factory=dict)
    losses: list[Picture] = field(default_factory=list)
    time: Picture | None = None
    files: tuple[str, ...] = ()


def pending_table(pending: list[tuple[RunRecord, str]], typed: dict[Path, str]) -> TextTable:
    rows = [(run.name, why, typed.get(run.folder, "")) for run, why in pending]
    return TextTable(columns("run/", "why", "to go on, type`"), rows)


def dropped_table(runs: list[RunRecord]) -> TextTable | None:
    """What became of the training examples; runs with the same counts share a row."""
    rows: dict[tuple, list[str]] = {}
    for run in runs:
        train = as_dict(run.summary, "counts", "train")
        if train:
            flat = {k[8:].replace("_", " "): v for k, v in train.items() if k.startswith("dropped_")}
            dropped = _pairs(as_dict(train, "dropped") | flat) or "none"
            unread = _pairs(as_dict(run.summary, "counts", "dropped", "train")) or "none"
            counts = [format_count(_amount(train.get(k))) for k in ("available", "asked", "sampled", "encoded")]
            counts[1] = "all" if train.get("asked") is None else counts[1]
            more = [format_count(_amount(train.get(k))) for k in ("shortened", "answers_lost", "label_tokens")]
            cleaning = _pairs(as_dict(run.summary, "counts").get("cleaning")) or "nothing"
            rows.setdefault((run.dataset, *counts, dropped, *more, unread, cleaning), []).append(run.name)
    heads = columns(
        "dataset",
        "available#",
        "asked#",
        "sampled#",
        "encoded#",
        "dropped",
        "shortened#",
        "answers lost#",
        "answer tokens#",
        "rows left out",
        "cleaning changed",
        "runs/",
    )
    ordered = sorted(rows.items(), key=lambda row: (row[0][0], len(row[0][3]), row[0][3]))
    return TextTable(heads, [(*key, join_list(names, 2)) for key, names in ordered]) if rows else None


def dropped_words(runs: list[RunRecord]) -> str:
    counts = [as_dict(r.summary, "counts", "train") for r in runs if as_dict(r.summary, "counts", "train")]
    lost = max((_amount(c.get("answers_lost")) or 0 for c in counts), default=0)
    gone = max(((_amount(c.get("sampled")) or 0) - (_amount(c.get("encoded")) or 0) for c in counts), default=0)
    said = (
        f"At most {plural(int(gone), 'example')} of a sample did not reach training."
        if gone > 0
        else ("Every example that was asked for reached training.")
    )
    cut = f" In up to {plural(int(lost), 'prompt')} the answer was cut off with the context." if lost else ""
    return said + cut


def differing_tables(runs: list[RunRecord]) -> tuple[TextTable, TextTable]:
    """Identity keys with several values, and those with one. The untuned model has no training keys to differ in."""
    differing, same = [], []
    for key in sorted({k for r in runs for k in r.identity} - AXES):
        values = Counter(clean(r.identity[key], 80) for r in runs if key in r.identity)
        if len(values) > 1:
            differing.append((key, _counted(values)))
        else:
            same.append((key, next(iter(values))))
    return TextTable(columns("key", "values"), differing), TextTable(columns("key", "value"), same)


def made_with(runs: Iterable[RunRecord]) -> dict[str, Counter]:
    """Commit, device and versions, each with how many runs have which value."""
    made: dict[str, Counter] = {}
    for run in runs:
        details = run.evaluations[0].details if run.evaluations else {}
        versions = as_dict(run.summary, "versions") or as_dict(details, "versions")
        commit = run.summary.get("commit") or details.get("commit") or "not recorded"
        facts = {
            "commit": commit,
            "device": run.summary.get("device"),
            "weights held as": run.summary.get("quantisation"),
            **versions,
        }
        for key, value in facts.items():
            if value is not None:
                made.setdefault(key, Counter())[clean(value, 80)] += 1
    return made


def _counted(values: Counter) -> str:
    if len(values) == 1:
        return next(iter(values))
    return join_list((f"{v} ({plural(n, 'run')})" for v, n in values.most_common()), 8)


def panel_notes(panel: Panel, c: Comparison, runs: list[RunRecord], root: Path) -> tuple[str, ...]:
    """How to read the picture, and what else differs within it."""
    cells = [s for s in panel.cells if s.mean(c.metric) is not None]
    banded = [s for s in cells if s.interval(c.metric)]
    how = "Vertical bars" + (" and the grey band" if panel.baseline and panel.baseline.interval(c.metric) else "")
    runs_too = any(s.known.get(c.metric) and s.known[c.metric].shares for s in cells)
    how += f": where the score would likely lie with other test items{' and other training runs' if runs_too else ''}."
    notes = [how if banded else "No intervals are stored."]
    if banded and not runs_too:
        notes[0] += (
            " They hold the test set only; one training seed." if all(s.seeds(c.metric) == 1 for s in cells) else ""
        )
    if any(s.seeds(c.metric) > 1 for s in cells):
        notes[0] += " Marks are means over runs; small open dots are single runs."
    if c.standing and c.standing.worse:
        notes.append(
            "Filled marks share the first place: they cannot be told from the best. Open ones are shown to be worse."
        )
    if any(curve.trusted for curve in panel.curves.values()):
        notes.append(
            "Smooth lines are fitted learning curves with their 95 % bands; dashed, they lie beyond what was tried."
        )
    if not panel.baseline:
        notes.append(f"No untuned model to compare with. To add it: {untuned_command(panel.cells[0].scored[0], root)}")
    for key, by_rank in panel.follows_rank.items():
        values = join_list((f"{v} at rank {r}" for r, v in sorted(by_rank.items())), 6)
        notes.append(f"{key} differs between the lines: {values}.")
    members = {one.run.folder for s in cells for one in s.scored}
    for what, values in made_with(r for r in runs if r.folder in members).items():
        if len(values) > 1:
            notes.append(f"The runs here differ in {what}: {_counted(values)}.")
    if fewer := labels.dropped(cells):
        notes.append(fewer)
    missing = [s for s in cells if not s.examples]
    if missing:
        notes.append(f"{plural(len(missing), 'cell')} without a stored sample size: in the table only.")
    return tuple(notes)


def render(
    folder: str,
    compared: list[Comparison],
    runs: list[RunRecord],
    unread: list[UnreadFile],
    pictures: Pictures,
    pending: list[tuple[RunRecord, str]],
    typed: dict[Path, str],
    prices: Prices,
    studies: list[tuple[str, list[str], str]],
) -> str:
    """The whole page as one string. `studies`: (name, what people found, link to its page)."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from llama_exp.report.figures.style import CSS

    sections = []
    for i, c in enumerate(compared):
        sections.append(
            {
                "title": labels.title(c),
                "test": labels.split_of(c),
                "answer": findings.answer(c, prices),
                "words": findings.test_words(c),
                "figures": pictures.scores.get(i, []),
                "table": scores_table(c),
                "members": runs_table(c),
                "curves": curve_table(c, prices),
                "cost": pictures.costs.get(i),
                "costs": cost_table(c, prices),
                "cost_words": cost_words(c, prices),
                "best_of": sum(s.rank > 0 for _, s in c.cells()),
            }
        )
    differing, same = differing_tables(runs)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.render(
        folder=folder,
        sections=sections,
        runs=len(runs),
        pending=pending,
        pending_table=pending_table(pending, typed),
        studies=studies,
        losses=pictures.losses,
        losses_words=LOSSES_WORDS,
        time=pictures.time,
        dropped=dropped_table(runs),
        dropped_words=dropped_words(runs),
        differing=differing,
        same=same,
        versions=TextTable(columns("what", "value"), [(what, _counted(v)) for what, v in made_with(runs).items()]),
        unread=TextTable(columns("file", "why"), [(clean(u.path), u.reason) for u in unread]) if unread else None,
        pictures=pictures.files,
        colours={name: Markup(colour) for colour, name in CSS.items() if name not in PAGE_COLOURS},
    )


def _amount(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _pairs(value: Any) -> str:
    """{"too long": 2, "urls": {"rows": 3}} as "too long 2, urls rows 3"; zeros are left out."""
    if not isinstance(value, dict):
        return ""
    said = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            inner = _pairs(inner)
            said += [f"{key}: {inner}"] if inner else []
        elif inner:
            said.append(f"{key} {format_count(inner) if _amount(inner) is not None else clean(inner, 60)}")
    return ", ".join(said)
