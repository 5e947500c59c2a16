"""A signal that asks to end: a checkpoint, exit code 75, and the same command continues exactly. Real processes."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from llama_exp.config.compose import load_config
from llama_exp.errors import UserError
from llama_exp.stopping import CHOSEN, StopSignals, ToBeContinued
from tests.conftest import ROOT, python, small
from tests.killer import killed_at

TWELVE = {"trainer.max_epochs": "3", "validations": "0", "lora.dropout": "0.1"}  # steps of 4 Examples


def losses(outputs) -> list[tuple[str, str, str]]:
    [path] = outputs.glob("squad/*/metrics.csv")
    with path.open() as file:
        return [(row["step"], row["loss"], row["validation_loss"]) for row in csv.DictReader(file)]


def adapter(outputs) -> bytes:
    [path] = outputs.glob("squad/*/adapter/adapter_model.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Outputs of the run that nobody stopped, by the keys that differ."""
    made = {}

    def outputs(**keys):
        name = json.dumps(keys)
        if name not in made:
            made[name] = tmp_path_factory.mktemp("undisturbed") / "o"
            words = python("train.py", *small(**{**TWELVE, **keys}), f"outputs={made[name]}")
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        return made[name]

    return outputs


@pytest.mark.parametrize(
    ("by", "step", "keys"),
    [
        ("SIGTERM", 7, {}),
        ("SIGUSR2", 5, {"micro_batch": "1"}),
        ("SIGHUP", 4, {"validations": "3", "stop_signal": "SIGHUP"}),  # a validation is due at this step
    ],
)
def test_a_signal_leaves_a_checkpoint_and_the_same_command_continues_exactly(
    by, step, keys, undisturbed, tmp_path, command
):
    words = [*small(**{**TWELVE, **keys}), f"outputs={tmp_path}/o"]
    stopped = command("train.py", *words, *killed_at(step, by=by), check=None)
    assert stopped.returncode == os.EX_TEMPFAIL, stopped.stderr
    [said] = stopped.stderr.strip().splitlines()
    assert f"Interrupted after step {step} of 12: stopped by {by}. The same command continues" in said
    assert "Continuing from" in command("train.py", *words).stdout
    whole = undisturbed(**{key: value for key, value in keys.items() if key != "stop_signal"})
    assert losses(tmp_path / "o") == losses(whole) and adapter(tmp_path / "o") == adapter(whole)


def test_a_signal_ends_a_sweep_which_the_same_command_continues(undisturbed, tmp_path, command):
    words = [word for word in small(**TWELVE) if not word.startswith("lora.r=")]
    words = ["train.py", "-m", *words, "lora.r=2,1", f"outputs={tmp_path}/o"]
    stopped = command(*words, *killed_at(3, by="SIGTERM"), check=None)
    assert stopped.returncode == os.EX_TEMPFAIL and "Traceback" not in stopped.stderr
    assert "Cell 2" not in stopped.stdout and not list((tmp_path / "o").glob("squad/*-r1-*"))
    assert "2 cells, 0 failed" in command(*words).stdout
    [first] = (tmp_path / "o").glob("squad/*-r2-*/adapter/adapter_model.safetensors")
    assert first.read_bytes() == adapter(undisturbed())


def test_two_processes_stop_at_the_same_step_though_only_one_was_asked(tmp_path, command):
    """A logger writes in the first process alone, so the signal reaches that one alone."""
    words = [*small(**TWELVE), "trainer=ddp", "trainer.max_epochs=3", f"outputs={tmp_path}/o"]
    stopped = command("train.py", *words, *killed_at(5, by="SIGTERM"), check=None)
    assert stopped.returncode == os.EX_TEMPFAIL, stopped.stderr
    assert "Interrupted after step 5 of 12: stopped by SIGTERM." in stopped.stderr
    assert "Continuing from" in command("train.py", *words).stdout
    assert [step for step, *_ in losses(tmp_path / "o")] == [str(step) for step in range(1, 13)]


def test_a_signal_during_an_evaluation_keeps_what_was_answered(tmp_path, command):
    words = small(**{"lora.r": "0", "eval_sample": "40", "eval_batch": "2"})
    words = ["evaluate.py", *words, f"outputs={tmp_path}/o"]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    answered = lambda: [p for p in (tmp_path / "o").glob("squad/*/eval/*/predictions.jsonl") if p.stat().st_size]  # noqa: E731
    while not answered():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == os.EX_TEMPFAIL and "Stopped by SIGTERM. The same command continues" in said, said
    before = answered()[0].read_text().splitlines()
    assert 0 < len(before) < 40
    assert f"continuing: {len(before)} of 40 are answered" in command(*words).stdout
    after = answered()[0].read_text().splitlines()
    assert len(after) == 40 and set(before) <= set(after)


@pytest.mark.parametrize("by", ["SIGUSR2", "SIGTERM"])
def test_whoever_answered_to_the_signal_before_comes_after_the_checkpoint(by, tmp_path):
    """As in a job of submitit, which requeues at SIGUSR2 and then exits, and lets SIGTERM pass."""
    words = [*small(**TWELVE), f"outputs={tmp_path}/o", *killed_at(4, by=by)]
    job = f"""
import signal, sys
from pathlib import Path

def requeue(number, frame=None):
    [checkpoint] = Path({str(tmp_path / "o")!r}).glob("squad/*/checkpoints/last.ckpt")
    print("requeued with", checkpoint.name, flush=True)
    sys.exit(-1)

signal.signal(signal.SIGUSR2, requeue)
signal.signal(signal.SIGTERM, lambda number, frame=None: print("bypassed", flush=True))
sys.argv = ["train.py", *{words!r}]
from llama_exp.cli.main import run_command
run_command("train")
"""
    done = subprocess.run([sys.executable, "-c", job], cwd=ROOT, capture_output=True, text=True)
    if by == "SIGUSR2":
        assert "requeued with last.ckpt" in done.stdout and done.returncode == 255, done.stderr
    else:
        assert "bypassed" in done.stdout and done.returncode == os.EX_TEMPFAIL, done.stderr
    assert list((tmp_path / "o").glob("squad/*/checkpoints/last.ckpt")) and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", ["stop_signal=SIGKILL", "stop_signal=SIGINT", "stop_signal=usr1", "stop_signal=SIGUSR1 trainer=ddp"]
)
def test_a_signal_that_cannot_be_answered_is_refused(words):
    with pytest.raises(UserError, match="stop_signal="):
        load_config(*small(), *shlex.split(words))


def test_the_signals_that_may_be_chosen_are_answered_and_given_back():
    for name in CHOSEN:
        stop, before = StopSignals(), signal.getsignal(signal.Signals[name])
        stop.install(name)
        try:
            with pytest.raises(ToBeContinued) as error:
                signal.raise_signal(signal.Signals[name])
        finally:
            stop.restore()
        assert error.value.code == os.EX_TEMPFAIL and name in error.value.message
        assert signal.getsignal(signal.Signals[name]) == before


def test_a_second_ctrl_c_does_not_wait_for_the_step():
    stop = StopSignals()
    with pytest.raises(KeyboardInterrupt), stop.deferred():
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "Ctrl-C"
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still here")
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
