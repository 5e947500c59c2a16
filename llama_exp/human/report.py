"""Report what the raters of a study found:

    llama-exp study report study=outputs/human/first

    report/index.html      the findings first, then what they rest on
    report/results.json    the same numbers
    report/ratings.csv     a row per rating, conditions named

The report can be written while raters are at work.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from llama_exp.errors import UserError
from llama_exp.human import report_text
from llama_exp.human.analysis import Judgement, collect_judgements
from llama_exp.human.metrics import metric_scores
from llama_exp.human.results import analyse
from llama_exp.human.store import RatingStore
from llama_exp.human.study import STUDY, Study, read_study
from llama_exp.report.load import UnreadFile, find_marked
from llama_exp.report.write import ExtraSection
from llama_exp.runs.files import atomic_write, write_json
from llama_exp.sanitize import clean, spreadsheet_cell


def report_study(folder: Path, metrics: Sequence[str] = ()) -> ExtraSection:
    """Write report/ into the study's folder.

    metrics    automatic metrics to compare people with, beside those that are known already
    """
    study = read_study(folder)
    store = RatingStore(folder)
    store.check_study(study)
    judgements = collect_judgements(study, store)
    results = analyse(study, judgements, metric_scores(folder, study, metrics))
    sentences = report_text.sentences(results)
    home = folder / "report"
    write_ratings_csv(home / "ratings.csv", study, judgements)
    conditions = {name: dataclasses.asdict(condition) for name, condition in study.conditions.items()}
    settings = dataclasses.asdict(study.settings)
    write_json(home / "results.json", {"settings": settings, "conditions": conditions, **dataclasses.asdict(results)})
    with atomic_write(home / "index.html") as file:
        file.write(report_text.render_page(folder, study, results, sentences))
    return ExtraSection(folder.name, sentences, report_text.summary(results), home / "index.html")


def report_studies(root: Path) -> tuple[list[ExtraSection], list[UnreadFile]]:
    """Report every study below a folder, with texts cleaned for the main report; and what cannot be read."""
    reports: list[ExtraSection] = []
    unread: list[UnreadFile] = []
    for path in sorted(find_marked(Path(root), {STUDY}, [])):  # what refuses is said where runs are looked for
        try:
            report = report_study(path.parent)
        except (UserError, OSError) as error:
            unread.append(UnreadFile(path, clean(error)))
            continue
        sentences = [clean(sentence, 2000) for sentence in report.sentences]
        reports.append(ExtraSection(clean(report.name), sentences, clean(report.summary, 2000), report.page))
    return reports, unread


def write_ratings_csv(path: Path, study: Study, judgements: Sequence[Judgement]) -> None:
    """A row per complete rating, raters by their number: names stay in ratings.sqlite."""
    scales = list(study.settings.scales) if study.on_scales else []
    columns = "rater place kind item group left right verdict preferred".split()
    columns += [*scales, "comment", "seconds", "changes", "given"]
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow([spreadsheet_cell(name) for name in columns])
        for j in judgements:
            t, r = j.trial, j.rating
            row = [j.rater, j.page, t.kind, t.item, j.group, t.left, t.right, r.verdict, j.preferred]
            row += [r.scores.get(scale) for scale in scales]
            row += [r.comment, r.seconds, j.stored.changes, j.stored.saved]
            writer.writerow([spreadsheet_cell(value, 32_000) for value in row])


if __name__ == "__main__":  # until 0.3
    from llama_exp.cli.main import run_old_name

    run_old_name("llama_exp.human.report", "study report")
