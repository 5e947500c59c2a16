"""Metrics declare themselves, also from outside the package; SQuAD's numbers equal the official script's."""

import csv
import importlib
import json
import math
import random
import re
import string
import sys
from collections import Counter

import pytest

from llama_exp.errors import UserError
from llama_exp.metrics import (
    METRICS,
    Score,
    by_importance,
    cheap_metrics,
    check,
    decision,
    declarations,
    describe,
    load,
    measure,
    squad,
)
from llama_exp.records import Prediction
from tests.conftest import small


def prediction(reply: str, *references: str) -> Prediction:
    return Prediction("q", "", references, reply, "article")


def official(reply: str, references: list[str]) -> tuple[float, float]:
    """Exact match and F1 written down again from evaluate-v1.1.py, to hold the package's code against."""

    def normalize_answer(s):
        exclude = set(string.punctuation)
        s = "".join(ch for ch in s.lower() if ch not in exclude)
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())

    def f1_score(prediction, ground_truth):
        p, g = normalize_answer(prediction).split(), normalize_answer(ground_truth).split()
        num_same = sum((Counter(p) & Counter(g)).values())
        if num_same == 0:
            return 0
        precision, recall = 1.0 * num_same / len(p), 1.0 * num_same / len(g)
        return (2 * precision * recall) / (precision + recall)

    def best(f):
        return max(f(reply, reference) for reference in references)

    return best(lambda p, g: normalize_answer(p) == normalize_answer(g)), best(f1_score)


def test_squad_equals_the_official_script_on_ten_thousand_odd_answers():
    rng = random.Random(0)
    words = ["the", "a", "An", "Cat", "cat", "dog.", "it's", "10,000", "", "  ", "é", "U.S.", "—", "the the"]
    for _ in range(10_000):
        reply = " ".join(rng.choices(words, k=rng.randint(0, 5)))
        references = [" ".join(rng.choices(words, k=rng.randint(0, 5))) for _ in range(rng.randint(1, 4))]
        exact, f1, _, _ = squad.score(reply, references)
        assert (exact, f1) == official(reply, references), (reply, references)


@pytest.mark.parametrize(
    ("reply", "references", "expected"),
    [
        ("the Denver Broncos", ["Denver Broncos"], (1, 1, 1, 1)),
        ("Denver", ["Denver Broncos"], (0, 2 / 3, 1, 1 / 2)),
        ("Denver Broncos won", ["Denver", "Denver Broncos"], (0, 4 / 5, 2 / 3, 1)),
        ("", ["Denver"], (0, 0, 0, 0)),
        ("the", ["a"], (1, 0, 0, 0)),  # both empty once normalised: exact, and F1 0, as the official script has it
        ("no", ["yes", "maybe"], (0, 0, 0, 0)),
    ],
)
def test_precision_and_recall_are_those_of_the_best_reference(reply, references, expected):
    assert squad.score(reply, references) == pytest.approx(expected)


def test_scores_are_percents_per_item():
    items = squad.squad([prediction("cat", "cat"), prediction("dog", "cat")])
    assert items["squad/f1"] == [100.0, 0.0]
    assert set(items) == {"squad/exact_match", "squad/f1", "squad/precision", "squad/recall"}


@pytest.mark.parametrize(
    ("reply", "read"), [("Yes.", "yes"), ("  no, because", "no"), ("Maybe", "maybe"), ("It is yes", ""), ("", "")]
)
def test_a_decision_is_the_first_word_or_none(reply, read):
    assert decision.read_decision(reply) == read


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(UserError, match=r"unknown metric 'rogue'; known: .*squad; or an import path"):
        load("rogue")


def test_every_metric_of_the_table_declares_scores_that_bear_its_name():
    assert METRICS
    for name in METRICS:
        scores = load(name).scores
        assert scores and all(score.startswith(f"{name}/") for score in scores)
        assert sum(score.primary for score in scores.values()) == 1
        assert all(score.meaning and score.label for score in scores.values())
        assert [describe(score) for score in scores] == list(scores.values())


def test_a_score_is_described_by_its_name_alone():
    assert describe("squad/f1").primary and describe("squad/f1").bounds == (0, 100)
    assert describe("squad/exact_match").binary and describe("decision/accuracy").binary
    assert describe("bertscore/f1").bounds is None and describe("bertscore/f1").limits == (-math.inf, 100)
    assert describe("loss").limits == (0, math.inf) and describe("squad/f1").limits == (0, 100)
    assert describe("loss").lower_is_better and describe("perplexity").lower_is_better
    assert cheap_metrics() == ["squad", "decision", "label"]


def test_a_score_that_nobody_declares_is_shown_all_the_same():
    assert describe("squad/rouge") == Score("squad/rouge", label="squad/rouge", better="higher", bounds=None)
    length = Score("length/words", meaning="words in the reply", better="lower", bounds=(0, 90))
    stored = json.loads(json.dumps({"length/words": length.as_dict()}))
    assert describe("length/words", stored) == length
    for damaged in (None, [1], {"better": "up"}, {"bounds": ["a", "b"]}, {"bounds": 3}, {"decimals": "many"}):
        assert describe("length/words", {"length/words": damaged}) == Score("length/words")
    assert describe("loss", {"loss": {"better": "higher"}}).better == "lower", "a file does not redefine ours"


def test_the_score_to_lead_with_is_a_primary_one_and_the_loss_comes_last():
    mine = {"mine/a": {"primary": True}}
    names = ["perplexity", "loss", "rouge/rouge1", "rouge/rougeL", "mine/a", "bertscore/recall", "bertscore/f1"]
    ordered = by_importance(names, mine)
    assert ordered[:3] == ["bertscore/f1", "rouge/rougeL", "mine/a"]
    assert ordered[-2:] == ["perplexity", "loss"]


OUTSIDE = """
from llama_exp.metrics import Score, metric


@metric(Score("length/words", meaning="words in the reply", label="length", better="lower", bounds=(0, 1000)))
def word_count(predictions):
    return {"length/words": [float(len(p.reply.split())) for p in predictions]}
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Write modules outside the package, importable: outside(name=source)."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**sources: str):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return tmp_path

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_metric_from_outside_is_found_by_its_import_path(outside):
    outside(outside_one=OUTSIDE)
    measured = measure("outside_one.word_count", [prediction("two words"), prediction("")], {})
    assert measured.items == {"length/words": [2.0, 0.0]}
    assert describe("length/words", declarations(["squad", "outside_one.word_count"])).lower_is_better
    package = outside() / "outside_package"
    package.mkdir()
    (package / "length.py").write_text(OUTSIDE)
    importlib.invalidate_caches()
    assert list(load("outside_package.length").scores) == ["length/words"]  # a module with one metric in it


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("nowhere.metric", "", r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\).*PYTHONPATH"),
        ("broken.word_count", "1 / 0", "cannot be imported \\(ZeroDivisionError"),
        ("broken.word_count", "import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("broken.word_count", "", "cannot be imported .*broken.word_count"),
        (
            "broken.word_count",
            "def word_count(predictions): ...",
            "declares none. Wanted a function with the decorator",
        ),
        ("broken.word_count", "word_count = 3", "declares none"),
        (
            "broken.word_count",
            "from llama_exp.metrics import metric\n@metric()\ndef word_count(p): ...",
            "at least one",
        ),
        ("broken.word_count", OUTSIDE.replace("lower", "less"), "better='less'; wanted 'higher' or 'lower'"),
        ("broken.word_count", OUTSIDE.replace("(0, 1000)", "(5, 5)"), r"bounds=\(5, 5\); wanted two numbers"),
        ("broken.word_count", OUTSIDE.replace("(0, 1000)", "None, binary=True"), "wanted its two values as bounds"),
        ("broken.word_count", OUTSIDE.replace("length/words", "squad/f1"), "both declare the score squad/f1"),
        ("broken.word_count", OUTSIDE.replace("length/words", "loss"), "both declare the score loss"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused_before_anything_is_loaded(name, source, message, outside):
    outside(broken=source)
    with pytest.raises(UserError, match=message):
        check(["squad", name], {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('return {"length/words":', 'return {"length/letters":'),
            "declares the scores .*words.* and returns .*letters",
        ),
        (("in predictions]", "in predictions[1:]]"), "length/words has 0 values for 1 predictions"),
        (("float(len(p.reply.split()))", "float('nan')"), "length/words is nan for an item"),
        (("float(len(p.reply.split()))", "-1.0"), "wanted a number from 0 to 1000"),
    ],
)
def test_scores_that_are_not_what_was_declared_are_refused(change, message, outside):
    outside(broken=OUTSIDE.replace(*change))
    with pytest.raises(UserError, match=message):
        measure("broken.word_count", [prediction("a reply")], {})


def test_a_metric_from_outside_appears_in_the_results_and_in_the_report(tmp_path, command):
    (tmp_path / "my_metric.py").write_text(OUTSIDE)
    words = small(**{"lora.r": "0", "dataset.metrics": "[squad,my_metric.word_count]", "outputs": str(command.outputs)})
    done = command("evaluate.py", *words, env={"PYTHONPATH": str(tmp_path)})
    assert "length 2" in done.stdout or "length 1" in done.stdout  # its label
    [path] = command.outputs.glob("squad/*/eval/*/results.json")
    results = json.loads(path.read_text())
    assert results["scores"]["length/words"] > 0 and "length/words" in results["intervals"]
    assert describe("length/words", results["declared"]).lower_is_better
    # The report imports nothing that a file names: it reads what was declared.
    command("llama-exp", "report", str(command.outputs), "metric=length/words")
    page = (command.outputs / "report" / "index.html").read_text()
    assert "words in the reply" in page and "lower is better" in page
    with open(command.outputs / "report" / "runs.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert float(row["length/words"]) == pytest.approx(results["scores"]["length/words"])
    assert re.search(r"<th[^>]*>length</th>", page), "by the label that it declares"
