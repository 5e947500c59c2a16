"""SQuAD v1.1's exact match and F1, with the precision and recall of the same reference. Strings in, percents out.

Follows the official evaluate-v1.1.py (Rajpurkar et al., arXiv 1606.05250): lower case, punctuation away, articles away,
white space folded; the best reference counts. Pure Python: no torch, no numpy.
"""

import functools
import re
import string
from collections import Counter
from collections.abc import Sequence

from llama_exp.metrics.declaration import PERCENT, Score, metric
from llama_exp.records import Prediction

_PUNCTUATION = set(string.punctuation)


def normalise(text: str) -> str:
    """The official normalisation, in the official order."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@functools.lru_cache(maxsize=2**16)
def _normalised_reference(reference: str) -> str:
    """The cells of a sweep have the same references."""
    return normalise(reference)


def compare(reply: str, reference: str) -> tuple[float, float, float, float]:
    """(exact match, F1, precision, recall) of a reply against one reference, each from 0 to 1."""
    given, wanted = normalise(reply), _normalised_reference(reference)
    exact = float(given == wanted)
    words, right = given.split(), wanted.split()
    common = sum((Counter(words) & Counter(right)).values())
    if common == 0:  # the official script gives F1 0 here, even to two empty strings
        return exact, 0.0, 0.0, 0.0
    precision, recall = common / len(words), common / len(right)
    return exact, 2 * precision * recall / (precision + recall), precision, recall


def score(reply: str, references: Sequence[str]) -> tuple[float, float, float, float]:
    """The official best exact match and best F1, and the precision and recall of the reference with the best F1.

    Exact match and F1 are maxima of their own, as in the official script; ties in F1 go to the exact match.
    """
    compared = [compare(reply, reference) for reference in references]
    best = max(compared, key=lambda values: (values[1], values[0]))
    return max(values[0] for values in compared), best[1], best[2], best[3]


@metric(
    Score(
        "squad/exact_match",
        meaning="answers equal to a right one, in percent",
        label="exact match",
        bounds=PERCENT,
        binary=True,
    ),
    Score(
        "squad/f1", meaning="words shared with the right answer, in percent", label="F1", bounds=PERCENT, primary=True
    ),
    Score(
        "squad/precision",
        meaning="share of the reply's words that are right, in percent",
        label="precision",
        bounds=PERCENT,
    ),
    Score(
        "squad/recall",
        meaning="share of the right answer's words that are in the reply, in percent",
        label="recall",
        bounds=PERCENT,
    ),
    label="SQuAD",
    cheap=True,
)
def squad(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """Per prediction, in percent: squad/exact_match, squad/f1, squad/precision, squad/recall."""
    scored = [score(prediction.reply, prediction.references) for prediction in predictions]
    names = ("squad/exact_match", "squad/f1", "squad/precision", "squad/recall")
    return {name: [100.0 * values[index] for values in scored] for index, name in enumerate(names)}
