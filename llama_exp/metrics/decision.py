"""PubMedQA's yes/no/maybe: accuracy and macro-F1, as its own evaluation computes them. Strings in, percents out.

Follows evaluation.py of https://github.com/pubmedqa/pubmedqa (Jin et al., arXiv 1909.06146), which calls scikit-learn's
`accuracy_score` and `f1_score(average="macro")`: the unweighted mean of the F1 of every decision that occurs among the
answers or the replies. There every reply is a decision. Here a reply may be something else: that is a miss for the
right decision, and no fourth class of its own. Pure Python.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from llama_exp.metrics.declaration import PERCENT, Score, metric
from llama_exp.metrics.label import mean_f1
from llama_exp.records import Prediction

DECISIONS = ("yes", "no", "maybe")


@lru_cache(maxsize=4096)  # an interval for macro-F1 asks for the same replies hundreds of times
def read_decision(reply: str) -> str:
    """The first word of a reply if it is a decision, else "" (which is always wrong)."""
    first = re.match(r"\W*(\w+)", reply.lower())
    return first.group(1) if first and first.group(1) in DECISIONS else ""


def answers(predictions: Sequence[Prediction]) -> list[tuple[str, str]]:
    """(the right decision, the one read from the reply or "") of each prediction."""
    return [(p.references[0].strip().lower(), read_decision(p.reply)) for p in predictions]


def macro_f1(predictions: Sequence[Prediction]) -> float:
    """`mean_f1` of the decisions, in percent."""
    return mean_f1(answers(predictions))


def facts(predictions: Sequence[Prediction]) -> dict[str, int]:
    """How many replies hold no decision."""
    return {"unreadable": sum(not given for _, given in answers(predictions))}


@metric(
    Score(
        "decision/accuracy",
        meaning="yes, no or maybe as in the reference, in percent",
        label="accuracy",
        bounds=PERCENT,
        binary=True,
        primary=True,
    ),
    Score("decision/macro_f1", meaning="mean F1 of the three decisions, in percent", label="macro-F1", bounds=PERCENT),
    corpus={"decision/macro_f1": macro_f1},
    facts=facts,
    label="decision",
    cheap=True,
)
def decision(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """Per prediction, in percent: decision/accuracy."""
    return {"decision/accuracy": [100.0 * (right == given) for right, given in answers(predictions)]}
