"""METRICS: predictions in, named scores out; and per item, so that intervals can be computed from them.

A metric is a module-level function `items(predictions) -> {score name: [value per prediction]}`, in percent. The score is
the mean; what is not a mean of items (perplexity, macro-F1) is computed where the whole is known.
"""

from collections.abc import Callable, Sequence
from importlib import import_module

from llama_exp.records import Prediction, Problem

METRICS = {
    "squad": "llama_exp.metrics.squad",
    "decision": "llama_exp.metrics.decision",
}


def metric(name: str) -> Callable[[Sequence[Prediction]], dict[str, list[float]]]:
    """The function of a metric by its name in the YAML."""
    if name not in METRICS:
        raise Problem(f"unknown metric {name!r}; known: {', '.join(sorted(METRICS))}")
    return import_module(METRICS[name]).items
