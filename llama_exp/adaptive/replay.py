"""Choose again what a sweep with a question chose, from report/decisions.jsonl and the folders of its runs.

python -m llama_exp.adaptive.replay [outputs]   exit code 1 where a decision comes out otherwise
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_exp.adaptive.plan import Plan
from llama_exp.adaptive.questions import question_of
from llama_exp.adaptive.scores import ScoredCell, items_of
from llama_exp.adaptive.search import DECISIONS
from llama_exp.adaptive.view import Views
from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.report.load import EvaluationRecord, load_runs
from llama_exp.sanitize import clean

LINE = {"question", "plan", "sample", "failed", "runs", "open", "running", "cell", "overrides"}


def replay(outputs: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """(a line of decisions.jsonl, the setting that is chosen now), by the seconds that the line says and the items in
    the runs' folders.

    Raises UserError where there is no such file, it cannot be read, or a run of it is gone or was scored anew.
    """
    path = outputs / "report" / DECISIONS
    if not path.is_file():
        raise UserError(f"{clean(path)} is missing: no sweep with a question ran here.")
    evaluated = {one.folder.resolve(): one for run in load_runs(outputs)[0] for one in run.evaluations}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            missing = LINE - line.keys()
        except (ValueError, AttributeError):
            missing = LINE
        if missing:
            raise UserError(f"{clean(path)}, line {number}: it is damaged, or of another version of this program.")
        plan = Plan(**{**line["plan"], "settings": tuple(line["plan"]["settings"])})
        question = question_of(**line["question"])
        cells = [_cell(run, outputs, evaluated) for run in line["runs"]]
        views = Views(plan, question, line["sample"])
        views.failed = set(line["failed"])
        yield line, views.best_next(cells, line["open"], line["running"])


def _cell(known: dict[str, Any], outputs: Path, evaluated: dict[Path, EvaluationRecord]) -> ScoredCell:
    folder = (outputs / known["evaluation"]).resolve()
    if folder not in evaluated:
        raise UserError(f"{clean(folder)} is gone.")
    evaluation, spent = evaluated[folder], known["seconds"]
    if evaluation.scores.get(known["metric"]) != known["score"]:
        raise UserError(f"{clean(folder)} was scored anew: {known['metric']} is not {known['score']} any more.")
    items = items_of(evaluation)
    return ScoredCell(
        known["setting"], known["seed"], folder.parents[1], evaluation, items, spent, spent, known["examples"]
    )


def main(outputs: str) -> int:
    other = 0
    for number, (line, chosen) in enumerate(replay(Path(outputs)), 1):
        same = chosen == line["cell"]
        other += not same
        said = "the same" if same else f"now {line['plan']['settings'][chosen]}"
        print(f"{number}. {' '.join(line['overrides'])}: {said}")
    print(f"{plural(other, 'decision')} came out otherwise." if other else "Every decision is the same.")
    return int(other > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(*(sys.argv[1:] or ["outputs"])[:1]))
    except UserError as error:
        sys.exit(str(error))
