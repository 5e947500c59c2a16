"""SQuAD's numbers equal the official script's, and a decision is read as PubMedQA reads it."""

import random
import re
import string
from collections import Counter

import pytest

from llama_exp.errors import UserError
from llama_exp.metrics import METRICS, decision, metric, squad
from llama_exp.records import Prediction


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
    items = squad.items([prediction("cat", "cat"), prediction("dog", "cat")])
    assert items["squad/f1"] == [100.0, 0.0]
    assert set(items) == {"squad/exact_match", "squad/f1", "squad/precision", "squad/recall"}


@pytest.mark.parametrize(
    ("reply", "read"), [("Yes.", "yes"), ("  no, because", "no"), ("Maybe", "maybe"), ("It is yes", ""), ("", "")]
)
def test_a_decision_is_the_first_word_or_none(reply, read):
    assert decision.decision(reply) == read


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(UserError, match=r"unknown metric 'rogue'; known: .*squad"):
        metric("rogue")


def test_every_metric_of_the_table_is_there():
    assert METRICS
    for name in METRICS:
        assert callable(metric(name))
