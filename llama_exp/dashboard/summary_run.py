"""The run that ends a sweep on W&B: the answer, the learning curve as table and chart, the report page as artifact.

It has the sweep's group and job_type "sweep". The same sweep again goes on with the same run.
"""

import contextlib
import dataclasses
import io
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from llama_exp.dashboard import chart
from llama_exp.dashboard.answers import load_answers
from llama_exp.dashboard.save import SECONDS, create_chart, memory
from llama_exp.report.answer import Answer, Estimate
from llama_exp.runs.files import write_json
from llama_exp.sanitize import as_dict, as_text, clean
from llama_exp.tracking.description import TAG_LENGTH
from llama_exp.tracking.wandb import mode, own_settings

PAGE = ("index.html", "*.png")  # of report/
LINES = "wandb/lineseries/v0"  # W&B's own chart, without error bars: any server has it


def log_summary_run(outputs: Path, sweep: str, settings: Mapping[str, Any]) -> None:
    """settings: those of logger=wandb. Raises UserError where there is no answer."""
    answers = load_answers(outputs)
    with contextlib.redirect_stderr(io.StringIO()), _start(outputs / "report", sweep, settings, answers) as run:
        where = run.url or f"offline; upload it with: llama-exp sync {clean(outputs)}"
        preset = _preset(run)
        for answer in answers:
            run.summary.update(numbers(answer))
            run.log({chart.key(answer): vega_chart(answer, preset)})
        run.log({f"report/{path.stem}": wandb.Image(str(path)) for path in outputs.glob("report/score-*.png")})
        run.log_artifact(report_artifact(outputs / "report", sweep, answers))
    print(f"Summary run: {where}", flush=True)


def _start(folder: Path, sweep: str, settings: Mapping[str, Any], answers: list[Answer]) -> Any:
    datasets = dict.fromkeys(answer.dataset for answer in answers)
    return wandb.init(
        entity=settings.get("entity"),
        project=settings.get("project"),
        mode=mode(settings),
        dir=str(folder),
        id=_run_id(folder, sweep),
        resume="allow",
        name=f"answer of sweep {sweep}",
        group=sweep,
        job_type="sweep",
        tags=[*(clean(name, TAG_LENGTH) for name in datasets), f"sweep:{sweep}"],
        config={"sweep": sweep, "dataset": {"name": ", ".join(datasets)}},
        settings=wandb.Settings(silent=True, **own_settings()),
    )


def _run_id(folder: Path, sweep: str) -> str:
    """Remembered, so that it is the same run in the same folder and nobody else's."""
    path, known = memory(folder)
    runs = as_dict(known, "summary runs")
    if not as_text(runs, sweep):
        runs[sweep] = secrets.token_hex(8)
        write_json(path, {**known, "summary runs": runs})
    return as_text(runs, sweep)


def numbers(answer: Answer) -> dict[str, Any]:
    """`answer/squad-test/rank` and so on, for the summary; what is not known is left out."""
    found: dict[str, Any] = {"text": "\n".join(answer.sentences), "metric": answer.metric, "untuned": answer.untuned}
    if best := answer.recommended:
        found |= {"rank": best.rank, "examples": best.examples, "sure": best.sure, **_estimate(best.score)}
    prefix = f"answer/{answer.dataset}-{answer.split}"
    return {f"{prefix}/{name}": value for name, value in found.items() if value is not None}


def _estimate(score: Estimate | None) -> dict[str, float]:
    return {"score": score.value, "score_low": score.low, "score_high": score.high} if score else {}


def _preset(run: Any) -> str:
    """The chart's name on the server; "" where the entity is not known yet, or the chart cannot be made there."""
    entity = run.entity or run.settings.entity
    if run.offline or not entity:
        return f"{entity}/{chart.PRESET}" if entity else ""
    try:
        create_chart(wandb.Api(timeout=SECONDS), entity)
    except Exception as error:  # the table is there all the same
        print(f"The chart with error bars could not be made on W&B ({clean(error)}).", flush=True)
        return ""
    return f"{entity}/{chart.PRESET}"


def vega_chart(answer: Answer, preset: str) -> Any:
    table = wandb.Table(columns=chart.COLUMNS, data=[list(row.values()) for row in chart.rows(answer)])
    texts = chart.titles(answer)
    if preset:
        return wandb.plot_table(preset, table, {name: name for name in chart.COLUMNS}, texts)
    lines = {"step": "examples", "lineVal": "score", "lineKey": "rank"}
    return wandb.plot_table(LINES, table, lines, {"title": texts["title"], "xname": texts["x_title"]})


def report_artifact(folder: Path, sweep: str, answers: list[Answer]) -> wandb.Artifact:
    """The page and its figures, the answers, and the chart of each with its rows inside (any Vega-Lite viewer)."""
    artifact = wandb.Artifact(f"report-{sweep}", type="report", metadata={"sweep": sweep})
    for path in sorted(path for pattern in PAGE for path in folder.glob(pattern)):
        artifact.add_file(str(path), path.name)
    files = {"answer.json": {"answers": [dataclasses.asdict(answer) for answer in answers]}}
    files |= {f"{chart.key(answer)}.vl.json": chart.vega_lite(answer) for answer in answers}
    for name, content in files.items():
        with artifact.new_file(name) as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
    return artifact
