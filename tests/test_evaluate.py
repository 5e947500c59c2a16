"""Scores without a model, evaluations that were killed, transfer, and scores from another split."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llama_exp.data.synthetic import rows
from llama_exp.metrics import squad
from llama_exp.records import read_predictions
from tests.conftest import ROOT, small


@pytest.fixture(scope="module")
def dev_set(tmp_path_factory):
    """A SQuAD-shaped folder of JSON lines, made by rule."""
    folder = tmp_path_factory.mktemp("squad")
    for split, name in (("train", "train"), ("test", "validation")):
        with open(folder / f"{name}.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows("squad", split, 120, 0))
    return folder


def test_an_official_predictions_file_is_scored_without_a_model(dev_set, tmp_path, command):
    questions = [json.loads(line) for line in (dev_set / "validation.jsonl").read_text().splitlines()]
    given = {
        row["id"]: row["answers"]["text"][0] + " indeed" if n % 2 else row["context"] for n, row in enumerate(questions)
    }
    del given[questions[0]["id"]]
    given["nobody asked this"] = "x"
    (tmp_path / "p.json").write_text(json.dumps(given))
    done = command("evaluate.py", "dataset=squad", f"dataset.path={dev_set}", f"predictions={tmp_path}/p.json")
    scored = [squad.score(given.get(row["id"], ""), row["answers"]["text"]) for row in questions]
    for place, name in enumerate(("exact_match", "f1", "precision", "recall")):
        [line] = [line for line in done.stdout.splitlines() if line.startswith(f"squad/{name} ")]
        assert float(line.split()[1]) == pytest.approx(100 * sum(s[place] for s in scored) / len(questions), abs=1e-9)
    assert "120 questions; 1 without an answer (they score 0); 1 unknown ids left out." in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "one JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"a": 1}', "one JSON object"),
        ('{"a": "b"}', "none of its 1 ids"),
    ],
)
def test_a_file_of_another_shape_is_refused(text, said, dev_set, tmp_path, command):
    (tmp_path / "p.json").write_text(text)
    done = command(
        "evaluate.py", "dataset=squad", f"dataset.path={dev_set}", f"predictions={tmp_path}/p.json", check=None
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_killed_evaluation_continues_and_answers_each_question_once(tmp_path, command):
    words = small(**{"lora.r": "0", "eval_sample": "60", "eval_batch": "4", "dataset.rows": "80"})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command("evaluate.py", *words, f"outputs={whole}")
    process = subprocess.Popen([sys.executable, "evaluate.py", *words, f"outputs={broken}"], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = [
            line for path in broken.glob("squad/*/eval/*/predictions.jsonl") for line in path.read_text().splitlines()
        ]
        if len(lines) >= 8:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(broken.glob("squad/*/eval/*/results.json"))
    [path] = broken.glob("squad/*/eval/*/predictions.jsonl")
    with open(path, "a") as file:
        file.write('{"id": "cut sho')
    done = command("evaluate.py", *words, f"outputs={broken}")
    assert "continuing: " in done.stdout
    [reference] = whole.glob("squad/*/eval/*/predictions.jsonl")
    once = {prediction.id: prediction.reply for prediction in read_predictions(path)}
    assert len(read_predictions(path)) == len(once) == 60
    assert once == {prediction.id: prediction.reply for prediction in read_predictions(reference)}
    results = [
        json.loads(p.read_text())["scores"]
        for p in (path.with_name("results.json"), reference.with_name("results.json"))
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_transfer_is_evaluated_below_the_run_it_was_trained_in(tmp_path, command):
    """Also where the same words name a run of the evaluated dataset: that would pass its score off as transfer."""
    outputs = f"outputs={tmp_path}/o"
    command("train.py", *small(), outputs)
    missing = command("evaluate.py", *small(), "trained_on=medical", outputs, check=None)
    assert missing.returncode == 2 and "python train.py dataset=medical" in missing.stderr
    assert "dataset.source=synthetic" in missing.stderr
    typo = command("evaluate.py", *small(), "trained_on=medicall", outputs, check=None)
    assert typo.returncode == 2 and "known: guanaco, medical" in typo.stderr
    command("train.py", *small(dataset="medical"), outputs)
    done = command("evaluate.py", *small(), "trained_on=medical", outputs)
    assert "f1" in done.stdout
    [results] = (tmp_path / "o").glob("medical/*/eval/squad-test-6*/results.json")
    results = json.loads(results.read_text())
    assert (results["dataset"], results["trained_on"]) == ("squad", "medical")


@pytest.mark.parametrize("dataset", ["guanaco", "tweetsumm", "medical", "pubmedqa"])
def test_every_dataset_trains_and_is_evaluated(dataset, tmp_path, command):
    words = small(dataset=dataset, **{"dataset.max_new_tokens": "40", "sample": "8"})
    command("train.py", *words, f"outputs={tmp_path}/o", "evaluate=true")
    [results] = (tmp_path / "o").glob(f"{dataset}/*/eval/*/results.json")
    scores = json.loads(results.read_text())["scores"]
    assert scores["loss"] > 0 and scores["perplexity"] > 1


def test_the_validation_split_can_be_scored_for_choosing(tmp_path, command):
    words = small(**{"lora.r": "0", "split": "validation"})
    command("evaluate.py", *words, f"outputs={tmp_path}/o")
    [results] = (tmp_path / "o").glob("squad/*/eval/squad-validation-6*/results.json")
    assert json.loads(results.read_text())["split"] == "validation"
