"""The saved view and the report of a sweep, as wandb-workspaces describes them.

    view_of(answers, place)      -> Workspace    panels over all runs of the sweep
    report_of(answers, place)    -> Report       the answer in words, and the same panels below it

Both read what runs log: `examples`, `lora.r`, `optimizer.lr` of the config, `loss`, `validation_loss` and `tokens`,
scores by split (`test/squad/f1`), and the learning curve of the sweep's summary run (summary_run.py).
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from llama_exp.dashboard import chart
from llama_exp.report.answer import Answer

VIEW_NAME = "llama_exp"
REPORT_TITLE = "How much data and how much rank"  # a part of its address: no dataset's name, which may hold anything
RANK = wr.Config("lora.r")


@dataclass(frozen=True, slots=True)
class Place:
    """Where on the server, and which runs; sweep "": all runs of the project."""

    entity: str
    project: str
    sweep: str = ""

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"

    @property
    def filters(self) -> list:
        return [ws.Tags().isin([f"sweep:{self.sweep}"])] if self.sweep else []


def score_key(answer: Answer) -> str:
    """What runs call the score in their summary: `test/squad/f1`."""
    return f"{answer.split}/{answer.metric}"


def view_of(answers: list[Answer], place: Place, view: ws.Workspace | None = None) -> ws.Workspace:
    """A new view, or `view` with its sections and its filter renewed; what a user set beside them stays."""
    view = view or ws.Workspace(entity=place.entity, project=place.project, name=VIEW_NAME)
    view.sections = [
        ws.Section(
            name=f"{answer.title}, {answer.split}",
            is_open=True,
            panels=[wr.MarkdownPanel(markdown=answer_markdown(answer)), *panels(answer, place)],
            layout_settings=ws.SectionLayoutSettings(columns=3, rows=3),
        )
        for answer in answers
    ]
    view.runset_settings = dataclasses.replace(
        view.runset_settings,
        filters=place.filters,
        # cells, not ranks: a group is one point of the scatter plots
        groupby=[ws.Config("lora.r"), ws.Config("sample")],
        pinned_columns=["config:sample.value", "config:lora.value.r", *(f"summary:{score_key(a)}" for a in answers)],
    )
    return view


def report_of(answers: list[Answer], place: Place, report: wr.Report | None = None) -> wr.Report:
    """A new report, or `report` with its blocks renewed."""
    report = report or wr.Report(entity=place.entity, project=place.project, title=REPORT_TITLE)
    report.width = "fluid"
    report.blocks = [block for answer in answers for block in _blocks(answer, place)]
    return report


def _blocks(answer: Answer, place: Place) -> list[Any]:
    runs = wr.Runset(  # of the report's own project: naming it would ask the server for its number
        name=f"sweep {place.sweep}" if place.sweep else "all runs",
        filters=place.filters,
        groupby=["config.lora.r", "config.sample"],
    )
    return [
        wr.H1(f"{answer.title}, {answer.split}"),
        *(wr.P(sentence) for sentence in answer.sentences),
        wr.PanelGrid(runsets=[runs], panels=panels(answer, place)),
    ]


def answer_markdown(answer: Answer) -> str:
    """The sentences as they are: names and commands in them have underscores and asterisks."""
    return "\n\n".join(
        ["## The answer", *(re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", sentence) for sentence in answer.sentences)]
    )


def panels(answer: Answer, place: Place) -> list[Any]:
    score = wr.SummaryMetric(score_key(answer))
    label = chart.score_label(answer)
    found = [
        curve(answer, place, {}),
        curve(answer, place, {"examples": "seconds"}, title=f"{label} against cost", x_title="seconds of training"),
        wr.ScatterPlot(
            title=f"{label} against examples, by rank", x=wr.Config("examples"), y=score, z=RANK, log_x=True
        ),
        wr.ScatterPlot(
            title=f"{label} against tokens trained on", x=wr.SummaryMetric("tokens"), y=score, z=RANK, log_x=True
        ),
        wr.ParallelCoordinatesPlot(
            title="Sample, rank and learning rate to score",
            columns=[
                wr.ParallelCoordinatesPlotColumn(wr.Config("examples"), display_name="examples", log=True),
                wr.ParallelCoordinatesPlotColumn(RANK, display_name="rank", log=True),
                wr.ParallelCoordinatesPlotColumn(wr.Config("optimizer.lr"), display_name="learning rate", log=True),
                wr.ParallelCoordinatesPlotColumn(score, display_name=label, inverted=answer.lower_is_better),
            ],
        ),
        losses("loss", "Training loss by rank"),
        losses("validation_loss", "Validation loss by rank"),
        wr.WeavePanelSummaryTable(table_name=f"{answer.split}/replies"),
    ]
    return [dataclasses.replace(panel, layout=_tile(number)) for number, panel in enumerate(found)]


def _tile(number: int) -> wr.Layout:
    """Three in a row of a report's 24 columns; a view arranges its panels itself."""
    return wr.Layout(x=8 * (number % 3), y=8 * (number // 3), w=8, h=8)


def curve(answer: Answer, place: Place, columns: dict[str, str], **texts: str) -> wr.CustomChart:
    """The chart with error bars, drawn from the summary run's table. columns: {field of the chart: other column}."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": chart.table_key(answer)}},
        chart_name=f"{place.entity}/{chart.PRESET}",
        chart_fields={name: name for name in chart.COLUMNS} | columns,
        chart_strings=chart.titles(answer) | texts,
    )


def losses(name: str, title: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=title, x="Step", y=[name], groupby=RANK, groupby_aggfunc="mean", groupby_rangefunc="minmax"
    )
