"""METRICS: predictions in, named scores out; and per item, so that intervals can be computed from them.

A metric is a module:

    items(predictions)    {score name: [value per prediction]}, in percent; the score is their mean
    CORPUS                {score name: function(predictions) -> percent} for what is no mean of items (macro-F1)
    facts(predictions)    what a reader of the score must know (encoder, layer, texts cut), stored beside it
    BOUNDS                the ends of the scale of `items`, None where it has none; (0, 100) if not said
    ready()               raises a UserError where something is not installed, before a model is loaded

All but `items` may be left out. A metric that is named in the settings gets its part of them as a second argument
(`ready`: as its only one).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from llama_exp.errors import UserError
from llama_exp.records import Prediction

METRICS = {
    "bertscore": "llama_exp.metrics.bertscore",
    "decision": "llama_exp.metrics.decision",
    "rouge": "llama_exp.metrics.rouge",
    "squad": "llama_exp.metrics.squad",
}
PERCENT = (0.0, 100.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric on some predictions. `bounds` are those of `items`; a corpus score is a percent from 0 to 100."""

    items: dict[str, list[float]]
    corpus: dict[str, Callable[[Sequence[Prediction]], float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    bounds: tuple[float, float] | None = PERCENT


def metric(name: str) -> Callable[..., dict[str, list[float]]]:
    """The `items` of a metric by its name in the YAML."""
    return _module(name).items


def measure(name: str, predictions: Sequence[Prediction], settings: Mapping[str, Any]) -> Measured:
    """Everything a metric says about some predictions. `settings` is {metric: its part of the config}."""
    module, given = _module(name), _given(name, settings)
    facts = module.facts(predictions, *given) if hasattr(module, "facts") else {}
    items = module.items(predictions, *given)
    return Measured(items, getattr(module, "CORPUS", {}), facts, getattr(module, "BOUNDS", PERCENT))


def bounds(score: str) -> tuple[float, float] | None:
    """The ends of the scale of "squad/f1" and the like; None for a score that has none, or that is not of METRICS."""
    family = score.split("/")[0]
    return getattr(_module(family), "BOUNDS", PERCENT) if family in METRICS else None


def check(names: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Raise a UserError for a metric that is unknown or cannot run here, before anything heavy is done for it."""
    for name in names:
        module = _module(name)
        if hasattr(module, "ready"):
            module.ready(*_given(name, settings))


def _module(name: str) -> ModuleType:
    if name not in METRICS:
        raise UserError(f"unknown metric {name!r}; known: {', '.join(sorted(METRICS))}")
    return import_module(METRICS[name])


def _given(name: str, settings: Mapping[str, Any]) -> tuple:
    return (settings[name],) if name in settings else ()
