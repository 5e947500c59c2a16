"""What a killed run leaves, and what the same command makes of it: real processes, SIGKILL at a known row."""

import contextlib
import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from llama_exp.config.compose import load_config
from llama_exp.runs.lock import lock_folder
from llama_exp.runs.run import Run
from llama_exp.training.checkpoint import usable_checkpoint
from tests.conftest import ROOT, python, small
from tests.killer import killed_at

LONG = {"trainer.max_epochs": "3", "validations": "3"}  # 12 steps of 4 Examples, a validation at 4, 8 and 12
WORSE = {
    "sample": "8",
    "optimizer.lr": "0.3",
    "optimizer.schedule": "constant",
    "trainer.max_epochs": "10",
    "validations": "20",
    "early_stopping": "3",
    "checkpoint_every": "1",
    "split": "validation",
    "eval_sample": "4",
}


def started(*words):
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


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
    done = subprocess.run(
        python("train.py", *small(**LONG), f"outputs={outputs}"), cwd=ROOT, capture_output=True, text=True
    )
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


class Payload:
    """Pickled, it creates a file when it is loaded."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def changed(change):
    """What turns a checkpoint's file into one with other contents, whole as far as its zip archive can tell."""

    def damage(path):
        checkpoint = torch.load(path, weights_only=True)
        torch.save(change(checkpoint, path.with_name("executed")), path)

    return damage


def wider(checkpoint, _):
    weights = checkpoint["state_dict"]
    return checkpoint | {"state_dict": {name: torch.cat([value, value]) for name, value in weights.items()}}


DAMAGED = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "a letter changed": lambda path: path.write_bytes(path.read_bytes().replace(b"lora_A", b"lora_C", 1)),
    "executes code": changed(lambda checkpoint, mark: checkpoint | {"callbacks": Payload(mark)}),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps(Payload(path.with_name("executed")))),
    "of another rank": changed(wider),
    "of another program": changed(lambda checkpoint, _: {"model": checkpoint["state_dict"]}),
    "a list": changed(lambda checkpoint, _: [1]),
    "of a longer run": changed(lambda checkpoint, _: checkpoint | {"global_step": 99}),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """(words, outputs) of a run that was killed after its checkpoint of step 6."""
    outputs = tmp_path_factory.mktemp("interrupted") / "o"
    words = [*small(**LONG), "checkpoint_every=2"]
    killed(*words, f"outputs={outputs}", *killed_at(7))
    return words, outputs


@pytest.mark.parametrize("damage", ["cut short", "executes code", "of another rank", "a folder"])
def test_a_damaged_checkpoint_is_put_aside_and_the_run_starts_anew(damage, interrupted, whole, tmp_path, command):
    words, outputs = interrupted
    shutil.copytree(outputs, tmp_path / "o")
    checkpoint = run_of(tmp_path / "o") / "checkpoints" / "last.ckpt"
    DAMAGED[damage](checkpoint)
    said = command("train.py", *words, f"outputs={tmp_path}/o").stdout
    assert f"{checkpoint} cannot be continued from (" in said and "renamed to last.ckpt.broken." in said
    assert "Continuing from" not in said
    assert not list((tmp_path / "o").glob("**/executed"))
    assert curve(tmp_path / "o") == curve(whole) and adapter(tmp_path / "o") == adapter(whole)


@pytest.mark.parametrize("damage", DAMAGED)
def test_every_damage_of_a_checkpoint_is_seen_and_none_is_executed(damage, interrupted, tmp_path, capsys):
    path = tmp_path / "last.ckpt"
    shutil.copy(run_of(interrupted[1]) / "checkpoints" / "last.ckpt", path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    module = SimpleNamespace(state_dict=lambda: weights)
    assert usable_checkpoint(path, module, 12) == path
    DAMAGED[damage](path)
    assert usable_checkpoint(path, module, 12) is None
    assert "Training restarts from step 0" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt.broken"]


@pytest.mark.parametrize("head", [b"a,b\n1,2\n", b"\x00\xff\xfe\x01\n\x80,\n"], ids=["foreign", "binary"])
def test_a_foreign_metrics_file_does_not_stop_a_run_from_continuing(head, interrupted, whole, tmp_path, command):
    words, outputs = interrupted
    shutil.copytree(outputs, tmp_path / "o")
    (run_of(tmp_path / "o") / "metrics.csv").write_bytes(head)
    said = command("train.py", *words, f"outputs={tmp_path}/o").stdout
    assert "Continuing from" in said
    assert adapter(tmp_path / "o") == adapter(whole)
    assert curve(tmp_path / "o") == curve(whole)[6:], "the steps before the checkpoint are lost, no others"


def test_a_run_that_ends_before_its_plan_is_not_called_finished(tmp_path, command):
    words = [*small(**LONG), "+trainer.max_time='00:00:00:01'", f"outputs={tmp_path}/o"]
    done = command("train.py", *words, *killed_at(99, pause=0.4), check=None)
    assert done.returncode == 2 and "of 12 planned steps" in done.stderr, done.stderr
    assert summary(tmp_path / "o")["status"] == "interrupted"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stops early, and is evaluated on its validation sample in the same process."""
    outputs = tmp_path_factory.mktemp("stopped") / "o"
    done = subprocess.run(
        python("train.py", *small(**WORSE), "evaluate=true", f"outputs={outputs}"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary(outputs)["status"] == "stopped early"
    losses = curve(outputs, "validation_loss")
    best, least = min(losses, key=lambda at: at[1])
    assert best < losses[-1][0], "the last weights must not be the best"
    assert f"; keeps step {best}, validation loss {least:.3f}; stopped at {losses[-1][0]}\n" in done.stdout
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


def test_a_continued_run_counts_the_seconds_of_the_process_before(tmp_path, command):
    """4 steps of at least half a second before the checkpoint, 8 quick ones after it."""
    words = [*small(**LONG), "checkpoint_every=4", f"outputs={tmp_path}/o"]
    killed(*words, *killed_at(5, pause=0.5))
    command("train.py", *words)
    assert summary(tmp_path / "o")["seconds"]["train"] > 2
    assert float(rows(tmp_path / "o")[-1]["seconds"]) < summary(tmp_path / "o")["seconds"]["train"]


def test_the_peak_memory_of_a_cell_is_its_own(tmp_path):
    """What the process held before training, and training before evaluation, is not counted: 4 GB, and then none."""
    words = [*small(**{"trainer": "cpu"}), "evaluate=true", f"outputs={tmp_path}/o"]
    code = "import sys, runpy; big = b'x' * 4_000_000_000; del big; runpy.run_path('train.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [results] = (tmp_path / "o").glob("squad/*/eval/*-test-*/results.json")
    peaks = [summary(tmp_path / "o")["peak_memory_bytes"], json.loads(results.read_text())["peak_memory_bytes"]]
    assert all(1e8 < peak < 3e9 for peak in peaks), peaks


def test_a_peak_is_forgotten_on_demand():
    import torch

    from llama_exp.model.memory import peak_memory, reset_peak_memory

    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory(device)
    big = b"x" * 200_000_000
    assert peak_memory(device) > before + 150_000_000
    del big
    reset_peak_memory(device)
    assert peak_memory(device) < before + 50_000_000


def wait_for(there, process, seconds=200):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None and not there():
        time.sleep(0.01)
    assert process.poll() is None and there()


@pytest.mark.parametrize(
    "processes", [[], ["trainer=ddp", "trainer.max_epochs=3"]], ids=["one process", "two processes"]
)
def test_two_trainings_of_one_cell_do_not_meet_and_a_killed_one_lets_go(processes, tmp_path, command):
    words = [*small(**LONG), "checkpoint_every=1", f"outputs={tmp_path}/o", *processes]
    first = started("train.py", *words, *killed_at(99, pause=30))
    wait_for(lambda: list((tmp_path / "o").glob("squad/*/metrics.csv")), first)
    second = command("train.py", *words, check=None)
    assert second.returncode == 2 and "Another process works in" in second.stderr, second.stderr
    first.kill()
    first.communicate()
    command("train.py", *words)
    assert [step for step, _ in curve(tmp_path / "o")] == list(range(1, 13))
    assert not (run_of(tmp_path / "o") / ".lease").exists()


@pytest.mark.parametrize("until_the_end", [True, False])
def test_a_sweep_comes_back_once_to_a_cell_that_another_process_holds(until_the_end, tmp_path, command):
    words = [word for word in small() if not word.startswith("sample=")] + [f"outputs={tmp_path}/o"]
    first, second = (Run.of(load_config(*words, f"sample={sample}")).folder for sample in (8, 16))
    with lock_folder(first) if until_the_end else contextlib.nullcontext():
        holder = threading.Thread(target=hold, args=(first, second / "adapter"), daemon=True)
        if not until_the_end:
            holder.start()
            while not (first / ".lease").exists():
                time.sleep(0.01)
        done = command("train.py", "-m", *words, "sample=8,16", check=None)
    assert "Another process works on this cell" in done.stdout and "\nCell 1 again\n" in done.stdout, done.stdout
    assert done.returncode == (75 if until_the_end else 0), done.stdout
    assert ("2 cells, 0 failed, 1 busy elsewhere" in done.stdout) == until_the_end
    assert (first / "adapter").exists() != until_the_end and (second / "adapter").exists()


def hold(folder, until):
    with lock_folder(folder):
        while not until.exists():
            time.sleep(0.01)


def test_two_evaluations_of_one_cell_do_not_meet_and_a_killed_ones_cost_is_added(tmp_path, command):
    words = small(**{"lora.r": "0", "eval_sample": "40", "eval_batch": "2"})
    words.append(f"outputs={tmp_path}/o")
    first = started("evaluate.py", *words)
    found = lambda: [p for p in (tmp_path / "o").glob("squad/*/eval/*/cost.json") if p.stat().st_size]  # noqa: E731
    wait_for(found, first)
    first.send_signal(signal.SIGSTOP)
    second = command("evaluate.py", *words, check=None)
    assert second.returncode == 2 and "Another process works in" in second.stderr, second.stderr
    first.kill()
    first.communicate()
    [cost] = found()
    spent = json.loads(cost.read_text())
    assert spent["seconds"] > 0 and spent["tokens"] > 0
    assert "continuing" in command("evaluate.py", *words).stdout
    results = json.loads(cost.with_name("results.json").read_text())
    lines = [json.loads(line)["id"] for line in cost.with_name("predictions.jsonl").read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 40
    assert results["seconds"] > spent["seconds"] and results["tokens"] > spent["tokens"]
    assert results["peak_memory_bytes"] >= spent["peak_memory_bytes"]
    assert not cost.with_name(".lease").exists()


def test_an_evaluation_that_cannot_write_says_so(tmp_path, command):
    """A limit on the size of files stands for a full disk; a file in the way for a folder that cannot be written."""
    words = small(**{"lora.r": "0", "eval_sample": "40"})
    limited = f"trap '' XFSZ; ulimit -f 4; exec {sys.executable} evaluate.py {' '.join(words)} outputs={tmp_path}/o"
    full = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 2 and "Cannot write to" in full.stderr and "Traceback" not in full.stderr, full.stderr
    (tmp_path / "file").write_text("not a folder")
    blocked = command("evaluate.py", *words, f"outputs={tmp_path}/file/o", check=None)
    assert blocked.returncode == 2 and "Cannot write to" in blocked.stderr and "Traceback" not in blocked.stderr


def test_a_source_that_was_edited_is_another_run(tmp_path, command):
    """The path is the same, the rows are not: neither continued nor taken for finished."""
    from tests.test_preflight import planted

    def write(more: str) -> None:
        for name, of_split in planted().items():
            given = [{**row, "question": row["question"] + more} for row in of_split]
            (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))

    (tmp_path / "data").mkdir()
    write("")
    words = [w for w in small() if not w.startswith(("dataset.source", "dataset.rows"))]
    words += [f"dataset.path={tmp_path}/data", "dataset.validation=0.2", "checkpoint_every=1", f"outputs={tmp_path}/o"]
    killed(*words, *killed_at(2))
    write(" Say.")
    done = command("train.py", *words, check=None)
    assert done.returncode == 2 and "its source was changed" in done.stderr, done.stderr
    write("")
    fewer = [w for w in words if not w.startswith("validation_sample")]  # what validation is measured on is no source
    assert "Continuing from" in command("train.py", *fewer, "validation_sample=3").stdout
    assert "already finished" in command("train.py", *fewer, "validation_sample=null").stdout
    assert "already finished" in command("train.py", *words, "eval_seed=5").stdout
    write(" Say.")
    done = command("train.py", *words, check=None)
    assert done.returncode == 2 and "its source was changed" in done.stderr, done.stderr


def test_a_new_start_clears_what_an_earlier_run_left(tmp_path, command):
    words = [*small(sample="8"), f"outputs={tmp_path}/o"]
    command("train.py", *words)
    run = run_of(tmp_path / "o")
    (run / "summary.json").unlink()
    for name in ("simulation", "eval"):
        (run / name).mkdir()
        (run / name / "left.json").write_text("{}")
    command("train.py", *words)
    assert not (run / "simulation").exists() and not (run / "eval").exists()


def test_keys_that_only_the_stored_run_has_make_it_another(stopped, command):
    run = run_of(stopped)
    done = command("train.py", *[w for w in small(**WORSE) if not w.startswith("early")], f"out={run}", check=None)
    assert done.returncode == 2 and "early_stopping: 3 there, None requested" in done.stderr, done.stderr
    done = command("train.py", *small(**{**WORSE, "validations": "10"}), f"out={run}", check=None)
    assert done.returncode == 2 and "validations: 20 there, 10 requested" in done.stderr, done.stderr


def test_the_untuned_model_is_not_answered_from_a_trained_run(stopped, command):
    done = command("evaluate.py", *small(**{**WORSE, "lora.r": "0"}), f"out={run_of(stopped)}", check=None)
    assert done.returncode == 2 and "lora.r=0 means the untuned model" in done.stderr, done.stderr
