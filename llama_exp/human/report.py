"""What came of a study: python -m llama_exp.human.report study=outputs/human/first

    report/index.html      the finding first, then what it rests on
    report/results.json    the same numbers
    report/ratings.csv     a row per rating, conditions named

People are compared with the metrics that the evaluations have. `metrics=bertscore` adds one that they have not; what it
computes is kept in the study's folder, so that only the first time is slow. The report can be made while raters are at work.
"""

import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_exp.cli.main import run_command
from llama_exp.errors import UserError
from llama_exp.human import agreement, analysis
from llama_exp.human import study as design
from llama_exp.human.analysis import Judged, Metrics
from llama_exp.human.keys import given
from llama_exp.human.metrics import CHEAP
from llama_exp.human.store import Store
from llama_exp.human.study import REFERENCE, Study
from llama_exp.records import Prediction
from llama_exp.report.load import UnreadFile
from llama_exp.report.runs_csv import FORMULA
from llama_exp.runs.files import atomic_write, write_json
from llama_exp.sanitize import clean

KEYS = {
    "study": ("FOLDER", "the folder of the study"),
    "metrics": (
        "bertscore,rouge",
        "what people are compared with beside what the evaluations have; computed once, may be slow",
    ),
}


@dataclass(frozen=True, slots=True)
class Comment:
    """What a rater wrote, beside what they said on that page."""

    rater: int
    place: int
    kind: str
    item: str
    said: str
    text: str


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the ratings of a study say."""

    preferences: list[analysis.Preference]
    reliable: list[analysis.Preference]  # without the raters who are `left_out`; empty if there are none
    scales: list[analysis.Scale]
    differences: list[tuple]
    agreements: list[agreement.Agreement]
    consistency: Any
    relations: list[analysis.Relation]
    raters: list[agreement.RaterSummary]
    unreliable: list[int]
    hurried: list[int]
    left_out: list[int]  # whom `reliable` is without: both, or the unreliable where nobody else remains
    comments: list[Comment]


def find(study: Study, judged: Sequence[Judged], metrics: Metrics) -> Findings:
    raters = agreement.rater_summaries(study, judged)
    unreliable, hurried = agreement.unreliable(raters), agreement.hurried(raters)
    doubtful = {*unreliable, *hurried}
    doubtful = doubtful if any(one.rater not in doubtful for one in judged) else {*unreliable}
    rest = [one for one in judged if one.rater not in doubtful]
    return Findings(
        preferences=[] if study.on_scales else analysis.preferences(study, judged),
        reliable=analysis.preferences(study, rest) if doubtful and not study.on_scales else [],
        scales=analysis.scales(study, judged) if study.on_scales else [],
        differences=analysis.differences(study, judged) if study.on_scales else [],
        agreements=agreement.agreements(study, judged),
        consistency=agreement.consistency(judged),
        relations=analysis.relations(study, judged, metrics),
        raters=raters,
        unreliable=unreliable,
        hurried=hurried,
        left_out=sorted(doubtful),
        comments=[
            Comment(one.rater, one.place, one.trial.kind, one.trial.item, spoken(one), one.rating.comment)
            for one in judged
            if one.rating.comment.strip()
        ],
    )


def spoken(one: Judged) -> str:
    """A rating in words: "tuned better", "equally good", or "untuned: fluency 4, helpfulness 2"."""
    if one.rating.scores:
        return f"{one.trial.left}: {', '.join(f'{scale} {value}' for scale, value in one.rating.scores.items())}"
    return f"{one.preferred} better" if one.preferred else "equally good"


def report(folder: Path, metrics: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """Write report/ into the study's folder; returns the page's path and the finding in sentences."""
    page, said, _ = written(folder, metrics)
    return page, said


def written(folder: Path, metrics: Sequence[str] = ()) -> tuple[Path, list[str], str]:
    """The same, with the finding and its first caveat in one line."""
    from llama_exp.human import report_text

    study = design.read(folder)
    judged = analysis.collect(study, Store(folder))
    found = find(study, judged, measured(folder, study, metrics))
    said = report_text.answer(study, found)
    home = folder / "report"
    write_csv(home / "ratings.csv", study, judged)
    results = {"settings": study.settings, "conditions": study.conditions, **dataclasses.asdict(found)}
    write_json(home / "results.json", results)
    with atomic_write(home / "index.html") as file:
        file.write(report_text.render(folder, study, found, said))
    return home / "index.html", said, report_text.brief(found)


def included(outputs: Path) -> tuple[list[tuple[str, list[str], str, Path]], list[UnreadFile]]:
    """For the main report, of every study below a folder, each reported anew: (its name, sentences, the finding with its first
    caveat in one line, its page); and what could not be read."""
    found, unread = [], []
    for path in sorted(Path(outputs).glob("**/study.json")):
        try:
            page, said, brief = written(path.parent)
            found.append((clean(path.parent.name), [clean(line, 2000) for line in said], clean(brief, 2000), page))
        except (UserError, OSError) as error:
            unread.append(UnreadFile(path, clean(error)))
    return found, unread


def measured(folder: Path, study: Study, asked: Sequence[str]) -> Metrics:
    """Automatic metrics per item: {score: {condition: {item: value}}}. Slow ones are kept in metrics.json."""
    from llama_exp.metrics import METRICS

    listed = {name for about in study.conditions.values() for name in about["metrics"]}
    path = folder / "metrics.json"
    kept: dict[str, dict] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in asked:
        if name not in kept and name not in CHEAP:
            kept[name] = scored(study, name)
            write_json(path, kept)
    cheap = [name for name in CHEAP if name in METRICS and (name == "squad" or name in listed or name in asked)]
    computed = [scored(study, name) for name in cheap] + list(kept.values())
    return {score: values for found in computed for score, values in found["scores"].items()}


def scored(study: Study, name: str) -> dict[str, Any]:
    """{"scores": one metric of every reply, "facts": how it was measured}.

    The reference itself is not scored, and items without one are left out.
    """
    from llama_exp.config.compose import default_config
    from llama_exp.metrics import measure

    section = getattr(default_config({}), name, None)  # a metric's part of conf/, where it has one
    scores: Metrics = {}
    facts = {}
    for condition, about in study.conditions.items():
        predictions = [
            Prediction(item.id, item.prompt, item.references, item.replies[condition], item.group)
            for item in study.items.values()
            if item.references
        ]
        if predictions and about["folder"] != REFERENCE:
            found = measure(name, predictions, {} if section is None else {name: section})
            facts = found.facts
            for score, values in found.items.items():
                pairs = zip(predictions, values, strict=True)
                scores.setdefault(score, {})[condition] = {prediction.id: float(value) for prediction, value in pairs}
    return {"scores": scores, "facts": facts}


def write_csv(path: Path, study: Study, judged: Sequence[Judged]) -> None:
    """A row per complete rating, raters by their number: names stay in ratings.sqlite.

    Text that a spreadsheet would compute gets an apostrophe in front.
    """
    scales = list(study.settings["scales"]) if study.on_scales else []
    heads = [
        "rater",
        "place",
        "kind",
        "item",
        "group",
        "left",
        "right",
        "verdict",
        "preferred",
        *scales,
        "comment",
        "seconds",
        "changes",
        "given",
    ]
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow([plain(head) for head in heads])
        for one in judged:
            trial, rating = one.trial, one.rating
            row = [
                one.rater,
                one.place,
                trial.kind,
                trial.item,
                one.group,
                trial.left,
                trial.right,
                rating.verdict,
                one.preferred,
                *(rating.scores.get(scale) for scale in scales),
                rating.comment,
                rating.seconds,
                one.given.changes,
                one.given.given,
            ]
            writer.writerow([plain(value) for value in row])


def plain(value: Any) -> Any:
    """A value that is what it looks like in a spreadsheet: no formula, no control character, one line."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = clean(value, 32_000)
    return f"'{text}" if text.lstrip(" '\"").startswith(tuple(FORMULA)) else text


def main() -> None:
    words = given(sys.argv[1:], "llama_exp.human.report", KEYS)
    metrics = [name for name in words.get("metrics", "").split(",") if name]
    page, said = report(Path(words["study"]), metrics)
    print("\n".join(said))
    print(f"Report: {page}")


if __name__ == "__main__":
    run_command(main)
