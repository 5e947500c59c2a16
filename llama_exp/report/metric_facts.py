"""What the report knows about a score by its name: the one place, until a metric declares it by itself."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """How a score is called and read. `binary`: every item is right or wrong, so that exact tests apply."""

    label: str
    meaning: str = ""
    lower_is_better: bool = False
    binary: bool = False


_KNOWN = {
    "squad/f1": MetricFacts("F1", "words shared with the right answer, in percent"),
    "squad/exact_match": MetricFacts("exact match", "answers equal to a right one, in percent", binary=True),
    "squad/precision": MetricFacts("precision", "share of the reply's words that are right, in percent"),
    "squad/recall": MetricFacts("recall", "share of the right answer's words that are in the reply, in percent"),
    "bertscore/f1": MetricFacts(
        "BERTScore F1", "how well the words of reply and reference match in meaning, to an encoder"
    ),
    "rouge/rougeL": MetricFacts(
        "ROUGE-L", "the longest sequence of words that reply and reference share, in percent of their length"
    ),
    "decision/accuracy": MetricFacts("accuracy", "yes, no or maybe as in the reference, in percent", binary=True),
    "loss": MetricFacts("loss", "surprise per token at the right answer, in nats", lower_is_better=True),
    "perplexity": MetricFacts("perplexity", "e to the loss", lower_is_better=True),
}
# Of several scores the report leads with the one that comes first here.
_PRIMARY = ("squad/f1", "bertscore/f1", "rouge/rougeL", "rouge/rougeLsum", "decision/accuracy", "pubmedqa/accuracy")
QUICK = ("squad", "decision")  # computed in a moment, tens of microseconds an item
# Facts of a BERTScore that must be equal for two scores to be comparable.
COMPARABLE_FACTS = ("model", "layer", "rescaled", "language", "matching")
LIKELIHOOD = ("loss", "perplexity")  # ratios of sums over tokens, no means over items


def describe(metric: str) -> MetricFacts:
    """What is known; of an unknown score, that higher is better."""
    return _KNOWN.get(metric) or MetricFacts(metric, binary=metric.endswith(("exact_match", "accuracy")))


def lower_is_better(metric: str) -> bool:
    return describe(metric).lower_is_better


def by_importance(metrics: Iterable[str]) -> list[str]:
    """The score to lead with first; loss and perplexity last."""
    return sorted(metrics, key=lambda m: (m in LIKELIHOOD, _PRIMARY.index(m) if m in _PRIMARY else len(_PRIMARY)))
