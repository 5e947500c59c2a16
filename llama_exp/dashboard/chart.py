"""The learning curve as a table, and as a Vega-Lite chart with error bars.

rows(answer)        what the table and the chart hold, a row per cell
vega_lite(answer)   the chart with its rows inside, for any viewer of Vega-Lite
preset()            the same chart as W&B stores it: a template whose rows come from the table of a run
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from llama_exp.metrics import describe
from llama_exp.report.answer import Answer, CellScore

COLUMNS = [*(field.name for field in dataclasses.fields(CellScore)), "untuned"]
# One name for the chart on a server. A change of what preset() draws needs a new one: presets are never changed there.
PRESET = "llama_exp_learning_curve_v1"


def key(answer: Answer) -> str:
    """What the summary run calls the chart; W&B stores its table beside it."""
    return f"learning_curve/{answer.dataset}-{answer.split}"


def table_key(answer: Answer) -> str:
    return f"{key(answer)}_table"


def score_label(answer: Answer) -> str:
    return describe(answer.metric).label


def rows(answer: Answer) -> list[dict[str, Any]]:
    """A cell each, by COLUMNS. A chart repeats the untuned score in every row, for its line."""
    return [{**dataclasses.asdict(cell), "untuned": answer.untuned} for cell in answer.cells]


def titles(answer: Answer) -> dict[str, str]:
    """What stands at the axes; where it says how a score was measured, of the answer."""
    items = f", {answer.items:,} items" if answer.items else ""
    return {
        "title": f"{answer.title}, {answer.split}{items}",
        "x_title": "training examples",
        "y_title": f"{score_label(answer)} (95 % interval)",
    }


def vega_lite(answer: Answer) -> dict[str, Any]:
    known = [row for row in rows(answer) if row["examples"]]
    return _chart({"values": known}, str, titles(answer).__getitem__) | {"width": 480, "height": 320}


def preset() -> dict[str, Any]:
    """W&B puts the columns of the table in for ${field:…}, and texts for ${string:…}."""
    return _chart({"name": "wandb"}, "${{field:{}}}".format, "${{string:{}}}".format) | {"autosize": "fit"}


def _chart(data: dict[str, Any], field: Callable[[str], str], text: Callable[[str], str]) -> dict[str, Any]:
    """Score against examples on a log axis, a line per rank; the untuned model is the dashed line.

    An interval that is not known leaves its bar out, an untuned model that was not scored its line.
    """
    log = {"type": "log", "nice": False, "padding": 30}
    size = {"field": field("examples"), "type": "quantitative", "scale": log, "title": text("x_title")}
    score = {"type": "quantitative", "scale": {"zero": False}, "title": text("y_title")}
    mean, low, high = {"field": field("score"), **score}, {"field": field("low"), **score}, {"field": field("high")}
    rank = {"field": field("rank"), "type": "ordinal", "title": "rank", "scale": {"scheme": "category10"}}
    untuned = {"y": {"field": field("untuned"), "aggregate": "max", **score}}
    label = {"x": {"value": 4}, "text": {"value": "untuned model"}}
    tooltip = [{"field": field(name), "type": "quantitative"} for name in ("rank", "examples", "runs", "score")]
    grey = {"color": "#777"}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": text("title"),
        "data": data,
        "layer": [
            {
                "transform": [_known(field("untuned"))],
                "layer": [
                    {"mark": {"type": "rule", "strokeDash": [6, 4], **grey}, "encoding": untuned},
                    {"mark": {"type": "text", "align": "left", "dy": -7, **grey}, "encoding": untuned | label},
                ],
            },
            {
                "transform": [_known(field("low"))],
                "mark": {"type": "errorbar", "ticks": True, "thickness": 1.5},
                "encoding": {"x": size, "y": low, "y2": high, "color": rank},
            },
            {
                "mark": {"type": "line", "point": {"filled": True, "size": 60}},
                "encoding": {"x": size, "y": mean, "color": rank, "tooltip": tooltip},
            },
        ],
    }


def _known(field: str) -> dict[str, str]:
    """Vega would draw a mark without a value at 0."""
    return {"filter": f"isValid(datum['{field}'])"}
