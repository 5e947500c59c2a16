"""What a killed run leaves, and what the same command makes of it: real processes, SIGKILL at a known row."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, small
from tests.killer import killed_at

LONG = {"trainer.max_epochs": "3", "validations": "3"}  # 12 steps of 4 Examples, a validation at 4, 8 and 12
WORSE = {"sample": "8", "optimizer.lr": "0.3", "optimizer.schedule": "constant", "trainer.max_epochs": "10",
         "validations": "20", "early_stopping": "3", "checkpoint_every": "1", "split": "validation",
         "eval_sample": "4"}  # fmt: skip


def started(*words):
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def killed(*words):
    process = started("train.py", *words)
    said = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, said


def run_of(outputs):
    [run] = [path.parent for path in outputs.glob("*/*/config.yaml")]
    return run


def rows(outputs) -> list[dict[str, str]]:
    with open(run_of(outputs) / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def curve(outputs, column="loss") -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row[column])) for row in rows(outputs) if row[column]]


def summary(outputs):
    return json.loads((run_of(outputs) / "summary.json").read_text())


def adapter(outputs) -> bytes:
    return (run_of(outputs) / "adapter/adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("whole") / "o"
    done = subprocess.run([sys.executable, "train.py", *small(**LONG), f"outputs={outputs}"], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [step for step, _ in curve(outputs, "validation_loss")] == [4, 8, 12]
    return outputs


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["micro_batch=4"], ["micro_batch=1"]),
        (["micro_batch=1"], ["micro_batch=4"]),
        (["micro_batch=1"], ["trainer=ddp", "trainer.max_epochs=3"]),
    ],
    ids=["smaller parts", "larger parts", "two processes"],
)
def test_a_run_that_continues_in_other_parts_learns_the_same_steps(before, after, whole, tmp_path, command):
    """micro_batch and devices are no part of a run's identity: after running out of memory one changes them."""
    words = [*small(**LONG), "checkpoint_every=2", f"outputs={tmp_path}/o"]
    killed(*words, *before, *killed_at(7))
    said = command("train.py", *words, *after).stdout
    assert "Continuing from" in said
    assert summary(tmp_path / "o")["steps"] == 12
    for column in ("loss", "validation_loss"):
        mine, theirs = curve(tmp_path / "o", column), curve(whole, column)
        assert [step for step, _ in mine] == [step for step, _ in theirs]
        assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in theirs], rel=1e-3)


def test_a_run_killed_twice_never_continues_from_the_middle_of_a_step(tmp_path, command):
    words = [*small(**LONG), "micro_batch=2", "checkpoint_every=4", "lora.dropout=0.1"]
    command("train.py", *words, f"outputs={tmp_path}/whole")
    for step in (5, 5):
        killed(*words, f"outputs={tmp_path}/o", *killed_at(step))
    command("train.py", *words, f"outputs={tmp_path}/o")
    assert curve(tmp_path / "o") == curve(tmp_path / "whole")
    assert adapter(tmp_path / "o") == adapter(tmp_path / "whole")


def test_a_run_that_ends_before_its_plan_is_not_called_finished(tmp_path, command):
    words = [*small(**LONG), "+trainer.max_time='00:00:00:01'", f"outputs={tmp_path}/o"]
    done = command("train.py", *words, *killed_at(99, pause=0.4), check=None)
    assert done.returncode == 2 and "of 12 planned steps" in done.stderr, done.stderr
    assert summary(tmp_path / "o")["status"] == "interrupted"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stops early, and is evaluated on its validation sample in the same process."""
    outputs = tmp_path_factory.mktemp("stopped") / "o"
    done = subprocess.run([sys.executable, "train.py", *small(**WORSE), "evaluate=true", f"outputs={outputs}"], cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary(outputs)["status"] == "stopped early"
    losses = curve(outputs, "validation_loss")
    assert min(losses, key=lambda at: at[1])[0] < losses[-1][0], "the last weights must not be the best"
    return outputs


def test_with_early_stopping_it_is_the_saved_adapter_that_is_evaluated(stopped, tmp_path, command):
    [results] = stopped.glob("squad/*/eval/*/results.json")
    at_once = json.loads(results.read_text())["scores"]
    assert at_once["loss"] == pytest.approx(summary(stopped)["loss"]["best_validation"], rel=1e-3)
    results.parent.rename(tmp_path / "aside")
    command("evaluate.py", *small(**WORSE), f"outputs={stopped}")
    assert json.loads(results.read_text())["scores"] == pytest.approx(at_once, rel=1e-5)


def test_early_stopping_keeps_the_same_adapter_whenever_the_run_was_killed(stopped, tmp_path, command):
    """Killed as soon as the best validation loss is on disk, and again at the one after it."""
    best = min(curve(stopped, "validation_loss"), key=lambda at: at[1])[0]
    words = [*small(**WORSE), f"outputs={tmp_path}/o"]
    killed(*words, *killed_at(best, "validation_loss"))
    killed(*words, *killed_at(best + 1, "validation_loss"))
    command("train.py", *words)
    assert curve(tmp_path / "o", "validation_loss") == curve(stopped, "validation_loss")
    assert adapter(tmp_path / "o") == adapter(stopped)
    assert summary(tmp_path / "o")["status"] == "stopped early"


def test_early_stopping_keeps_the_same_adapter_after_a_kill_while_it_was_saved(stopped, tmp_path, command):
    words = [*small(**WORSE), f"outputs={tmp_path}/o"]
    process = started("train.py", *words)
    while process.poll() is None and not list((tmp_path / "o").glob("squad/*/adapter")):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not list((tmp_path / "o").glob("squad/*/summary.json")), "the kill came too late to show anything"
    command("train.py", *words)
    assert adapter(tmp_path / "o") == adapter(stopped)
