"""The answer on W&B: what is saved, read back from a server that keeps it; what is uploaded; what stays secret."""

import base64
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llama_exp.config.compose import load_config
from llama_exp.config.identity import sweep_id
from llama_exp.dashboard import chart
from llama_exp.dashboard.answers import last_sweep, load_answers
from llama_exp.dashboard.sweep_end import wandb_settings
from llama_exp.errors import UserError
from llama_exp.report.answer import SCHEMA, Answer, CellScore, Next, Recommended
from llama_exp.runs.lock import lock_folder
from llama_exp.tracking import usable_loggers
from tests.conftest import small
from tests.wandb_files import config_of, header, offline_files, records, summary
from tests.wandb_server import ENTITY, KEY, wandb_server

GRID = ["dataset=squad", "sample=30,100", "lora.r=1,16", "outputs=somewhere"]
SECRET = base64.b64encode(f"api:{KEY}".encode()).decode()


def cell(rank: int, examples: int | None, score: float, **of) -> CellScore:
    values = {"runs": 1, "low": score - 3, "high": score + 3, "seconds": 9.0, "money": None}
    return CellScore(rank=rank, examples=examples, score=score, **{**values, **of})


def answer(**of) -> Answer:
    return Answer(
        **{
            "dataset": "squad",
            "title": "SQuAD *and* [more]",
            "split": "test",
            "items": 300,
            "metric": "squad/f1",
            "lower_is_better": False,
            "untuned": 1.5,
            "recommended": Recommended(16, 100, None, 1.0, 0.9),
            "cells": (cell(1, 30, 20.0), cell(1, 100, 30.0), cell(16, 30, 25.0), cell(16, 100, 40.0)),
            "next": Next("python train.py sample=200 'outputs=/home/me/my runs'", 16, 200, None, None),
            "sentences": (
                "Rank 16 and 100 examples.",
                "Run next: python train.py sample=200 outputs=/home/me/runs (2 s)",
            ),
            **of,
        }
    )


def folder_of(folder: Path, *answers: Answer) -> Path:
    """A folder of results as far as a dashboard reads it."""
    (folder / "report").mkdir(parents=True)
    (folder / ".multirun").mkdir()
    stored = {"schema": SCHEMA, "answers": [dataclasses.asdict(one) for one in answers]}
    (folder / "report/answer.json").write_text(json.dumps(stored))
    (folder / ".multirun/multirun.yaml").write_text(json.dumps({"hydra": {"overrides": {"task": GRID}}}))
    return folder


def llama_exp(*words: str, address: str = "http://127.0.0.1:1", key: str = KEY, home: Path | None = None):
    """A real process: it reads another environment than the tests' own."""
    env = {"WANDB_BASE_URL": address, "WANDB_API_KEY": key, "HOME": str(home or "/nonexistent")}
    start = [sys.executable, "-c", ENVIRONMENT, *words]
    return subprocess.run(start, capture_output=True, text=True, input=json.dumps(env), timeout=240)


# Without the variables that the tests set, and without what is empty
ENVIRONMENT = """
import json, os, sys
os.environ.pop("WANDB_MODE", None)
os.environ.update({key: value for key, value in json.load(sys.stdin).items() if value})
os.execv(sys.executable, [sys.executable, "-m", "llama_exp", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(server, outputs, the output of both commands): a dashboard saved twice, with another answer the second time."""
    home = tmp_path_factory.mktemp("home")
    outputs = folder_of(home / "outputs", answer())
    with wandb_server() as (address, server):
        first = llama_exp("dashboard", f"outputs={outputs}", address=address, home=home)
        path = outputs / "report/answer.json"
        path.write_text(path.read_text().replace("Rank 16 and 100 examples.", "Rank 1 is enough."))
        words = [f"outputs={outputs}", f"entity={ENTITY}", "project=llama_exp"]
        second = llama_exp("dashboard", *words, address=address, home=home)
        yield server, outputs, (first, second), address


def assert_secret(server, folder: Path, *shown: str) -> None:
    """The key is in no file, no output, and no request but the header that is for it."""
    written = [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]
    sent = [body + path for path, _, body in server.requests]
    headers = [value for _, found, _ in server.requests for name, value in found.items() if name != "Authorization"]
    assert len(written) > 1 and len(sent) > 4
    for text in [*written, *sent, *headers, *shown]:
        assert KEY not in text and SECRET not in text


def view_of(server) -> dict:
    return next(json.loads(one["spec"]) for one in server.views.values() if one["type"] == "project-view")


def report_of(server) -> dict:
    return next(json.loads(one["spec"]) for one in server.views.values() if one["type"] == "runs")


def panels_of(spec: dict) -> list[dict]:
    if "section" in spec:
        return spec["section"]["panelBankConfig"]["sections"][0]["panels"]
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]


def of_type(spec: dict, kind: str) -> list[dict]:
    return [panel["config"] for panel in panels_of(spec) if panel["viewType"] == kind]


@pytest.mark.parametrize("spec", [view_of, report_of])
def test_the_saved_panels_show_score_and_loss_by_rank(saved, spec):
    spec = spec(saved[0])
    curve, cost = of_type(spec, "Vega2")
    assert curve["panelDefId"] == cost["panelDefId"] == f"{ENTITY}/{chart.PRESET}"
    assert (curve["fieldSettings"]["examples"], cost["fieldSettings"]["examples"]) == ("examples", "seconds")
    assert "learning_curve/squad-test_table" in json.dumps(curve["userQuery"])
    score = of_type(spec, "Scatter Plot")[0]
    axes = {name: score[name] for name in ("xAxis", "yAxis", "zAxis", "xAxisLogScale")}
    assert axes == {
        "xAxis": "config:examples.value",
        "yAxis": "summary:test/squad/f1",
        "zAxis": "config:lora.value.r",
        "xAxisLogScale": True,
    }
    columns = [column["accessor"] for column in of_type(spec, "Parallel Coordinates Plot")[0]["columns"]]
    assert columns == [
        "config:examples.value",
        "config:lora.value.r",
        "config:optimizer.value.lr",
        "summary:test/squad/f1",
    ]
    lines = of_type(spec, "Run History Line Plot")
    assert [(line["metrics"], line["groupBy"]) for line in lines] == [
        (["loss"], "lora.value.r"),
        (["validation_loss"], "lora.value.r"),
    ]
    assert "test/replies" in json.dumps(of_type(spec, "Weave"))


def test_view_and_report_hold_the_runs_of_the_sweep_grouped_by_cell(saved):
    grid = next(block for block in report_of(saved[0])["blocks"] if block["type"] == "panel-grid")
    for runs in (view_of(saved[0])["section"]["runSets"][0], grid["metadata"]["runSets"][0]):
        only = runs["filters"]["filters"]
        assert [(one["key"]["name"], one["value"]) for one in only] == [("tags", [f"sweep:{sweep_id(GRID)}"])]
        assert [one["name"] for one in runs["grouping"]] == ["lora.value.r", "sample.value"]


def test_saving_again_updates_the_same_view_and_report(saved):
    server, _, (first, second), _ = saved
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.replace("created", "updated") == second.stdout and "created" in first.stdout
    assert len(server.views) == 2 and list(server.charts) == [chart.PRESET]
    text = of_type(view_of(server), "Markdown Panel")[0]["value"]
    assert "Rank 1 is enough" in text and "Rank 16" not in text
    assert "Rank 1 is enough" in json.dumps(report_of(server))
    assert "/home/me" not in json.dumps([*server.views.values()])  # a folder of this machine


def test_a_deleted_view_is_made_again(saved, tmp_path):
    server, outputs, _, address = saved
    kept = dict(server.views)
    server.views.clear()
    done = llama_exp("dashboard", f"outputs={outputs}", address=address, home=tmp_path)
    assert done.returncode == 0 and done.stdout.count("created") == 2 and done.stdout.count("gone") == 2, done.stdout
    assert len(server.views) == 2
    server.views = kept


def test_the_chart_on_the_server_has_error_bars_and_the_untuned_line(saved):
    spec = json.loads(saved[0].charts[chart.PRESET])
    untuned, bars, lines = spec["layer"]
    assert bars["mark"]["type"] == "errorbar"
    assert (bars["encoding"]["y"]["field"], bars["encoding"]["y2"]["field"]) == ("${field:low}", "${field:high}")
    assert lines["encoding"]["x"]["scale"]["type"] == "log" and spec["data"] == {"name": "wandb"}
    assert {layer["encoding"]["y"]["field"] for layer in untuned["layer"]} == {"${field:untuned}"}


def test_the_key_is_in_no_file_and_no_body(saved):
    server, outputs, runs, _ = saved
    assert_secret(server, outputs.parent, *(done.stdout + done.stderr for done in runs))


def test_a_file_holds_the_same_without_account_and_network(saved, tmp_path):
    server, outputs, _, address = saved
    before = len(server.requests)
    path = tmp_path / "spec.json"
    words = [f"outputs={outputs}", f"json={path}", f"entity={ENTITY}"]
    done = llama_exp("dashboard", *words, address=address, key="", home=tmp_path)
    assert done.returncode == 0 and len(server.requests) == before, done.stderr
    written = json.loads(path.read_text())

    def contents(spec: dict) -> list[dict]:
        return [panel["config"] for panel in panels_of(spec)]

    assert contents(written["view"]) == contents(view_of(server))
    assert contents(written["report"]) == contents(report_of(server))
    assert written["chart"]["spec"] == json.loads(server.charts[chart.PRESET])


@pytest.mark.parametrize(
    ("words", "key", "wanted"),
    [
        (["entity=somebody"], KEY, "somebody/llama_exp could not be saved"),
        ([], "", "Not logged in"),
        ([], "f" * 40, "Cannot log in"),
        (["entiy=me"], KEY, "Did you mean entity?"),
    ],
)
def test_what_cannot_be_saved_is_one_line(saved, tmp_path, words, key, wanted):
    _, outputs, _, address = saved
    done = llama_exp("dashboard", f"outputs={outputs}", *words, address=address, key=key, home=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and wanted in done.stderr, done.stderr


@pytest.mark.slow
def test_no_server_is_one_line(saved, tmp_path):
    done = llama_exp("dashboard", f"outputs={saved[1]}", home=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Cannot log in" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "No answer"),
        ("{", "Invalid JSON"),
        ('{"schema": 1, "answers": [{"dataset": 3}]}', "answers.0.dataset"),
        ('{"schema": 9, "answers": []}', "schema 9"),
        ('{"schema": 1, "answers": []}', "two evaluated cells"),
    ],
)
def test_a_folder_without_an_answer_says_how_to_get_one(tmp_path, content, wanted):
    outputs = folder_of(tmp_path / "outputs")
    path = outputs / "report/answer.json"
    path.write_text(content) if content else path.unlink()
    with pytest.raises(UserError, match=wanted):
        load_answers(outputs)
    with pytest.raises(UserError, match="no such folder"):
        load_answers(tmp_path / "elsewhere")


def test_the_last_sweep_is_known_by_what_hydra_wrote(tmp_path):
    outputs = folder_of(tmp_path / "outputs")
    assert last_sweep(outputs) == sweep_id(GRID)
    (outputs / ".multirun/multirun.yaml").write_text("hydra: [")
    assert last_sweep(outputs) == last_sweep(tmp_path) == ""


def test_a_chart_leaves_out_what_is_not_known():
    spec = chart.vega_lite(answer(untuned=None, cells=(cell(1, None, 20.0), cell(1, 30, 20.0, low=None, high=None))))
    assert [row["examples"] for row in spec["data"]["values"]] == [30]  # no place on the axis
    filters = [layer["transform"][0]["filter"] for layer in spec["layer"][:2]]
    assert filters == ["isValid(datum['untuned'])", "isValid(datum['low'])"]


def marks(svg: str, layer: str) -> list[ElementTree.Element]:
    """What Vega drew of a layer of the chart."""
    groups = [one for one in ElementTree.fromstring(svg).iter() if layer in one.get("class", "").split()]
    return [one for group in groups for one in group]


def test_vega_draws_points_and_error_bars_of_each_rank():
    drawn = answer(cells=(*answer().cells, cell(16, 300, 50.0, low=None, high=None)))
    vl_convert = pytest.importorskip("vl_convert", reason="needs vl-convert-python: pip install -e '.[test]'")
    svg = vl_convert.vegalite_to_svg(chart.vega_lite(drawn))
    [untuned] = marks(svg, "layer_0_layer_0_marks")
    bars, lines, points = (
        marks(svg, f"{layer}_marks") for layer in ("layer_1_layer_2", "layer_2_layer_0", "layer_2_layer_1")
    )
    colours = {
        dict(part.split(": ") for part in one.get("aria-label").split("; "))["rank"]: one.get("stroke") for one in lines
    }
    assert colours.keys() == {"1", "16"} and len({*colours.values()}) == 2 and untuned.get("stroke-dasharray")
    for rank, count, known in (("1", 2, 2), ("16", 3, 2)):  # a score without an interval has a point and no bar
        own = [one for one in bars if one.get("stroke") == colours[rank]]
        assert len(own) == known and all(float(one.get("y2")) < -10 for one in own)
        assert sum(one.get("fill") == colours[rank] for one in points) == count
    places = {(one.get("aria-label").split(";")[0], one.get("transform").split(",")[0]) for one in (*bars, *points)}
    assert len(places) == 3  # a bar stands at its point


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A folder with two runs that were logged offline, one of them in two parts."""
    outputs = tmp_path_factory.mktemp("logged") / "outputs"
    code = """
import os, sys, time, wandb
for n, name in enumerate("aba"):
    os.makedirs(f"{sys.argv[1]}/{name}", exist_ok=True)
    quiet = wandb.Settings(silent=True, x_disable_stats=True, console="off")
    with wandb.init(project="p", dir=f"{sys.argv[1]}/{name}", id=f"run{name}", resume="allow", settings=quiet) as run:
        run.log({"loss": n})
    time.sleep(1.1)  # folders are named by the second
"""
    subprocess.run([sys.executable, "-c", code, str(outputs)], check=True, timeout=240)
    return outputs


def test_sync_uploads_offline_runs_once_and_in_order(logged, tmp_path):
    with wandb_server() as (address, server):
        tried = llama_exp("sync", f"outputs={logged}", "dry_run=true", address=address, home=tmp_path)
        assert (tried.returncode, server.requests) == (0, []), tried.stderr
        assert [line.split("-run")[-1] for line in tried.stdout.splitlines()] == ["a", "b", "a"]
        wrong = llama_exp("sync", f"outputs={logged}", "entity=somebody", address=address, home=tmp_path)
        assert wrong.returncode == 2 and "Nothing was uploaded" in wrong.stderr, wrong.stdout + wrong.stderr
        assert "Traceback" not in wrong.stderr and server.runs == []
        with lock_folder(logged / "b"):
            some = llama_exp("sync", f"outputs={logged}", address=address, home=tmp_path)
        assert some.returncode == 1 and "2 of 2 parts uploaded" in some.stdout, some.stdout + some.stderr
        losses = [json.loads(body) for path, _, body in server.requests if path.endswith("runa/file_stream")]
        rows = [row for one in losses for row in one.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])]
        assert [json.loads(row)["loss"] for row in rows] == [0, 2]
        rest = llama_exp("sync", f"outputs={logged}", address=address, home=tmp_path)
        assert rest.returncode == 0 and "1 of 1 part uploaded" in rest.stdout and "runb" in server.runs, rest.stderr
        sent = len(server.requests)
        again = llama_exp("sync", f"outputs={logged}", address=address, home=tmp_path)
        assert again.returncode == 0 and "3 parts of 3 uploaded before" in again.stdout
        assert len(server.requests) == sent
        assert_secret(server, logged, *(done.stdout + done.stderr for done in (tried, wrong, some, rest, again)))


def test_sync_without_offline_runs_or_account_is_one_line(logged, tmp_path):
    for outputs, key in ((tmp_path, KEY), (tmp_path / "none", KEY)):
        done = llama_exp("sync", f"outputs={outputs}", key=key, home=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "Nothing to upload" in done.stderr


def test_a_sweep_ends_with_a_summary_run(command):
    words = [*small(sample="8,16"), "evaluate=true", "logger=wandb", "dashboard=true", f"outputs={command.outputs}"]
    done = command("train.py", "-m", *words)
    sweep = sweep_id(words)
    assert "The dashboard was not saved" in done.stdout and "Not logged in" in done.stdout  # and the sweep went well
    (file,) = offline_files(command.outputs / "report")
    run = header(file)
    assert (run.run_group, run.job_type, run.project) == (sweep, "sweep", "llama_exp")
    assert f"sweep:{sweep}" in run.tags and config_of(file)["sweep"] == sweep
    (found,) = [one for one in load_answers(command.outputs) if one.split == "test"]
    assert summary(file)["answer/squad-test/text"] == "\n".join(found.sentences)
    (table,) = file.parent.glob("files/media/table/learning_curve/squad-test*.json")
    stored = json.loads(table.read_text())
    assert stored["columns"] == chart.COLUMNS and len(stored["data"]) == len(found.cells) == 2
    assert list(file.parent.glob("files/media/images/report/score-*.png"))  # error bars without a preset
    artifacts = [record.artifact for record in records(file) if record.WhichOneof("record_type") == "artifact"]
    report = next(one for one in artifacts if one.type == "report")
    assert {"index.html", "answer.json"} <= {entry.path for entry in report.manifest.contents}
    assert "learning_curve/squad-test.vl.json" in {entry.path for entry in report.manifest.contents}


@pytest.mark.parametrize(
    ("environment", "words", "there"),
    [
        ("offline", ["logger=[csv,wandb]"], True),
        ("offline", ["logger=csv"], False),
        ("disabled", ["logger=wandb"], False),
        ("offline", ["logger=wandb", "+logger.wandb.mode=disabled"], False),
    ],
)
def test_a_sweep_has_a_summary_run_where_its_cells_are_on_wandb(monkeypatch, environment, words, there):
    monkeypatch.setenv("WANDB_MODE", environment)
    config = load_config(*words)
    assert (wandb_settings(config.logger) is not None) == ("wandb" in usable_loggers(config)) == there


def test_a_dashboard_at_the_end_is_for_sweeps(command):
    done = command("train.py", *small(), "dashboard=true", f"outputs={command.outputs}", check=False)
    assert done.returncode == 2 and "llama-exp dashboard" in done.stderr
