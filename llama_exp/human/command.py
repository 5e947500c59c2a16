"""The commands of a study: create it, serve the rating page, report what the raters found."""

from dataclasses import dataclass, fields
from pathlib import Path

from llama_exp.config.options import REQUIRED, option
from llama_exp.human.server import HOST, PORT, serve_study
from llama_exp.human.study import StudySettings


@dataclass
class CreateOptions(StudySettings):
    study: str = option(REQUIRED, "folder of the study", shown="FOLDER")
    conditions: dict[str, str] = option(
        {},
        "a condition: a folder that evaluate wrote, outputs/…/eval/…; two or more,\n"
        "or one and human=reference, the human reference",
        others=True,
        shown="NAME=EVALUATION",
    )


def create(options: CreateOptions) -> None:
    """Draw a blind study from finished evaluations, for human raters:

        llama-exp study create study=outputs/human/first tuned=EVALUATION untuned=EVALUATION items=50 raters=2

    Run again with more raters, it adds links; a study never changes otherwise. More: docs/human.md.
    """
    from llama_exp.human.create import create_study, describe_study  # scipy: a second

    settings = StudySettings(**{field.name: getattr(options, field.name) for field in fields(StudySettings)})
    folder = Path(options.study)
    print(describe_study(folder, create_study(folder, options.conditions, settings)))


@dataclass(frozen=True)
class ServeOptions:
    study: str = option(REQUIRED, "folder of the study", shown="FOLDER")
    host: str = option(HOST, "where to listen; 0.0.0.0: all who reach this machine, which needs open=true")
    port: int = option(PORT, "0: any that is free", maximum=65535)
    open: bool = option(False, "true: others on the network may reach the page, unencrypted")
    address: str = option(
        "", "what links begin with where a proxy stands in front: https://rate.example.org", shown="URL"
    )


def serve(options: ServeOptions) -> None:
    """Serve the rating page of a study and print a link for each rater:

        llama-exp study serve study=outputs/human/first

    Only this machine can reach the page. host=0.0.0.0 open=true lets others on the network in, without encryption: put
    a reverse proxy with TLS in front of anything that leaves the building.
    """
    serve_study(Path(options.study), options.host, options.port, options.open, options.address)


@dataclass(frozen=True)
class StudyReportOptions:
    study: str = option(REQUIRED, "folder of the study", shown="FOLDER")
    metrics: list[str] = option(
        [],
        "what raters are compared with, beside the metrics of the evaluations;\ncomputed once, may be slow",
        shown="bertscore,rouge",
    )


def report(options: StudyReportOptions) -> None:
    """Report a study, also while raters are at work:

        llama-exp study report study=outputs/human/first

    Writes FOLDER/report/: index.html (the findings first), results.json (the same numbers) and ratings.csv (a row per
    rating).
    """
    from llama_exp.human.report import report_study

    written = report_study(Path(options.study), options.metrics)
    print("\n".join([*written.sentences, f"Report: {written.page}"]))
