"""Automatic metrics of the replies in a study, to compare people with.

    metrics.json    {"bertscore": {"scores": {score: {condition: {item: value}}}, "facts": {…}}}

Slow metrics that the evaluations have are taken over when the study is created, so that nothing that happens to the
evaluations later changes what people are compared with; others are computed when somebody asks for them, once. Cheap
metrics are computed at every report.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_exp.config.compose import default_config
from llama_exp.errors import UserError
from llama_exp.human.analysis import MetricScores
from llama_exp.human.conditions import Conditions
from llama_exp.human.study import REFERENCE, Condition, Item, Study
from llama_exp.metrics import METRICS, cheap_metrics, load, measure, settings_in
from llama_exp.records import Prediction
from llama_exp.runs.files import read_json, write_json
from llama_exp.runs.scores import read_scores
from llama_exp.runs.stored import typed
from llama_exp.sanitize import as_dict, reason

ALWAYS = "squad"  # the overlap of words says something about any reply that has a reference


def evaluated_metrics(conditions: Conditions, items: Mapping[str, Item]) -> dict[str, Any]:
    """metrics.json of a new study: what every evaluation has measured in the same way, of items with a reference."""
    evaluations = {name: read for name, read in conditions.items() if read[1].folder != REFERENCE}
    shared = set.intersection(*({*condition.metrics} for _, condition in evaluations.values()))
    shared = shared & METRICS.keys() - {*cheap_metrics()}  # names in a file must not decide what is imported
    measured = {name: _item_scores(*read) for name, read in evaluations.items()} if shared else {}
    referenced = [item.id for item in items.values() if item.references]
    found = {}
    for metric in sorted(shared):
        facts = [_comparable_facts(metric, condition) for _, condition in evaluations.values()]
        names = sorted(set.intersection({*load(metric).scores}, *({*scores} for scores in measured.values())))
        if names and all(one == facts[0] for one in facts):
            scores = {
                name: {condition: {id: of[name][id] for id in referenced} for condition, of in measured.items()}
                for name in names
            }
            found[metric] = {"scores": scores, "facts": facts[0]}
    return found


def _comparable_facts(metric: str, condition: Condition) -> dict[str, Any]:
    """What must be equal for scores to be comparable: the encoder, its layer …"""
    facts = condition.facts.get(metric, {})
    return {key: facts[key] for key in load(metric).comparable_facts if key in facts}


def _item_scores(predictions: Sequence[Prediction], condition: Condition) -> dict[str, dict[str, float]]:
    """{score: {item: value}} of an evaluation; {} where it did not store them."""
    try:
        scores = read_scores(Path(condition.folder), predictions)
    except UserError:
        return {}
    return {name: dict(zip((p.id for p in predictions), values, strict=True)) for name, values in scores.items()}


def metric_scores(folder: Path, study: Study, requested: Sequence[str]) -> MetricScores:
    """Every metric that is known or requested; slow ones that are new are computed and stored in metrics.json."""
    path, cheap = folder / "metrics.json", cheap_metrics()
    stored = _stored_metrics(path) if path.exists() else {}
    for name in requested:
        if name not in stored and name not in cheap:
            stored[name] = _compute(study, name)
            write_json(path, stored)
    evaluated = {name for condition in study.conditions.values() for name in condition.metrics}
    now = [name for name in cheap if name in {ALWAYS, *evaluated, *requested}]
    metrics = [_compute(study, name) for name in now] + list(stored.values())
    return {score: values for metric in metrics for score, values in metric["scores"].items()}


def _stored_metrics(path: Path) -> dict[str, dict[str, Any]]:
    """metrics.json; what is no number in it is left out."""
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}). Copy it again from where the study was created, or move it "
            "away: metrics=NAME computes what it held."
        ) from None
    wanted = dict[str, dict[str, dict[str, float]]]
    return {name: {"scores": typed(as_dict(found, name, "scores"), wanted), "facts": {}} for name in found}


def _compute(study: Study, name: str) -> dict[str, Any]:
    """{"scores": one metric of all replies but the reference, "facts": how it was measured}; items need a reference."""
    settings = settings_in(default_config({}), [name])
    items = [item for item in study.items.values() if item.references]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    facts: dict[str, Any] = {}
    for condition, about in study.conditions.items():
        if not items or about.folder == REFERENCE:
            continue
        replies = [Prediction(i.id, i.prompt, i.references, i.replies[condition], i.group) for i in items]
        measured = measure(name, replies, settings)
        facts = measured.facts
        for score, values in measured.items.items():
            by_item = {item.id: float(value) for item, value in zip(items, values, strict=True)}
            scores.setdefault(score, {})[condition] = by_item
    return {"scores": scores, "facts": facts}
