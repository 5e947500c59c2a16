"""Choose again what a sweep with a question chose, from report/decisions.jsonl and the folders of its runs.

python -m llama_exp.adaptive.replay outputs     exit code 1 where a decision comes out otherwise
"""

import json
import os
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
from llama_exp.report.load import load_runs
from llama_exp.sanitize import clean


def replay(outputs: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """(a line of decisions.jsonl, the setting that is chosen now). Scores and seconds are those that the line says.

    Raises UserError where there is no such file, or a run of it is gone or was scored anew.
    """
    path = outputs / "report" / DECISIONS
    if not path.is_file():
        raise UserError(f"{clean(path)} is missing: no sweep with a question ran here.")
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        plan = Plan(**{**line["plan"], "settings": tuple(line["plan"]["settings"])})
        question = question_of(**line["question"])
        cells = [_cell(run, outputs) for run in line["runs"]]
        yield line, Views(plan, question, line["sample"]).best_next(cells, line["open"], line["running"])


def _cell(known: dict[str, Any], outputs: Path) -> ScoredCell:
    folder = Path(os.path.normpath(outputs / known["evaluation"]))
    run = folder.parent.parent
    records = [one for record in load_runs(run)[0] for one in record.evaluations if one.folder.name == folder.name]
    if not records:
        raise UserError(f"{clean(folder)} is gone.")
    if known["score"] not in records[0].scores.values():
        raise UserError(f"{clean(folder)} was scored anew: {known['score']} is not among its scores.")
    spent = known["seconds"]
    return ScoredCell(
        known["setting"], known["seed"], run, records[0], items_of(records[0]), spent, spent, known["examples"]
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
    sys.exit(main(sys.argv[1]))
