"""The commands that join several packages. What needs torch is imported when a run starts, so that --help is fast."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from llama_exp.config.schema import Config
from llama_exp.report.command import ReportOptions
from llama_exp.runs.run import Outcome
from llama_exp.session import Session

if TYPE_CHECKING:
    from llama_exp.report.load import UnreadFile
    from llama_exp.report.write import ExtraSection


def train(config: Config, session: Session) -> Outcome:
    """Fine-tune the run that the config describes; with preflight=true only forecast it."""
    if config.preflight:
        from llama_exp.preflight.forecast import preflight

        return preflight(config, session)
    from llama_exp.training.train import train

    return train(config, session)


def evaluate(config: Config, session: Session) -> Outcome:
    """Score the run that the config means on held-out data."""
    from llama_exp.evaluation.recipe import evaluate

    return evaluate(config, session)


def report(options: ReportOptions, first: Collection[Path] = ()) -> None:
    """Report all runs in a folder: which cell is best, how sure that is, and what it cost:

        llama-exp report
        llama-exp report outputs=elsewhere metric=squad/exact_match price_per_gpu_hour=2.50

    Prints a table and writes OUTPUTS/report/: index.html with the findings of human studies, the figures as PNG,
    runs.csv.
    """
    from llama_exp.report.write import write_report

    folder = Path(options.outputs)
    sections, unread = study_sections(folder)
    write_report(folder, options.metric, options.prices(), extra_sections=sections, unread=unread, first=first)


def study_sections(folder: Path) -> tuple[list["ExtraSection"], list["UnreadFile"]]:
    """What raters preferred in every study below a folder, and the studies that cannot be read."""
    from llama_exp.report.load import find_marked

    if next(find_marked(folder, {"study.json"}, []), None) is None:
        return [], []
    from llama_exp.human.report import report_studies  # statistics and the store of ratings

    return report_studies(folder)
