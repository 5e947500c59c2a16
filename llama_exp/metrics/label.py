"""Accuracy and macro-F1 where a response is one of a few labels. Strings in, percents out.

As scikit-learn's `accuracy_score` and `f1_score(average="macro")` over the labels of the references; a reply that is
none of them is a miss for the right label, and no class of its own. Case, spacing and the punctuation around a reply do
not count. Pure Python.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from llama_exp.metrics.declaration import PERCENT, Score, metric
from llama_exp.records import Prediction


def normalise(text: str) -> str:
    """ " Hardware. " -> "hardware"."""
    folded = " ".join(text.casefold().split())
    return folded.strip(" .!\"'`*") or folded


def pairs(predictions: Sequence[Prediction]) -> list[tuple[str, str]]:
    """(the right label, the reply as a label or "") of each prediction. Of several references the one that was met."""
    wanted = [[normalise(reference) for reference in p.references] for p in predictions]
    known = {label for several in wanted for label in several}
    replies = [reply if (reply := normalise(p.reply)) in known else "" for p in predictions]
    return [(reply if reply in several else several[0], reply) for several, reply in zip(wanted, replies, strict=True)]


def macro_f1(predictions: Sequence[Prediction]) -> float:
    """`mean_f1` of the labels, in percent."""
    return mean_f1(pairs(predictions))


def mean_f1(found: Sequence[tuple[str, str]]) -> float:
    """The mean over labels of 2 hits / (times right + times given), in percent, of (right, given or "") pairs."""
    hits = Counter(right for right, given in found if right == given)
    times = Counter(right for right, _ in found) + Counter(given for _, given in found if given)
    return 100.0 * sum(2 * hits[label] / times[label] for label in sorted(times)) / len(times) if times else 0.0


def facts(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """How many labels there are, how many replies are none of them, and what answering the commonest label always
    would score, in percent."""
    found = pairs(predictions)
    counts = Counter(right for right, _ in found)
    label, most = counts.most_common(1)[0] if counts else ("", 0)
    return {
        "labels": len(counts),
        "unreadable": sum(not given for _, given in found),
        "commonest": label,
        "always_commonest": 100.0 * most / max(len(found), 1),
    }


@metric(
    Score(
        "label/accuracy",
        meaning="replies that are the right label, in percent",
        label="accuracy",
        bounds=PERCENT,
        binary=True,
        primary=True,
    ),
    Score("label/macro_f1", meaning="mean F1 of the labels, in percent", label="macro-F1", bounds=PERCENT),
    corpus={"label/macro_f1": macro_f1},
    facts=facts,
    label="label",
    cheap=True,
)
def label(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """Per prediction, in percent: label/accuracy."""
    return {"label/accuracy": [100.0 * (right == given) for right, given in pairs(predictions)]}
