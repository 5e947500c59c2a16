"""What the runs say: a table, a page and pictures from the results on disk.

    python -m llama_exp.report             # outputs/report/index.html, *.png, runs.csv
    python -m llama_exp.report FOLDER --metric squad/exact_match --settings conf/report.yaml

The table is printed at once; the pictures follow. Nothing here needs a model, a GPU or the network.
"""

import argparse
import sys
from pathlib import Path

from llama_exp.errors import UserError
from llama_exp.report import costs
from llama_exp.report.load import UnreadFile
from llama_exp.report.write import ExtraSection, write_report


def study_sections(folder: Path) -> tuple[list[ExtraSection], list[UnreadFile]]:
    """What people preferred in every study below a folder, and the studies that cannot be read."""
    if next(folder.glob("**/study.json"), None) is None:
        return [], []
    from llama_exp.human.report import report_studies  # statistics and the ratings' store

    return report_studies(folder)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m llama_exp.report", description="Table, page and pictures from results.")
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="where the runs are (default: outputs)")
    parser.add_argument("--metric", help="the score to draw (default: the dataset's own)")
    parser.add_argument(
        "--settings", type=Path, default=costs.SETTINGS, help="prices and targets (default: conf/report.yaml)"
    )
    asked = parser.parse_args(arguments)
    try:
        sections, unread = study_sections(asked.folder)
        write_report(asked.folder, asked.metric, costs.load(asked.settings), extra_sections=sections, unread=unread)
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0
