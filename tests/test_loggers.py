"""What a run tells its loggers: scores with intervals, replies, files, and who it is; one run over all processes."""

import base64
import csv
import importlib.util
import json
import multiprocessing
import os
import sqlite3
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llama_exp.config.compose import load_config
from llama_exp.errors import UserError
from llama_exp.records import Prediction
from llama_exp.tracking import usable_loggers
from llama_exp.tracking.content import as_markdown, replies_table
from llama_exp.tracking.description import Description
from llama_exp.training.train import check_monitor
from tests.conftest import ROOT, python, small
from tests.killer import killed_at
from tests.wandb_files import config_of, header, history, offline_files, records, summary
from tests.wandb_server import KEY as SERVER_KEY
from tests.wandb_server import wandb_server

KEY, TOKEN = "5ec4e7" * 7, "hf_" + "5ec4e7" * 6
SAME = {"lora.r": "1,2", "eval_sample": "5"}


def run_command(*words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        python(*words), cwd=ROOT, text=True, capture_output=True, timeout=280, env={**os.environ, **env}
    )
    assert done.returncode == 0 or not check, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """The outputs of two cells, trained, evaluated and logged by one command."""
    outputs = tmp_path_factory.mktemp("loggers") / "o"
    words = [*small(**SAME), "logger=[csv,wandb,tensorboard,mlflow,trackio]", "evaluate=true", f"outputs={outputs}"]
    asked = ["logger.wandb.artifacts=true", "logger.mlflow.artifacts=true"]
    secrets = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY}
    done = run_command("train.py", "-m", *words, *asked, **secrets, TRACKIO_DIR=str(outputs.parent / "trackio"))
    (outputs.parent / "said").write_text(done.stdout + done.stderr)
    return outputs


def runs_of(outputs: Path) -> list[Path]:
    """The trained ones."""
    return sorted(path for path in outputs.glob("squad/*") if path.is_dir() and "-r0" not in path.name)


def results_of(run: Path, evaluation: str) -> dict:
    return json.loads((run / "eval" / evaluation / "results.json").read_text())


def test_wandb_holds_every_score_with_its_interval_and_n(sweep):
    for run in runs_of(sweep):
        [file] = offline_files(run)
        found = summary(file)
        for split, evaluation in (("test", "squad-test-5"), ("validation", "squad-validation-4")):
            results = results_of(run, evaluation)
            assert found[f"{split}/items"] == results["items"]
            for name, value in results["scores"].items():
                ends = results["intervals"][name]
                shown = [found[f"{split}/{name}{end}"] for end in ("", "_low", "_high")]
                assert shown == pytest.approx([value, ends["low"], ends["high"]]), name
        with open(run / "metrics.csv", newline="", encoding="utf-8") as opened:
            losses = [float(row["validation_loss"]) for row in csv.DictReader(opened) if row["validation_loss"]]
        assert found["best_validation_loss"] == pytest.approx(min(losses), rel=1e-5)
        assert found["validation_loss"] == pytest.approx(losses[-1], rel=1e-5)  # plain numbers: what one filters by
        assert found["examples"] == 16 and found["tokens"] > 0 and found["peak_memory_bytes"] > 0


def test_the_cells_of_a_sweep_are_one_group_with_tags_and_a_config_to_filter_by(sweep):
    files = [offline_files(run)[0] for run in runs_of(sweep)]
    heads = [header(file) for file in files]
    [group] = {head.run_group for head in heads}
    assert {head.job_type for head in heads} == {"train"} and len({head.run_id for head in heads}) == 2
    for rank, file, head in zip((1, 2), files, heads, strict=True):
        assert set(head.tags) == {"squad", "tiny", f"rank:{rank}", "sample:16", f"sweep:{group}"}
        config = config_of(file)
        assert (config["lora"]["r"], config["sample"], config["seed"], config["examples"]) == (rank, 16, 0, 16)
        assert config["sweep"] == group and config["optimizer"]["lr"] == 0.004
        assert str(sweep).encode() not in file.read_bytes()


def test_a_later_evaluation_lands_in_the_same_run(sweep):
    run = runs_of(sweep)[0]
    words = [*small(**{**SAME, "lora.r": "1", "eval_sample": "3"}), f"outputs={sweep}", "logger=wandb"]
    run_command("evaluate.py", *words)
    before, after = offline_files(run)
    one, other = header(before), header(after)
    assert (one.run_id, one.run_group, one.job_type) == (other.run_id, other.run_group, other.job_type)
    assert set(one.tags) == set(other.tags) and config_of(before) == config_of(after)
    results = results_of(run, "squad-test-3")
    assert summary(after)["test/squad/f1"] == pytest.approx(results["scores"]["squad/f1"])
    assert summary(after)["test/items"] == 3
    assert not any("loss" in row for row in history(after))


def test_a_cell_that_another_sweep_takes_over_keeps_its_group_and_gets_a_tag(sweep):
    """And what a logger has already is not sent again."""
    run = runs_of(sweep)[1]
    before = offline_files(run)
    words = [*small(**{**SAME, "lora.r": "2,0"}), f"outputs={sweep}", "logger=wandb", "evaluate=true"]
    run_command("train.py", "-m", *words)
    new = offline_files(run)[len(before) :]
    one, other = header(before[0]), header(new[0])
    assert (one.run_id, one.run_group) == (other.run_id, other.run_group)
    [tag] = {*other.tags} - {*one.tags}
    assert {*one.tags} < {*other.tags} and not any(key.startswith("test/") for key in summary(new[0]))
    [untuned] = sweep.glob("squad/tiny-r0*")
    assert header(offline_files(untuned)[0]).job_type == "evaluate"
    assert tag == f"sweep:{header(offline_files(untuned)[0]).run_group}"
    count = len(list((sweep / "squad").rglob("*.wandb")))
    run_command("train.py", "-m", *words)
    assert len(list((sweep / "squad").rglob("*.wandb"))) == count


def test_a_killed_and_resumed_run_is_one_run_with_one_curve(tmp_path):
    words = [*small(**{"trainer.max_epochs": "3"}), "checkpoint_every=3", f"outputs={tmp_path}/o", "logger=wandb"]
    killed = run_command("train.py", *words, *killed_at(7)[1:], check=False)
    assert killed.returncode == -9
    run_command("train.py", *words)
    [run] = runs_of(tmp_path / "o")
    files = offline_files(run)
    heads = [
        record.run.run_id for file in files for record in records(file) if record.WhichOneof("record_type") == "run"
    ]
    identity = json.loads((run / "tracking.json").read_text())["id"]
    assert len(files) == 2 and {*heads} == {identity} == {file.stem.removeprefix("run-") for file in files}
    with open(run / "metrics.csv", newline="", encoding="utf-8") as opened:
        wanted = {int(row["step"]): float(row["loss"]) for row in csv.DictReader(opened) if row["loss"]}
    points = [(row["trainer/global_step"], row["loss"]) for file in files for row in history(file) if "loss" in row]
    assert dict(points) == pytest.approx(wanted) and len(wanted) == 12
    for step, loss in points:  # those between the checkpoint and the kill come twice, and are the same
        assert loss == pytest.approx(wanted[step], rel=1e-5)


def test_a_key_in_the_environment_and_the_paths_of_the_machine_are_in_no_logged_file(sweep):
    files = [path for path in sweep.parent.rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        content = path.read_bytes()
        assert KEY.encode() not in content and TOKEN.encode() not in content, path
    logged = [path for path in files if {"wandb", "tensorboard", "csv", "mlruns", "trackio"} & {*path.parts}]
    for path in logged:
        if path.name not in ("debug.log", "debug-internal.log", "meta.yaml"):  # of this machine, never uploaded
            assert str(sweep).encode() not in path.read_bytes(), path
            assert str(ROOT / "llama_exp").encode() not in path.read_bytes(), path


def test_wandb_has_replies_curves_and_the_adapter_with_what_it_was_evaluated_on(sweep):
    run = runs_of(sweep)[0]
    file = offline_files(run)[0]
    [table] = file.parent.glob("files/media/table/test/*.json")
    read = json.loads(table.read_text())
    assert read["columns"][:5] == ["id", "question", "context", "references", "reply"]
    lines = (run / "eval/squad-test-5/scores.jsonl").read_text().splitlines()
    scores = {json.loads(line)["id"]: json.loads(line) for line in lines}
    assert len(read["data"]) == 5
    for row in read["data"]:
        named = dict(zip(read["columns"], row, strict=True))
        assert named["squad/f1"] == scores[named["id"]]["squad/f1"]
        assert named["question"].endswith("?") and len(named["context"]) > len(named["question"])
    assert list(file.parent.glob("files/media/html/losses/*.html"))
    assert list(file.parent.glob("files/media/images/losses/*.png"))
    artifacts = {
        one.artifact.type: one.artifact for one in records(file) if one.WhichOneof("record_type") == "artifact"
    }
    adapter = json.loads((run / "summary.json").read_text())["adapter"]
    assert {path.path for path in artifacts["model"].manifest.contents} == adapter.keys()
    assert json.loads(artifacts["evaluation"].metadata)["sha256"] == adapter
    assert json.loads(artifacts["evaluation"].metadata)["adapter"] == artifacts["model"].name


def test_tensorboard_has_hyperparameters_with_scores_and_the_replies(sweep):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = runs_of(sweep)[1]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    results = results_of(run, "squad-test-5")
    assert events.Scalars("test/squad/f1")[-1].value == pytest.approx(results["scores"]["squad/f1"], rel=1e-5)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown["lora.r"].number_value == 2 and shown["sample"].number_value == 16
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    page = HParamsPluginData.FromString(content).experiment  # keys that differ come first, and five are ticked
    assert {one.name for one in page.hparam_infos if one.differs} == {
        "examples", "lora.r", "optimizer.lr", "sample", "seed"
    }  # fmt: skip
    assert all(
        name in results["scores"] for name in (one.name.tag.removeprefix("test/") for one in page.metric_infos[:5])
    )
    assert page.metric_infos[0].name.tag == "test/squad/f1"
    [text] = events.Tensors("test/replies/text_summary")
    assert text.tensor_proto.string_val[0].decode().count("\n") == 6  # a head, a rule, five replies
    assert events.Images("losses")


def test_tensorboard_lists_the_scores_of_an_evaluation_after_a_training_without(tmp_path):
    """It keeps the first list of a run: a training that was not evaluated must leave none."""
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    from llama_exp.tracking.tensorboard import TensorBoardTracker

    described = Description("id", "run", None, "train", None, ["squad"], {"lora": {"r": 2}}, tmp_path, tmp_path)
    for scores in ({}, {"validation/m/s": 1.0, "test/m/s_low": 1.0, "test/m/s": 2.0}):
        tracker = TensorBoardTracker("tensorboard", TensorBoardLogger, {"name": "tb", "version": ""}, described)
        tracker.start()
        tracker.log_summary(scores)
        tracker.finish(0)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    contents = {
        tag: events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
        for tag in ("experiment", "session_start_info")
    }
    page, session = map(HParamsPluginData.FromString, contents.values())
    assert [one.name.tag for one in page.experiment.metric_infos] == ["test/m/s", "validation/m/s", "test/m/s_low"]
    assert session.session_start_info.hparams["lora.r"].number_value == 2


def test_mlflow_has_a_parent_run_for_the_sweep_and_a_child_for_each_cell(sweep, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient((sweep / "mlruns").as_uri())
    found = client.search_runs([client.get_experiment_by_name("llama_exp").experiment_id])
    [parent] = [run for run in found if run.data.tags["job"] == "sweep"]
    children = {run.data.params["lora.r"]: run for run in found if run != parent and run.data.tags["job"] == "train"}
    assert children.keys() == {"1", "2"}
    for run, rank in zip(runs_of(sweep), ("1", "2"), strict=True):
        child = children[rank]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id and child.info.status == "FINISHED"
        assert (
            child.data.metrics["test/squad/f1_high"] == results_of(run, "squad-test-5")["intervals"]["squad/f1"]["high"]
        )
        folder = Path(client.download_artifacts(child.info.run_id, ""))
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert {"test/replies.json", "losses/losses.html", "adapter/adapter_model.safetensors"} <= names


def test_trackio_has_curves_scores_and_group(sweep):
    base = sqlite3.connect(sweep.parent / "trackio" / "llama_exp.db")
    rows = base.execute("select run_name, step, metrics from metrics").fetchall()
    for run in runs_of(sweep):
        own = [json.loads(metrics) for name, _, metrics in rows if name.startswith(f"squad/{run.name}-")]
        found = {key: value for metrics in own for key, value in metrics.items()}
        results = results_of(run, "squad-test-5")
        assert found["test/squad/f1"] == pytest.approx(results["scores"]["squad/f1"]) and found["test/items"] == 5
        assert sum("loss" in metrics for metrics in own) == 4 and len(found["test/replies"]["_value"]) == 5
    [group] = {json.loads(config)["_Group"] for (config,) in base.execute("select config from configs")}
    assert group == json.loads((runs_of(sweep)[0] / "tracking.json").read_text())["group"]


def test_a_reply_is_text_wherever_it_is_shown():
    shown = as_markdown("<script>*a*|b\\`")
    assert "<" not in shown and shown.count("\\") == 6
    predictions = [
        Prediction(str(i), f"Context: c{i}\n\nQuestion: q", ("r",), "\x1b[31mred\u202e" * 900, "g") for i in range(300)
    ]
    columns, rows = replies_table(
        predictions, {"m/s": [float(i) for i in range(300)]}, "Context: {context}\n\nQuestion: {question}"
    )
    assert (
        len(rows) == 100
        and rows
        == replies_table(
            predictions, {"m/s": [float(i) for i in range(300)]}, "Context: {context}\n\nQuestion: {question}"
        )[1]
    )
    for row in rows:
        named = dict(zip(columns, row, strict=True))
        assert named["context"] == f"c{named['id']}" and named["question"] == "q" and named["m/s"] == int(named["id"])
        assert len(named["reply"]) <= 2000 and "\x1b" not in named["reply"] and "\u202e" not in named["reply"]


def test_a_logger_file_without_its_first_line_is_refused_in_words(tmp_path, command):
    for target, choice in (("CSVLogger", "mine"), ("CSVLogger", "[csv,mine]"), ("TensorBoardLogger", "[mine,wandb]")):
        path = tmp_path / "logger" / "mine.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"_target_: lightning.pytorch.loggers.{target}\nname: x\n")
        words = [*small(), f"logger={choice}", f"outputs={tmp_path}/o"]
        done = command("train.py", "--config-dir", str(tmp_path), *words, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"{path}: its first line must be\n# @package logger.mine" in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "environment, wanted",
    [
        ({"WANDB_MODE": "online"}, "there is no key. Type `wandb login`"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "short"}, "could not start: WANDB_API_KEY invalid"),
    ],
)
def test_wandb_that_cannot_start_says_what_to_type(tmp_path, environment, wanted):
    words = [*small(validations="0"), "logger=wandb", f"outputs={tmp_path}/o"]
    done = run_command("train.py", *words, check=False, **environment, NETRC=str(tmp_path / "none"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert wanted in done.stderr and "WANDB_MODE=offline" in done.stderr
    assert not list(tmp_path.glob("o/squad/*/metrics.csv"))


def test_a_server_that_refuses_stops_the_command_before_training(tmp_path):
    """A real server on this machine that answers every request with 403."""
    asked = []

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            self.send_error(403)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_MODE": "online"}
        words = [*small(validations="0"), "logger=wandb", f"outputs={tmp_path}/o"]
        done = run_command("train.py", *words, check=False, **where, WANDB_API_KEY=KEY)
        server.shutdown()
    assert asked and not any(KEY.encode() in body for body in asked)
    assert done.returncode == 2 and "The logger wandb could not start" in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert not list(tmp_path.glob("o/squad/*/metrics.csv"))


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """(server, folder, output): trained online with artifacts, then evaluated by another process."""
    folder = tmp_path_factory.mktemp("online")
    words = [*small(), "logger=wandb", "logger.wandb.artifacts=true", f"outputs={folder}/o"]
    with wandb_server() as (address, server):
        env = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": SERVER_KEY, "HF_TOKEN": TOKEN}
        shown = [
            run_command(program, *words, **env, NETRC=str(folder / "none")) for program in ("train.py", "evaluate.py")
        ]
    return server, folder, "".join(done.stdout + done.stderr for done in shown)


def test_an_evaluation_in_another_process_uses_the_adapter_that_training_uploaded(online):
    server, folder, shown = online
    assert "failed at" not in shown
    [run] = runs_of(folder / "o")
    name = json.loads((run / "tracking.json").read_text())["id"]
    [adapter] = [one for one in server.artifacts.made.values() if one["artifactTypeName"] == "model"]
    [evaluation] = [one for one in server.artifacts.made.values() if one["artifactTypeName"] == "evaluation"]
    assert adapter["committed"] and evaluation["committed"]
    assert adapter["runName"] == evaluation["runName"] == name and {*server.runs} == {name}
    assert {"adapter_model.safetensors", "adapter_config.json"} == {*adapter["files"]}
    assert "results.json" in evaluation["files"] and "predictions.jsonl" in evaluation["files"]
    [used] = server.artifacts.used
    assert used == (name, next(id for id, one in server.artifacts.made.items() if one is adapter))
    assert json.loads(evaluation["metadata"])["adapter"] == adapter["artifactCollectionName"]
    order = list(server.artifacts.made.values())
    assert order.index(adapter) < order.index(evaluation)


def test_online_the_key_is_in_the_header_that_is_for_it_and_nowhere_else(online):
    server, folder, shown = online
    secret = base64.b64encode(f"api:{SERVER_KEY}".encode()).decode()
    assert len(server.requests) > 20
    texts = [path + body for path, _, body in server.requests]
    texts += [of for _, found, _ in server.requests for name, of in found.items() if name != "Authorization"]
    files = [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    for text in (*texts, *files, shown):
        assert SERVER_KEY not in text and secret not in text and TOKEN not in text
    assert any(secret in str(found) for _, found, _ in server.requests)
    assert not any(str(folder) in body for path, _, body in server.requests if not path.startswith("/sdk/"))


def test_a_server_that_stops_answering_costs_no_training(tmp_path):
    """It accepts everything and answers nothing from the first curve on; the command ends all the same."""
    words = [*small(), "logger=wandb", f"outputs={tmp_path}/o"]
    with wandb_server() as (address, server):
        server.silent_after = "/file_stream"
        env = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": SERVER_KEY}
        done = run_command("train.py", *words, **env, WANDB_FINISH_TIMEOUT="3")
    [run] = runs_of(tmp_path / "o")
    assert json.loads((run / "summary.json").read_text())["steps"] == 4 and list((run / "adapter").iterdir())
    assert (
        "The logger wandb failed at finish (the server did not take everything in time; later: wandb sync"
        in done.stdout
    )
    [part] = run.glob("wandb/run-*-*")
    assert str(part) in done.stdout


def test_a_server_that_never_answers_stops_the_command_before_training(tmp_path):
    words = [*small(validations="0"), "logger=wandb", f"outputs={tmp_path}/o"]
    with wandb_server() as (address, server):
        server.silent_after = ""
        env = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": SERVER_KEY}
        done = run_command("train.py", *words, check=False, **env, WANDB_INIT_TIMEOUT="3")
    assert done.returncode == 2 and "The logger wandb could not start" in done.stderr and "Traceback" not in done.stderr
    assert "WANDB_MODE=offline" in done.stderr and not list(tmp_path.glob("o/squad/*/metrics.csv"))


def test_disabled_wandb_writes_nothing(tmp_path):
    words = [*small(sample="8", validations="0"), "logger=[wandb,csv]", f"outputs={tmp_path}/o"]
    run_command("train.py", *words, WANDB_MODE="disabled")
    [run] = runs_of(tmp_path / "o")
    assert (run / "csv/metrics.csv").is_file() and not (run / "wandb").exists()


def test_a_package_that_is_missing_is_named_before_anything_is_read(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "mlflow" else found(name, *a))
    with pytest.raises(UserError, match=r"logger=mlflow needs the package mlflow: pip install 'llama_exp\[mlflow\]'"):
        usable_loggers(load_config("logger=[csv,mlflow]"))


def test_a_logger_that_fails_midway_loses_nothing(tmp_path, command):
    (tmp_path / "fading.py").write_text(
        "from lightning.pytorch.loggers import CSVLogger\n"
        "class Fading(CSVLogger):\n"
        "    def log_metrics(self, metrics, step=None):\n"
        "        if step > 2: raise OSError('the disk is gone')\n"
        "        super().log_metrics(metrics, step)\n"
    )
    target = "logger.fading={_target_: fading.Fading, name: fading, version: ''}"
    words = [*small(validations="0"), "logger=csv", f"+{target}", "evaluate=true", f"outputs={tmp_path}/o"]
    done = command("train.py", *words, env={"PYTHONPATH": str(tmp_path)})
    [run] = runs_of(tmp_path / "o")
    assert done.stdout.count("The logger fading failed at log_metrics (the disk is gone)") == 1
    with open(run / "csv/metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row.get("loss")] == ["1", "2", "3", "4"]
    assert results_of(run, "squad-test-6")["items"] == 6


def test_scores_while_training_decide_which_adapter_is_kept(tmp_path, command):
    """The best loss comes last here, and the best score first."""
    asked = {"lora.r": "2", "optimizer.lr": "0.05", "optimizer.schedule": "constant", "dataset.max_new_tokens": "24"}
    words = [*small(dataset="tweetsumm", **asked), "dataset.metrics=[rouge]", f"outputs={tmp_path}/o"]
    words += ["validation_scores=4", "monitor=rouge/rougeL", "early_stopping=3", "logger=csv"]
    done = command("train.py", *words)
    assert "validation_scores: 4 replies took" in done.stdout
    [run] = (tmp_path / "o").glob("tweetsumm/*")
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["validation_loss"]]
    scores = {int(row["step"]): float(row["rouge/rougeL"]) for row in rows}
    assert scores.keys() == {2, 4} and scores[2] > scores[4]
    assert float(rows[0]["validation_loss"]) > float(rows[1]["validation_loss"])
    assert "Early stopping keeps step 2, validation ROUGE-L" in (run / "losses.html").read_text()
    summary_json = json.loads((run / "summary.json").read_text())
    assert summary_json["loss"]["kept_validation"] == float(rows[0]["validation_loss"])
    command("evaluate.py", f"out={run}", "dataset=tweetsumm", "dataset.source=synthetic", "model=tiny", "lora.r=2",
            "split=validation", "eval_sample=4")  # fmt: skip
    [results] = run.glob("eval/*/results.json")
    assert json.loads(results.read_text())["scores"]["rouge/rougeL"] == pytest.approx(scores[2], rel=1e-5)


COUNT = """
import gc, lightning, torch
from llama_exp.records import Prediction

class Count(lightning.Callback):
    def on_validation_end(self, trainer, module):
        gc.collect()
        kinds = [type(one) for one in gc.get_objects()]
        print("alive:", sum(issubclass(one, torch.Tensor) for one in kinds), kinds.count(Prediction), flush=True)
"""


def test_scores_while_training_keep_nothing_from_one_validation_to_the_next(tmp_path, command):
    (tmp_path / "counting.py").write_text(COUNT)
    words = [*small(sample="32", validations="8"), "validation_scores=4", "logger=tensorboard", f"outputs={tmp_path}/o"]
    words += ["+trainer.callbacks=[{_target_: counting.Count}]"]
    done = command("train.py", *words, env={"PYTHONPATH": str(tmp_path)})
    found = [list(map(int, line.split()[1:])) for line in done.stdout.splitlines() if line.startswith("alive:")]
    assert len(found) == 8
    tensors, predictions = zip(*found, strict=True)
    assert tensors[-1] - tensors[2] < 5  # one that is kept at each validation would make five
    assert predictions[-1] <= predictions[2] <= 8


def test_two_processes_find_the_scores_of_one(tmp_path, command):
    """Three replies, so that the shares differ; numbers that are not 0."""
    words = [
        *small(dataset="tweetsumm", **{"dataset.max_new_tokens": "16"}),
        "dataset.metrics=[rouge]",
        "validation_scores=3",
    ]
    for name, processes in (("one", []), ("two", ["trainer=ddp", "trainer.max_epochs=1"])):
        command("train.py", *words, *processes, f"outputs={tmp_path}/{name}")
    found = []
    for name in ("one", "two"):
        [file] = tmp_path.glob(f"{name}/tweetsumm/*/metrics.csv")
        with open(file, newline="", encoding="utf-8") as opened:
            rows = [row for row in csv.DictReader(opened) if row["rouge/rougeL"]]
        found.append([{key: of for key, of in row.items() if key == "step" or "/" in key} for row in rows])
    assert found[0] == found[1] and len(found[0]) == 2 and float(found[0][0]["rouge/rougeL"]) > 0


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["monitor=squad/f1"], "monitor=squad/f1 needs scores while training: add validation_scores=50"),
        (["monitor=squad/f1", "validation_scores=5"], "add early_stopping=3"),
        (["validation_scores=5", "validations=0"], "validations=0 makes none"),
        (["validation_scores=0"], "wanted a whole number of at least 1"),
    ],
)
def test_scores_while_training_are_checked_before_anything_is_read(words, wanted):
    with pytest.raises(UserError, match=wanted):
        load_config("dataset=squad", "model=tiny", *words)


def test_a_monitor_that_is_not_measured_is_refused():
    config = load_config("dataset=squad", "model=tiny", "validation_scores=5", "monitor=squad/F1", "early_stopping=1")
    with pytest.raises(UserError, match="monitor=squad/F1: wanted validation_loss, or one of squad/"):
        check_monitor(config)
    check_monitor(load_config("dataset=squad", "validation_scores=5", "monitor=squad/f1", "early_stopping=1"))
    with pytest.raises(UserError, match="dataset=text has no metrics"):
        check_monitor(load_config("dataset=text", "dataset.path=README.md", "validation_scores=5"))


def _half(rank: int, folder: str, predictions: list[Prediction]) -> None:
    import torch.distributed as dist

    from llama_exp.training.validation_scores import ReplyScores

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    scores = ReplyScores(["decision"], {})
    scores.update(predictions[rank::2])
    found = {name: float(value) for name, value in scores.compute().items()}
    Path(folder, f"{rank}.json").write_text(json.dumps([found, [one.id for one in scores.scored[0]]]))
    dist.destroy_process_group()


def test_scores_of_two_ranks_are_those_of_all_replies(tmp_path):
    from llama_exp import metrics

    said = ["yes", "no", "maybe", "yes", "no", "yes", "maybe é"]
    predictions = [Prediction(str(i), "q", (said[(i * i) % 5],), reply, "g") for i, reply in enumerate(said)]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_half, args=(rank, str(tmp_path), predictions)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(200)
    whole = metrics.measure("decision", predictions, {})
    wanted = {name: sum(of) / len(of) for name, of in whole.items.items()}
    wanted |= {name: statistic(predictions) for name, statistic in whole.corpus.items()}
    assert len(wanted) >= 2
    for rank in (0, 1):
        found, ids = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(wanted) and ids == [str(i) for i in range(7)]
