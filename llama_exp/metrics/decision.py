"""PubMedQA's yes/no/maybe: accuracy per item. Strings in, percents out (Jin et al., arXiv 1909.06146)."""

import re
from collections.abc import Sequence

from llama_exp.records import Prediction

DECISIONS = ("yes", "no", "maybe")


def decision(reply: str) -> str:
    """The first word of a reply if it is a decision, else "" (which is always wrong)."""
    first = re.match(r"\W*(\w+)", reply.lower())
    return first.group(1) if first and first.group(1) in DECISIONS else ""


def items(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """Per prediction, in percent: decision/accuracy."""
    right = [100.0 * (decision(p.reply) == p.references[0].strip().lower()) for p in predictions]
    return {"decision/accuracy": right}
