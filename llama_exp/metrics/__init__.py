"""Metrics: predictions in, named scores out; per item, so that intervals can be computed from them.

A metric is a function with the decorator `metric`, which declares its scores (declaration.py). Those of this package
have short names; any other is named by its import path, `dataset.metrics=[squad,my_package.my_module.my_metric]`.

    load("squad")            the Metric
    describe("squad/f1")     its Score: meaning, direction, bounds …; also of "loss" and "perplexity"
    measure(name, …)         scores and facts of some predictions
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from llama_exp.errors import UserError
from llama_exp.metrics import likelihood
from llama_exp.metrics.declaration import PERCENT, Measured, Metric, Score, metric
from llama_exp.metrics.default import AUTO, default_metrics
from llama_exp.records import Prediction

__all__ = [
    "AUTO",
    "METRICS",
    "PERCENT",
    "Measured",
    "Metric",
    "Score",
    "by_importance",
    "check",
    "cheap_metrics",
    "declarations",
    "default_metrics",
    "describe",
    "load",
    "measure",
    "metric",
    "scoring_settings",
    "settings_in",
]

# Name -> import path. A dataset with several metrics leads with the one that comes first here.
METRICS = {
    "squad": "llama_exp.metrics.squad.squad",
    "bertscore": "llama_exp.metrics.bertscore.bertscore",
    "rouge": "llama_exp.metrics.rouge.rouge",
    "decision": "llama_exp.metrics.decision.decision",
    "label": "llama_exp.metrics.label.label",
}


def load(name: str) -> Metric:
    """The metric of this name or import path (a function, or a module with one metric in it).

    Raises UserError where there is none. Imports what is named: call it with names that the user typed, and use
    `describe` for names that come from a file.
    """
    if name not in METRICS and "." not in name:
        raise UserError(
            f"unknown metric {name!r}; known: {', '.join(sorted(METRICS))}; "
            "or an import path, such as my_package.my_module.my_metric"
        )
    return _imported(name, METRICS.get(name, name))


def describe(score: str, declared: Mapping[str, Mapping[str, Any]] | None = None) -> Score:
    """What is known about a score by its name in results.json. Imports nothing from outside this package.

    Args:
        score: "squad/f1", "loss", "length/words" …
        declared: what results.json stores of the scores of other people's metrics (`declarations`).

    Returns:
        Its declaration; for a score that nobody declares, higher is better and it has no bounds.
    """
    if score in likelihood.SCORES:
        return likelihood.SCORES[score]
    family = score.split("/")[0]
    if family in METRICS and score in (scores := load(family).scores):
        return scores[score]
    try:
        return Score.from_dict({**(declared or {}).get(score, {}), "name": score})
    except (UserError, TypeError, ValueError):  # written by somebody else, or by hand
        return Score(score)


def by_importance(scores: Iterable[str], declared: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """Score names, the one to lead with first: primary ones in the order of METRICS; loss and perplexity last."""
    families = {name: index for index, name in enumerate(METRICS)}

    def key(score: str) -> tuple[bool, bool, int]:
        primary = describe(score, declared).primary
        return score in likelihood.SCORES, not primary, families.get(score.split("/")[0], len(families)) * primary

    return sorted(scores, key=key)


def declarations(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """{score: its declaration} of the named metrics that are not of this package: results.json keeps them, so that a
    report need not import anything to know their direction and bounds."""
    return {
        score.name: score.as_dict() for name in names if name not in METRICS for score in load(name).scores.values()
    }


def cheap_metrics() -> list[str]:
    """The metrics of this package that are computed in a moment and need no model."""
    return [name for name in METRICS if load(name).cheap]


def check(names: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Raise a UserError for a metric that is unknown or cannot run here, before anything heavy is done for it."""
    declared_by = dict.fromkeys(likelihood.SCORES, "the likelihood of the responses")
    for name in dict.fromkeys(names):
        if name == AUTO:
            continue  # only metrics that can run are chosen
        one = load(name)
        for score in one.scores:
            if score in declared_by:
                raise UserError(f"dataset.metrics: {name} and {declared_by[score]} both declare the score {score}.")
            declared_by[score] = name
        if one.ready:
            one.ready(*_settings_of(name, settings))


def settings_in(config: Any, names: Iterable[str]) -> dict[str, Any]:
    """{metric: its part of the config}, for those of the named metrics that have one."""
    keys = {name: load(name).settings for name in names if name != AUTO}
    return {name: getattr(config, key) for name, key in keys.items() if key}


def scoring_settings(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{metric: those of its settings that decide its numbers}."""
    deciding = {name: load(name).scoring_settings for name in settings}
    return {name: function(settings[name]) for name, function in deciding.items() if function}


def measure(name: str, predictions: Sequence[Prediction], settings: Mapping[str, Any]) -> Measured:
    """Scores and facts of a metric on some predictions. `settings` is {metric: its part of the config}."""
    return load(name).measure(predictions, *_settings_of(name, settings))


def _settings_of(name: str, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return (settings[name],) if name in settings else ()


def _imported(name: str, path: str) -> Metric:
    found = _object_at(name, path)
    if isinstance(found, Metric):
        return found
    names = vars(found) if isinstance(found, ModuleType) else {}
    inside = [key for key, value in names.items() if isinstance(value, Metric)]
    if len(inside) == 1:
        return getattr(found, inside[0])
    which = f"it holds several: {', '.join(f'{path}.{key}' for key in inside)}" if inside else "it declares none"
    raise UserError(
        f"metric {name!r} is no metric: {which}. "
        "Wanted a function with the decorator @llama_exp.metrics.metric(Score(…))."
    )


def _object_at(name: str, path: str) -> Any:
    """What the last part of an import path names in the module before it; else the module of that path."""
    parent, _, attribute = path.rpartition(".")
    try:
        module = import_module(parent) if parent else None
        return getattr(module, attribute) if hasattr(module, attribute) else import_module(path)
    except Exception as error:  # an import runs other people's code: whatever it raises becomes one line
        raise UserError(
            f"metric {name!r} cannot be imported ({type(error).__name__}: {error}). Wanted an import path such as "
            "my_package.my_module.my_metric; the folder that holds my_package must be on PYTHONPATH."
        ) from None
