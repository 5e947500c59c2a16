"""ROUGE equals rouge-score called directly, best over references; PubMedQA's decision scores equal scikit-learn's."""

import random

import pytest

from llama_exp.metrics import decision, measure, rouge
from llama_exp.records import Prediction


def predictions(pairs) -> list[Prediction]:
    return [Prediction(str(n), "", tuple(references), reply, f"g{n}") for n, (reply, references) in enumerate(pairs)]


def test_scores_equal_those_of_rouge_score_called_directly():
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(0)
    words = "customer asks asking agent parcels parcel delayed was is the refund refunded . é 10 — order".split()
    pairs = [
        (
            " ".join(rng.choices(words, k=rng.randint(0, 12))),
            [" ".join(rng.choices(words, k=rng.randint(0, 12))) for _ in range(rng.randint(1, 4))],
        )
        for _ in range(200)
    ]
    items = rouge.rouge(predictions(pairs))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        wanted = [100 * max(scorer.score(r, reply)[name].fmeasure for r in references) for reply, references in pairs]
        assert items[f"rouge/{name}"] == wanted, name


@pytest.mark.parametrize(
    ("reply", "references", "expected"),
    [
        ("Customers asked", ["customer asks"], (100, 100, 100)),  # English stems
        ("the parcel", ["a refund", "the parcel is late"], (200 / 3, 50, 200 / 3)),  # the best reference counts
        ("", ["the parcel"], (0, 0, 0)),
        ("the parcel", [""], (0, 0, 0)),
    ],
)
def test_scores_are_percents_of_the_best_reference(reply, references, expected):
    items = rouge.rouge(predictions([(reply, references)]))
    assert [items[f"rouge/{name}"][0] for name in ("rouge1", "rouge2", "rougeL")] == pytest.approx(expected)


def test_replies_without_a_word_that_rouge_knows_are_counted():
    measured = measure("rouge", predictions([("привет", ["hello"]), ("", ["hello"]), ("hello", ["hello"])]), {})
    assert measured.facts == {"wordless_replies": 2}


def test_accuracy_and_macro_f1_equal_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(1)
    for size in (1, 2, 5, 500):
        for labels in (["yes"], ["yes", "no"], ["yes", "no", "maybe"]):
            truth, given = rng.choices(labels, k=size), rng.choices(["yes", "no", "maybe"], k=size)
            items = predictions(zip(given, [[word] for word in truth], strict=True))
            accuracy = sum(decision.decision(items)["decision/accuracy"]) / size
            assert accuracy == pytest.approx(100 * metrics.accuracy_score(truth, given))
            assert decision.macro_f1(items) == pytest.approx(100 * metrics.f1_score(truth, given, average="macro"))


def test_a_reply_that_is_no_decision_is_a_miss_and_no_class_of_its_own():
    items = predictions([("yes", ["yes"]), ("It is no", ["no"]), ("maybe", ["maybe"])])
    assert decision.macro_f1(items) == pytest.approx(100 * (1 + 0 + 1) / 3)
    measured = measure("decision", items, {})
    assert measured.facts == {"unreadable": 1}
    assert list(measured.corpus) == ["decision/macro_f1"]
    assert decision.macro_f1([]) == 0.0
