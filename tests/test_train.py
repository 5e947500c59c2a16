"""The commands as a user types them: real subprocesses, real kills, real files."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, python, small


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def only_run(outputs, dataset="squad"):
    [run] = [path.parent for path in (outputs / dataset).glob("*/summary.json")]
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One trained and evaluated cell, for the tests that only read it."""
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    words = [*small(), f"outputs={outputs}"]
    done = subprocess.run(python("train.py", *words, "evaluate=true"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs, words, done.stdout


def test_a_cell_is_trained_evaluated_and_summarised(finished):
    outputs, _, said = finished
    run = only_run(outputs)
    assert run.name.startswith("tiny-16-r2-seed0")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == 4 and summary["epochs"] == 1
    assert summary["counts"]["train"]["sampled"] == 16
    learnt = json.loads((run / "sample.json").read_text())
    asked = {json.loads(line)["id"] for line in (run / "eval/squad-test-6/predictions.jsonl").read_text().splitlines()}
    assert len(learnt) == len(set(learnt)) == 16 and not asked & set(learnt)
    assert summary["lora"]["scale"] == 8.0
    assert summary["tokens"] == summary["counts"]["train"]["tokens"]
    assert 0 < summary["trainable_parameters"] < summary["parameters"] / 10
    rows = read_csv(run / "metrics.csv")
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2", "3", "4"]
    assert len([row for row in rows if row["validation_loss"]]) == 2
    assert int(rows[-1]["tokens"]) == summary["tokens"]
    results = json.loads((run / "eval/squad-test-6/results.json").read_text())
    assert results["items"] == 6
    assert {"squad/f1", "squad/exact_match", "squad/precision", "squad/recall", "loss", "perplexity"} == set(
        results["scores"]
    )
    assert len((run / "eval/squad-test-6/predictions.jsonl").read_text().splitlines()) == 6
    assert not (run / "checkpoints").exists()
    assert "validation loss" in said


def test_the_same_command_again_skips_what_is_finished(finished, command):
    outputs, words, _ = finished
    run = only_run(outputs)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    started = time.monotonic()
    done = command("train.py", *words, "evaluate=true")
    assert time.monotonic() - started < 15
    assert "already" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_evaluation_finds_the_run_by_the_same_words_without_its_training_keys(finished, command):
    _, words, _ = finished
    spoken = [w for w in words if not w.startswith(("batch", "trainer", "validation"))]
    done = command("evaluate.py", *spoken)
    assert "already evaluated" in done.stdout


def test_an_untrained_run_names_the_command_that_trains_it(finished, command):
    _, words, _ = finished
    done = command("evaluate.py", *words, "lora.r=3", check=None)
    assert done.returncode == 2
    assert "No adapter at" in done.stderr and "python train.py dataset=squad model=tiny" in done.stderr
    assert "lora.r=3" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_holds_another_config_prints_the_keys_that_differ(finished, command):
    outputs, words, _ = finished
    run = only_run(outputs)
    done = command("train.py", *words, f"out={run}", "optimizer.lr=0.5", check=None)
    assert done.returncode == 2
    assert "optimizer.lr: 0.005 there, 0.5 requested" in done.stderr or "optimizer.lr" in done.stderr
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_the_report_shows_the_cell(finished, command):
    outputs, _, _ = finished
    done = command("llama-exp", "report", str(outputs))
    assert "index.html" in done.stdout
    assert (outputs / "report/index.html").stat().st_size > 1000
    assert read_csv(outputs / "report/runs.csv")


def losses(run) -> dict[str, str]:
    return {row["step"]: row["loss"] for row in read_csv(run / "metrics.csv") if row["loss"]}


def test_a_killed_run_continues_and_its_losses_are_those_of_an_uninterrupted_one(tmp_path, command):
    """Killed (SIGKILL) in the middle, with dropout on and two epochs, so that every source of chance is in play."""
    words = small(**{"lora.dropout": "0.2", "trainer.max_epochs": "3", "checkpoint_every": "2", "validations": "3"})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command("train.py", *words, f"outputs={whole}")
    wanted = losses(only_run(whole))
    assert len(wanted) == 12

    process = subprocess.Popen(
        [sys.executable, "train.py", *words, f"outputs={broken}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        files = list(broken.glob("squad/*/metrics.csv"))
        if files and list(broken.glob("squad/*/checkpoints/last.ckpt")) and len(files[0].read_text().splitlines()) >= 6:
            break
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(broken.glob("squad/*/summary.json"))

    done = command("train.py", *words, f"outputs={broken}")
    assert "Continuing from" in done.stdout
    assert losses(only_run(broken)) == wanted
    summary = json.loads((only_run(broken) / "summary.json").read_text())
    assert summary["steps"] == 12


def test_ctrl_c_in_a_sweep_is_one_clear_message_and_the_same_command_goes_on(tmp_path, command):
    words = [w for w in small(**{"trainer.max_epochs": "6"}) if not w.startswith("lora.r=")]
    words = ["train.py", "-m", *words, "lora.r=1,2", f"outputs={tmp_path}/o"]
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        files = list((tmp_path / "o").glob("squad/*-r2-*/metrics.csv"))
        if files and len(files[0].read_text().splitlines()) > 5:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the whole group
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("Interrupted after step ") and " of 24: " in last
    assert "stopped by Ctrl-C" in last and "continues from the last checkpoint" in last
    for noise in ("Traceback", "FakeTensor", "KeyboardInterrupt", "Error", "cells,"):
        assert noise not in said, noise
    again = command(*words)
    assert "already finished" in again.stdout and "2 cells, 0 failed" in again.stdout
    assert "Continuing from" in again.stdout
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "o").glob("squad/*/summary.json")]
    assert [summary["steps"] for summary in summaries] == [24, 24]


def test_two_processes_learn_what_one_does(tmp_path, command):
    """Real gloo processes; 3 Examples a step, so that the ranks' shares differ in number and in label tokens."""
    words = small(batch="3")
    command("train.py", *words, f"outputs={tmp_path}/one")
    done = command("train.py", *words, "trainer=ddp", "trainer.max_epochs=1", f"outputs={tmp_path}/two")
    one, two = (read_csv(only_run(tmp_path / name) / "metrics.csv") for name in ("one", "two"))
    assert len(one) == len(two) == 8
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"] and a["tokens"] == b["tokens"]
        for column in ("loss", "validation_loss", "grad_norm"):
            assert bool(a[column]) == bool(b[column])
            if a[column]:
                assert float(a[column]) == pytest.approx(float(b[column]), rel=1e-3)
    assert done.stdout.count("Examples:") == 1, "only one process speaks"
    assert json.loads((only_run(tmp_path / "two") / "summary.json").read_text())["world_size"] == 2


def test_a_sweep_goes_on_after_a_failing_cell_and_says_which_failed(tmp_path, command):
    words = [w for w in small() if not w.startswith(("lora.r", "optimizer"))]
    done = command("train.py", "-m", *words, "lora.r=2", "optimizer.lr=0.001,1e30", f"outputs={tmp_path}/o", check=None)
    assert done.returncode == 1
    assert "2 cells, 1 failed" in done.stdout
    assert (
        "optimizer.lr=1e+30  FAILED: The loss became nan at step 2" in " ".join(done.stdout.replace("│", " ").split())
        or "FAILED" in done.stdout
    )
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "o").glob("squad/*/summary.json")]
    assert sorted(summary["status"] for summary in summaries) == ["failed", "finished"]
    assert any("The loss became nan at step 2" in (summary["reason"] or "") for summary in summaries)
    assert not (ROOT / "multirun.yaml").exists()


def test_a_sample_beyond_what_there_is_becomes_the_cell_of_all(tmp_path, command):
    words = small(sample="100000", **{"dataset.rows": "24"})
    done = command("train.py", *words, f"outputs={tmp_path}/o")
    assert "the cell sample=null" in done.stdout
    again = command("train.py", *small(sample="null", **{"dataset.rows": "24"}), f"outputs={tmp_path}/o")
    assert "already finished" in again.stdout
    assert "-all-r2-" in only_run(tmp_path / "o").name
    done = command("evaluate.py", *words, f"outputs={tmp_path}/o")
    assert "F1" in done.stdout


def test_what_does_not_reach_training_is_said_counted_and_stored(tmp_path, command):
    """Longer responses than the rows hold: half of a sample may be gone, and no size may pass for what was learnt."""
    words = small(evaluate="true", sample="40", max_length="128", eval_sample="40", **{"dataset.max_new_tokens": "4"})
    done = command("train.py", *words, f"outputs={tmp_path}/o")
    run = only_run(tmp_path / "o")
    train = json.loads((run / "summary.json").read_text())["counts"]["train"]
    assert 0 < train["encoded"] == 40 - train["dropped_response_too_long"] < 38
    assert (
        f"  {train['encoded']} of 40 Examples reach training; {train['dropped_response_too_long']} dropped "
        "(the response does not fit in max_length=128)\n"
    ) in done.stdout
    results = json.loads(next(run.glob("eval/*-test-*/results.json")).read_text())
    assert (results["train_examples"], results["examples_in_training"]) == (40, train["encoded"])
    printed = command("llama-exp", "report", str(tmp_path / "o")).stdout
    assert f"rank 2 on 40 examples ({train['encoded']} of them reached training)" in printed
    row = next(row for row in read_csv(tmp_path / "o/report/runs.csv") if row["split"] == "test")
    assert (row["sample"], row["examples"], row["examples_in_training"]) == ("40", "40", str(train["encoded"]))
    whole = command("train.py", *small(), f"outputs={tmp_path}/whole").stdout
    assert "reach training" not in whole, "nothing to say where nothing is dropped"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset=squadd"], "Could not find 'dataset/squadd'"),
        (["dataset=sqaud"], "Did you mean squad?"),
        (["dataset=tickets"], "DIR/dataset/tickets.yaml, is found with --config-dir DIR."),
        (["logger=[csv,lines]"], "'logger/lines'. Choices of logger: csv, mlflow, none, tensorboard, trackio, wandb."),
        (
            ["logger=[csv,wandbb]"],
            "Did you mean wandb?\nA file of your own, DIR/logger/wandbb.yaml, is found with --conf",
        ),
        (
            ["model=x"],
            "Choices of model: custom, llama2_13b, llama2_7b, llama2_7b_chat, tiny. Type for example model=c",
        ),
        (["optimzer.lr=1", "smaple=3"], "No key 'smaple'. Did you mean sample"),
        (["lr=1e-4"], "No key 'lr'. Did you mean optimizer.lr=1e-4?"),
        (
            ["rank=8", "epochs=3"],
            "No key 'rank'. Did you mean lora.r=8?\nNo key 'epochs'. Did you mean trainer.max_epochs=3?",
        ),
        (["warmup_steps=100"], "No key 'warmup_steps'. Did you mean optimizer.warmup?"),
        (["sample=many"], "sample=many: wanted a whole number or null."),
        (["sample=1e6"], "sample=1e6: wanted a whole number or null. Type sample=1000000\n"),
        (["sample=49.0"], "Type sample=49\n"),
        (["batch=1.6e1"], "batch=1.6e1: wanted a whole number. Type batch=16\n"),
        (["sample=0.5"], "sample=0.5: wanted a whole number or null.\n"),
        (["lora.r=abc"], "lora.r=abc: wanted a whole number."),
        (["optimizer.lr=fast"], "optimizer.lr=fast: wanted a number."),
        (["split=tset"], "split=tset: wanted one of validation, test."),
        (["sample=1,2"], "sample=1,2: several values are a sweep, which takes -m."),
        (["dataset.template=Say: {context}"], """Type "dataset.template='Say: {context}'\""""),
        (["dataset.template='{context}"], """Type "dataset.template='{context}'\""""),
        (["model=tiny", "dataset.path=~/nowhere.csv"], f"{Path.home()}/nowhere.csv"),
        (["model=tiny", "dataset.source=synthetic", f"out=/tmp/{'x' * 300}"], "File name too long"),
        (["sample"], "sample: wanted key=value."),
        (["sweep=seedz"], "Could not find 'sweep/seedz'"),
        (["experiment=quikstart"], "Could not find 'experiment/quikstart'"),
        (["--sample", "50"], "sample=50"),
        (["sample", "=", "60"], "no spaces around ="),
        (["-m", "sample=1,2", "--cfg", "job"], "leave out -m"),
        (["batch=0", "lora.r=-1"], "lora.r=-1: wanted 0 or more."),
        (["logger=null"], "logger=none"),
        (["model=llama2_7b"], "needs a GPU"),
        (["model=tiny", "dataset.path=./nowhere"], "nowhere"),
        (["model=tiny", "model.path=./nowhere", "dataset.source=synthetic"], "model.path=./nowhere"),
        (["model=tiny", "dataset.source=synthetic", "dataset.template='{contxt}'"], "{context}"),
        (["model=tiny"], "HF_HUB_OFFLINE is set, so only its cache was looked at."),
    ],
)
def test_bad_input_gets_a_readable_line_and_nothing_is_written(words, said, tmp_path, command):
    done = command("train.py", *words, f"outputs={tmp_path}/o", check=None, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode in (1, 2)
    assert said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_without_network_the_hub_is_one_line_and_one_reason(command, tmp_path):
    """A real attempt, at an address where nothing listens."""
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = command("train.py", "model=tiny", f"outputs={tmp_path}/o", env=env, check=None)
    assert done.returncode == 2
    first, reason, advice = done.stderr.strip().splitlines()
    assert first.startswith("Loading rajpurkar/squad from the hub (tries for half a minute")
    assert reason.startswith("Could not load rajpurkar/squad") and "HF_HUB_OFFLINE" not in advice


def test_cells_that_fail_alike_are_one_line_with_their_number(command, tmp_path):
    done = command(
        "train.py",
        "-m",
        "sample=1,2,3",
        "lora.r=1,2,4",
        f"outputs={tmp_path}/o",
        check=None,
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 1 and "9 cells, 9 failed" in done.stdout
    assert "sample=1 lora.r=1 and 8 more cells" in done.stdout
    named = [line for line in done.stdout.splitlines() if line.startswith("Cell ")]
    assert named[0] == "Cell 1: sample=1 lora.r=1" and named[8] == "Cell 9: sample=3 lora.r=4" and len(named) == 9
    assert done.stdout.count("needs a GPU") == 2, "once where it happened, once in the table"


def test_a_read_only_outputs_folder_is_a_readable_error(tmp_path, command):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = command("train.py", *small(), f"outputs={blocked}/o", check=None)
    assert done.returncode in (1, 2)
    assert "Cannot write" in done.stderr and "Traceback" not in done.stderr


def test_untuned_is_evaluated_once_whatever_sample_says(tmp_path, command):
    words = small(**{"lora.r": "0"})
    done = command("train.py", *words, f"outputs={tmp_path}/o")
    assert "evaluate=true scores it" in done.stdout
    assert not (tmp_path / "o").exists()
    command("train.py", *words, f"outputs={tmp_path}/o", "evaluate=true")
    again = command("train.py", *small(**{"lora.r": "0", "sample": "8"}), f"outputs={tmp_path}/o", "evaluate=true")
    assert "already evaluated" in again.stdout
    assert [path.name for path in (tmp_path / "o/squad").iterdir()] == ["tiny-r0"] or len(
        list((tmp_path / "o/squad").iterdir())
    ) == 1


def test_help_and_config_are_quick(command):
    for words in (["--help"], ["--cfg", "job"]):
        started = time.monotonic()
        command("train.py", *words)
        assert time.monotonic() - started < 8  # 0.7 s on an idle machine
    code = (
        "import sys, train, evaluate, llama_exp.cli.commands\n"
        "sys.exit(bool({'torch', 'lightning', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_command_whose_reader_is_gone_does_not_say_that_it_succeeded(tmp_path):
    words = ["train.py", *small(sample="8"), f"outputs={tmp_path}/o"]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert "Stopped: the reader of" in process.stderr.read()
    assert process.wait(timeout=60) == 141


def test_loading_a_base_imports_nothing_that_was_not_there_before():
    """It runs in a thread while the main one imports Lightning: of two that import the same, one may see half a
    module."""
    code = (
        "import sys\nfrom llama_exp.model import base as model\nfrom llama_exp.model.imports import import_all\n"
        "from llama_exp.config.compose import default_config\nimport torch\n"
        "config = default_config({'dataset': 'squad', 'model': 'tiny'}).model\n"
        "import_all()\nbefore = set(sys.modules)\n"
        "model.load_base(config, torch.device('cpu'))\n"
        "print(sorted(sys.modules.keys() - before - {'llama_exp.tiny'}), 'lightning' in before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] False", done.stdout + done.stderr


WATCHED = """
import gc, sys, weakref
from llama_exp.cli.main import CommandLine
from llama_exp.model import imports

bases, parameters, moments, left, usual = [], [], [], [], imports.import_all

def import_all():
    if not bases:
        print("torch", "torch" in sys.modules, flush=True)
    usual()
    from llama_exp.model.spare_adapter import SpareAdapter
    from llama_exp.training import recipe
    if not gc.isenabled():
        return
    gc.disable()  # what goes from here on is what we let go ourselves
    choose, attach, build = recipe.choose, SpareAdapter.attach, recipe.build_trainer

    def watched_choose(*parts):
        alive = lambda found: [one() for one in found if one() is not None]
        left.append((len({*map(id, alive(bases))}), sum(one.numel() for one in alive(parameters))))
        return choose(*parts)

    def watched_attach(spare, base, *parts):
        model = attach(spare, base, *parts)
        bases.append(weakref.ref(base))
        parameters.extend(weakref.ref(one) for one in model.parameters() if one.requires_grad)
        return model

    def watched_build(*parts):
        trainer = build(*parts)
        end = trainer.strategy.teardown  # copies to the CPU what there is

        def watched_end():
            moments.extend(len(optimizer.state) for optimizer in trainer.optimizers)
            end()

        trainer.strategy.teardown = watched_end
        return trainer

    recipe.choose, SpareAdapter.attach, recipe.build_trainer = watched_choose, watched_attach, watched_build

imports.import_all = import_all
code = CommandLine("train", sys.argv[1:]).run()
print("left", left, moments, code)
"""


def test_a_sweep_lets_go_of_what_a_cell_held_before_it_plans_the_next_one_s_memory(tmp_path):
    """An adapter of rank 64 with gradients and moments is 2.5 GB of a 7B, and Lightning holds it in reference cycles.

    A process of its own, because what is imported first decides what the garbage collector walks.
    """
    words = small(**{"model.quantisation": "none,nf4", "seed": "0,1"}, outputs=str(tmp_path))
    start = [sys.executable, "-c", WATCHED, "-m", *words]
    done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True)
    new, same = (0, 0), (1, 0)  # what is left: bases, elements of adapters
    assert f"left {[new, same, new, same]} {[0, 0, 0, 0]} 0" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("torch False") == 1, "imported where the garbage collector waits"


def test_an_evaluation_imports_torch_where_the_garbage_collector_waits(tmp_path):
    words = small(**{"lora.r": "0", "evaluate": "true"}, outputs=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", WATCHED, *words], cwd=ROOT, capture_output=True, text=True)
    assert "torch False" in done.stdout and "left [] [] 0" in done.stdout, done.stdout + done.stderr


def test_data_that_are_not_there_are_refused_before_anything_heavy_is_imported(tmp_path):
    """The imports take ten seconds, in which nothing could be said about a typo."""
    code = (
        "import sys\nfrom llama_exp.evaluation.recipe import evaluate\nfrom llama_exp.training.train import train\n"
        "from llama_exp.config.compose import default_config\nfrom llama_exp.errors import UserError\n"
        "config = default_config({'dataset': 'squad', 'model': 'tiny', 'trainer': 'cpu'})\n"
        "config.dataset.path, config.outputs = '/nowhere', sys.argv[1]\n"
        "for command in (train, evaluate):\n"
        "    try:\n        command(config)\n    except UserError as problem:\n        print(problem)\n"
        "    config.lora.r = 0\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    refused = "dataset.path=/nowhere: there is no such folder or file (looked at /nowhere)."
    assert done.stdout.splitlines() == [refused, refused, "[]"], done.stdout + done.stderr


def test_wandb_keeps_two_cells_of_a_sweep_apart_and_never_asks_for_a_key(tmp_path, command):
    words = [word for word in small(sample="8") if not word.startswith("lora.r=")]
    command(
        "train.py",
        "-m",
        *words,
        "lora.r=1,2",
        "logger=wandb",
        f"outputs={tmp_path}/o",
        env={"WANDB_API_KEY": "", "WANDB_MODE": ""},
    )
    ids = {path.name.rsplit("-", 1)[1] for path in (tmp_path / "o").glob("squad/*/wandb/offline-run-*")}
    assert len(ids) == 2
    for path in (tmp_path / "o").glob("squad/*/wandb/offline-run-*/*.wandb"):
        history = path.read_bytes()
        assert b"validation_loss" in history and b"grad_norm" in history
    assert len(list((tmp_path / "o").glob("squad/*/summary.json"))) == 2


def test_a_logger_that_cannot_start_stops_the_command_before_training(tmp_path, command):
    entity = "+logger.wandb.entity=[1]"
    done = command("train.py", *small(sample="8"), "logger=wandb", entity, f"outputs={tmp_path}/o", check=None)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "The logger wandb could not start" in done.stderr and "WANDB_MODE=disabled" in done.stderr
    assert not list(tmp_path.glob("o/squad/*/metrics.csv"))


def test_early_stopping_keeps_the_best_adapter(tmp_path, command):
    words = small(
        sample="8",
        **{
            "optimizer.lr": "0.3",
            "optimizer.schedule": "constant",
            "trainer.max_epochs": "10",
            "validations": "20",
            "early_stopping": "2",
        },
    )
    command("train.py", *words, f"outputs={tmp_path}/o")
    summary = json.loads((only_run(tmp_path / "o") / "summary.json").read_text())
    assert summary["status"] == "stopped early"
    assert summary["steps"] < summary["planned_steps"] == 20
    done = command("evaluate.py", *words, "split=validation", "eval_sample=4", f"outputs={tmp_path}/o")
    assert "already" not in done.stdout
    [results] = (tmp_path / "o").glob("squad/*/eval/*-validation-4*/results.json")
    measured = json.loads(results.read_text())["scores"]["loss"]
    assert measured == pytest.approx(summary["loss"]["best_validation"], rel=1e-3)


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.name=adamw_8bit"],
        ["optimizer.name=paged_adamw_8bit"],
        ["optimizer.neftune=5"],
        ["max_tokens=2000", "trainer.max_epochs=-1"],
        ["model.quantisation=nf4"],
        ["model.gradient_checkpointing=true"],
    ],
)
def test_the_ways_to_train_all_run(words, tmp_path, command):
    command("train.py", *small(sample="8"), *words, f"outputs={tmp_path}/o")
    summary = json.loads((only_run(tmp_path / "o") / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["loss"]["train"] > 0
    if words[0].startswith("max_tokens"):
        assert 2000 <= summary["tokens"] < 2000 + 4 * 512


def test_the_first_losses_are_pinned(tmp_path, command):
    """One seeded run on CPU. A change here means that the numbers of earlier runs can no longer be compared."""
    command("train.py", *small(), f"outputs={tmp_path}/o")
    found = [float(loss) for loss in losses(only_run(tmp_path / "o")).values()]
    assert found == pytest.approx([8.578, 4.698, 5.265, 4.086], abs=0.01)
