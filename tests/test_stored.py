"""What lies in a run's folder is data: read as it was written, taken as absent or refused where it is not, and never
executed, wherever it came from."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak.damaged_files import damages
from llama_exp.cli.main import prepare_process
from llama_exp.config.compose import load_config
from llama_exp.errors import UserError
from llama_exp.evaluation.auto_metrics import with_metrics_of
from llama_exp.evaluation.results import stored_results
from llama_exp.overlap import audit
from llama_exp.records import Prediction
from llama_exp.report.breakdown import load_breakdown
from llama_exp.report.items import load_items
from llama_exp.report.load import load_curve, load_item_ids, load_runs
from llama_exp.runs.files import read_json, write_jsonl
from llama_exp.runs.find import check_adapter, find_run
from llama_exp.runs.results import Results, read_results, write_results
from llama_exp.runs.run import Run, read_config
from llama_exp.runs.scores import write_scores
from llama_exp.runs.stored import read_yaml
from llama_exp.runs.summary import Summary, read_summary, write_summary
from tests.conftest import ROOT, python

EVALUATED = ("results.json", "predictions.jsonl", "scores.jsonl")
SUMMARY = Summary(status="finished", identity={"dataset.name": "squad", "lora.r": 4}, steps=3, seconds={"train": 1.5})
RESULTS = Results(scores={"squad/f1": 50.0, "loss": None}, intervals={"squad/f1": {"low": 40.0}}, items=4, split="test")


def test_what_is_written_is_read(tmp_path):
    write_summary(tmp_path, SUMMARY)
    write_results(tmp_path, RESULTS)
    assert (read_summary(tmp_path), read_results(tmp_path)) == (SUMMARY, RESULTS)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ({"steps": "many"}, Summary()),
        ({"steps": True, "tokens": 2.5, "status": 7}, Summary()),
        ({"seconds": {"train": 8, "load": None, "data": "1"}}, Summary(seconds={"train": 8.0})),
        ({"seconds": [1], "versions": {"torch": 2}}, Summary()),
        ({"unknown": 1, "loss": {"train": None}}, Summary(loss={"train": None})),
    ],
)
def test_values_of_another_type_are_taken_as_absent(stored, read, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(stored))
    assert read_summary(tmp_path) == read


def test_a_file_of_a_newer_version_is_refused_and_costs_the_report_its_own_row_alone(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "eval" / "one").mkdir(parents=True)
        write_summary(tmp_path / name, SUMMARY)
        write_results(tmp_path / name / "eval" / "one", RESULTS)
    path = tmp_path / "new" / "eval" / "one" / "results.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(UserError, match="schema 99.*newer llama_exp"):
        read_results(path.parent)
    runs, [unread] = load_runs(tmp_path)
    assert {run.name: len(run.evaluations) for run in runs} == {"old": 1, "new": 0}
    assert unread.path == path and "schema 99" in unread.reason


class Payload:
    """Pickled, it creates a file when it is loaded."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture
def copied(speaker, tmp_path):
    """(words, run) of a finished run alone, in a copy that a test may damage; other tests evaluate the first one."""
    words, outputs = speaker
    [config] = outputs.glob("*/*/config.yaml")
    run = tmp_path / "o" / config.parent.relative_to(outputs)
    shutil.copytree(config.parent, run, ignore=shutil.ignore_patterns("eval"))
    return [word for word in words if not word.startswith("outputs=")] + [f"outputs={tmp_path}/o"], run


PICKLES = (
    "adapter/adapter_model.bin adapter/adapter_model.pt adapter/optimizer.pt adapter/training_args.bin "
    "adapter/pytorch_model.bin checkpoints/last.ckpt checkpoints/optimizer.pt optimizer.pt scores.pkl"
)


def test_no_command_executes_what_a_copied_run_holds_and_lost_replies_come_again(copied, tmp_path, command):
    words, run = copied
    mark = tmp_path / "executed"
    for name in PICKLES.split():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(pickle.dumps(Payload(mark)))
    command("evaluate.py", *words)
    [replies] = run.glob("eval/*/predictions.jsonl")
    whole = replies.read_text()
    replies.write_text(whole[: len(whole) // 2])
    assert "of 6 replies: the others are generated again" in command("evaluate.py", *words).stdout
    assert len(replies.read_text().splitlines()) == 6
    command("llama-exp", "chat", *words, "prompt=Hello", "max_new_tokens=2")
    command("llama-exp", "publish", *words, "dry_run=true")
    command("llama-exp", "report", str(run.parent.parent))
    command("train.py", *words)
    (run / "adapter/adapter_model.safetensors").unlink()  # the .bin beside it is no adapter
    done = command("llama-exp", "chat", *words, "prompt=Hello", check=None)
    assert done.returncode == 2 and "adapter_model.safetensors missing" in done.stderr, done.stderr
    assert not mark.exists()


def test_a_base_whose_weights_are_pickled_is_refused_and_not_loaded(llama, tmp_path, command):
    shutil.copytree(llama, tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    (tmp_path / "base/pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    words = ["dataset=squad", "dataset.source=synthetic", "model=tiny", f"model.path={tmp_path}/base"]
    done = command("train.py", *words, f"outputs={tmp_path}/o", check=None)
    assert done.returncode == 2 and "Wanted weights as safetensors" in done.stderr, done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "${seed}", "${broken", r"\\${x}", r"\${", "$${a}", "${sweep_folder:a,b}"]
)
def test_a_stored_text_is_never_computed(text, tmp_path):
    config = load_config("dataset=squad", "model=tiny", "dataset.source=synthetic")
    config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, system=text, licence=text))
    Run(config, tmp_path).write_config()
    assert read_config(tmp_path) == config


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a: " + "[" * 100_000,
        "a: !!python/object/apply:os.getcwd []\n",
        "a: !!set {b}\n",
        "- 1\n",
        "",
        "a: [1\n",
        "x" * 300_000,
        "\x00",
    ],
    ids="aliases deep python set list empty cut huge binary".split(),
)
def test_yaml_that_no_run_writes_is_refused_at_once_and_costs_no_other_run(text, copied, tmp_path):
    words, run = copied
    shutil.copytree(run, run.with_name("broken"))
    (run.with_name("broken") / "config.yaml").write_text(text)
    (run.with_name("broken") / "summary.json").unlink()
    with pytest.raises(ValueError):
        read_yaml(run.with_name("broken") / "config.yaml")
    with pytest.raises(UserError, match=r"config.yaml cannot be read \(.*Copy it again"):
        Run.load(run.with_name("broken"))
    runs, [unread] = load_runs(run.parent.parent)
    assert [one.folder for one in runs] == [run] and unread.path == run.with_name("broken") / "config.yaml"
    assert find_run(load_config(*words)).folder == run


def test_a_class_that_a_stored_config_names_is_compared_and_never_imported(copied, tmp_path, monkeypatch):
    words, run = copied
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Data: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("_target_: null", "_target_: evil.Data"))
    with pytest.raises(UserError, match=r"evil.Data reads, and here .*--config-dir FOLDER"):
        find_run(load_config(*words))
    assert Run.load(run).config.dataset._target_ is None
    [loaded], unread = load_runs(run.parent.parent)  # a report needs no class
    assert loaded.status == "finished" and not unread
    auto, trained = load_config(*words, "dataset.metrics=[auto]"), load_config(*words, "dataset.metrics=[evil]")
    with pytest.raises(UserError, match=r"type dataset.metrics=\[evil\]"):
        with_metrics_of(auto, trained)
    assert not (tmp_path / "executed").exists()


def test_links_to_a_scratch_disk_are_followed_and_a_run_counts_once(copied, tmp_path):
    _, run = copied
    outputs, scratch = run.parent.parent, tmp_path / "scratch"
    run.parent.rename(scratch)
    (outputs / run.parent.name).symlink_to(scratch)
    [once], unread = load_runs(outputs)
    assert once.folder == run and not unread
    (outputs / "again").symlink_to(scratch / run.name)
    (scratch / "circle").symlink_to(outputs)
    (scratch / "nowhere").symlink_to(tmp_path / "nothing")
    assert len(load_runs(outputs)[0]) == 1


@pytest.mark.parametrize("damage", ["gone", "cut", "weights", "a bit", "a bit, without stored hashes"])
def test_an_adapter_that_is_not_whole_is_refused_with_the_command_that_makes_it_again(damage, copied, capsys):
    words, run = copied
    config, weights = run / "adapter/adapter_config.json", run / "adapter/adapter_model.safetensors"
    data = weights.read_bytes()
    {
        "gone": config.unlink,
        "cut": lambda: os.truncate(config, 40),
        "weights": lambda: os.truncate(weights, len(data) - 9),
    }.get(damage, lambda: weights.write_bytes(data[:-3] + bytes([data[-3] ^ 64]) + data[-2:]))()
    if damage == "a bit, without stored hashes":
        summary = read_json(run / "summary.json")
        (run / "summary.json").write_text(json.dumps({**summary, "adapter": {}}))
        assert find_run(load_config(*words)).is_finished, "made before there were hashes"
        return
    with pytest.raises(UserError, match=r"train.py .*dataset=tweetsumm"):
        check_adapter(find_run(load_config(*words)).adapter)
    Run.load(run).put_aside_damaged_adapter()
    assert not Run.load(run).is_finished and (run / "adapter.broken").is_dir()
    assert "the run trains again" in capsys.readouterr().out


@pytest.mark.parametrize("other", [False, True])
def test_what_was_made_with_a_damaged_adapter_comes_back_with_the_same_adapter_alone(other, copied, command):
    words, run = copied
    (run / "simulation/one").mkdir(parents=True)
    (run / "eval/one").mkdir(parents=True)
    write_results(run / "eval/one", RESULTS)
    weights, stored = run / "adapter/adapter_model.safetensors", read_json(run / "summary.json")
    data = weights.read_bytes()
    weights.write_bytes(data[:-3] + bytes([data[-3] ^ 64]) + data[-2:])
    if other:  # as after an update of a library
        changed = stored["adapter"] | {weights.name: "0" * 64}
        (run / "summary.json").write_text(json.dumps(stored | {"adapter": changed}))
    said = command("train.py", *words).stdout
    assert weights.read_bytes() == data and ("what was made with it is back" in said) != other
    there = [name for name in ("eval/one", "simulation/one", "adapter.broken") if (run / name).exists()]
    assert there == (["adapter.broken"] if other else ["eval/one", "simulation/one"])
    [loaded], unread = load_runs(run.parent.parent)
    assert len(loaded.evaluations) == (not other) and not unread


FILES = ("config.yaml", "summary.json", "metrics.csv", "audit.json", *(f"eval/one/{name}" for name in EVALUATED))


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_damaged_in_any_way_ends_no_report(file, copied, tmp_path):
    """The part without a model of what benchmarks/soak/damaged_files.py tries by the hundred."""
    _, run = copied
    (run / "eval/one").mkdir(parents=True)
    write_results(run / "eval/one", RESULTS)
    replies = [Prediction(f"{i}", "p", ("r",), "r", "g", 1.0, 2) for i in range(4)]
    write_jsonl(run / "eval/one/predictions.jsonl", replies)
    write_scores(run / "eval/one", replies, {"squad/f1": [50.0] * 4})
    shutil.copytree(run.parent.parent, tmp_path / "whole")
    for name, damage in damages().items():
        shutil.rmtree(run.parent.parent)
        shutil.copytree(tmp_path / "whole", run.parent.parent)
        damage(run / file, random.Random(0))
        for one in load_runs(run.parent.parent)[0]:
            load_curve(one)
            for evaluation in one.evaluations:
                load_item_ids(evaluation)
                assert load_items(evaluation), name
        audit.summary(run)
        for read in (load_breakdown, stored_results):
            with contextlib.suppress(UserError):
                read(run / "eval/one")


def test_a_full_disk_behind_the_output_is_an_error(copied):
    _, run = copied
    with open("/dev/full", "w") as full:
        words = python("-m", "llama_exp", "report", str(run.parent.parent))
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_a_terminal_that_knows_only_ascii_gets_the_numbers(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_process()
    print("3.0 ± 0.2 … é", flush=True)
    assert stream.buffer.getvalue() == b"3.0 +/- 0.2 ... ?\n"
