"""stop_at=0.25: a part of a run that the same command goes on from, as if it had never stopped."""

import csv
import json
import re
import subprocess

import pytest

from llama_exp.config.compose import load_config
from llama_exp.report.load import load_runs
from llama_exp.training.part import last_step
from tests.conftest import ROOT, python, small
from tests.killer import killed_at
from tests.wandb_files import config_of, history, offline_files, summary

# 12 steps of 4 Examples, a validation at 3, 6, 9 and 12; dropout and a schedule that a wrong position would show
KEYS = {"trainer.max_epochs": "3", "validations": "4", "lora.dropout": "0.1", "micro_batch": "2"}
TIMES = ("seconds", "tokens_per_second")
OF_THE_MACHINE = {"started", "finished", "seconds", "tokens_per_second", "mfu", "peak_memory_bytes", "commit"}


def run_in(outputs):
    [config] = outputs.glob("squad/*/config.yaml")
    return config.parent


def left(outputs) -> tuple:
    """What a run leaves, but for times: (metrics, adapter, summary, config)."""
    run = run_in(outputs)
    with open(run / "metrics.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    summary = json.loads((run / "summary.json").read_text())
    summary = {key: value for key, value in summary.items() if key not in OF_THE_MACHINE}
    config = (run / "config.yaml").read_text().replace(str(outputs), "")
    return rows, (run / "adapter/adapter_model.safetensors").read_bytes(), summary, config


def status(outputs) -> str:
    return json.loads((run_in(outputs) / "summary.json").read_text())["status"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("whole") / "o"
    words = python("train.py", *small(**KEYS), f"outputs={outputs}")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs


def test_a_run_in_three_parts_is_byte_for_byte_the_run_that_never_stopped(whole, tmp_path, command):
    words = ["train.py", *small(**KEYS), f"outputs={tmp_path}/o"]
    said = command(*words, "stop_at=0.2", "evaluate=true").stdout
    assert re.search(r"stopped at 25 % \(step 3 of 12\), validation loss \d\.\d+; the same command without", said), said
    assert status(tmp_path / "o") == "stopped at 25 %"
    assert not list(tmp_path.glob("o/squad/*/eval")) and not list(tmp_path.glob("o/squad/*/adapter"))
    again = command(*words, "stop_at=0.25").stdout
    assert "already stopped at 25 % (step 3 of 12)" in again and "not trained further" in again
    assert "stopped at 50 % (step 6 of 12)" in command(*words, "stop_at=0.5").stdout
    assert "finished: 12 steps" in command(*words).stdout
    assert left(tmp_path / "o") == left(whole)
    assert "already finished" in command(*words, "stop_at=0.25").stdout


def test_a_killed_run_that_is_past_it_is_not_trained_further(whole, tmp_path, command):
    words = ["train.py", *small(**KEYS), f"outputs={tmp_path}/o", "checkpoint_every=1"]
    command(*words, *killed_at(8), check=None)
    said = command(*words, "stop_at=0.5").stdout
    assert "already stopped at 58 % (step 7 of 12)" in said and " at step 6;" in said, said
    command(*words)
    assert left(tmp_path / "o")[:2] == left(whole)[:2]


def test_a_run_is_part_only_up_to_its_last_validation(tmp_path, command):
    """Killed at step 8 and stopped there: it has no validation between 6 and 9."""
    words = ["train.py", *small(**KEYS), f"outputs={tmp_path}/o", "checkpoint_every=1"]
    command(*words, *killed_at(8), check=None)
    assert "stopped at 58 % (step 7 of 12)" in command(*words, "stop_at=0.5").stdout
    assert "stopped at 75 % (step 9 of 12)" in command(*words, "stop_at=0.55").stdout


def test_a_logger_has_each_step_of_a_part_once_and_its_status(tmp_path, command):
    words = ["train.py", *small(**KEYS), f"outputs={tmp_path}/o", "logger=[wandb,mlflow]"]
    for more in (["stop_at=0.25"], []):
        command(*words, *more, env={"WANDB_MODE": "offline"})
    first, second = offline_files(run_in(tmp_path / "o"))
    steps = [[row["trainer/global_step"] for row in history(file) if "loss" in row] for file in (first, second)]
    assert steps == [[1, 2, 3], list(range(4, 13))]
    assert (summary(first)["status"], summary(second)["status"]) == ("stopped at 25 %", "finished")
    assert "stop_at" not in config_of(first)
    [status_tag] = tmp_path.glob("o/mlruns/*/*/tags/llama_exp.status")
    assert status_tag.read_text() == "finished"
    assert not list(tmp_path.glob("o/mlruns/*/*/params/stop_at"))


def test_two_processes_stop_at_the_same_step_and_go_on(tmp_path, command):
    words = ["train.py", *small(**KEYS), "trainer=ddp", "trainer.max_epochs=3", f"outputs={tmp_path}/o"]
    assert "stopped at 50 % (step 6 of 12)" in command(*words, "stop_at=0.5").stdout
    assert "finished: 12 steps" in command(*words).stdout
    with open(run_in(tmp_path / "o") / "metrics.csv", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["loss"]] == [str(n) for n in range(1, 13)]


def test_a_part_is_no_failure_and_the_report_keeps_it_apart(tmp_path, command):
    words = ["train.py", "-m", *small(**KEYS), "lora.r=1,2", "evaluate=true", f"outputs={tmp_path}/o"]
    workers = ["hydra/launcher=gpus", "hydra.launcher.workers=1"]
    command(*words, "lora.r=1")
    done = command(*words, "stop_at=0.5", *workers)
    assert "2 cells, 0 failed" in done.stdout and re.search(r"lora\.r=2 +stopped at 50 %", done.stdout), done.stdout
    by_rank = {run.rank: run.status for run in load_runs(tmp_path / "o")[0]}
    assert by_rank == {1: "finished", 2: "stopped at 50 %"}
    with open(tmp_path / "o/report/runs.csv", newline="") as file:
        assert {row["rank"]: row["status"] for row in csv.DictReader(file)} == {"1": "finished", "2": "stopped at 50 %"}
    assert "1 run without a score here" in done.stdout and "stopped at 50 %" in done.stdout.split("without a score")[1]
    [go_on] = {line for line in done.stdout.splitlines() if "train" in line and "lora.r=2 " in line and "squad" in line}
    assert "stop_at" not in go_on
    refused = command("evaluate.py", *small(**KEYS), f"outputs={tmp_path}/o", check=None)
    assert refused.returncode == 2 and "stopped at 50 %" in refused.stderr, refused.stderr


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("train.py", ["stop_at=0"], "stop_at=0.0: wanted a share of all steps, above 0 and up to 1"),
        ("train.py", ["stop_at=1.5"], "stop_at=1.5: wanted a share"),
        ("train.py", ["stop_at=nan"], "stop_at=nan: wanted a share"),
        ("train.py", ["stop_at=-0.25"], "stop_at=-0.25: wanted a share"),
        ("train.py", ["stop_at=abc"], "stop_at=abc: wanted"),
        ("train.py", ["stop_at=0.25", "validations=0"], "validations=0 makes none"),
        ("train.py", ["stop_at=0.25", "+trainer.limit_val_batches=0"], "trainer.limit_val_batches=0 makes none"),
        ("train.py", ["stop_at=0.25", "preflight=true"], "preflight=true trains nothing"),
        ("train.py", ["-m", "stop_at=0.25", "question=best", "lora.r=1,2"], "question=best compares whole runs"),
        ("evaluate.py", ["stop_at=0.25"], "is a key of train"),
    ],
)
def test_what_makes_no_part_is_refused_before_anything_runs(program, words, said, tmp_path, command):
    done = command(program, *small(), f"outputs={tmp_path}/o", *words, check=None)
    assert done.returncode in (1, 2) and said in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("o/squad/*"))


@pytest.mark.parametrize(
    ("share", "interval", "steps", "step"),
    [
        (0.25, 8, 32, 8),
        (0.26, 8, 32, 16),
        (0.7, 1, 10, 7),
        (0.01, 3, 12, 3),
        (1e-9, 3, 12, 3),
        (0.99, 3, 10, None),
        (1, 3, 12, None),
    ],
)
def test_it_stops_at_the_first_validation_at_or_after_the_share(share, interval, steps, step):
    config = load_config(*small(), f"stop_at={share}")
    assert last_step(config, interval, steps) == step
