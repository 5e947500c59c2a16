"""From predictions to scores with their intervals."""

import dataclasses
import math
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_exp import metrics
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.evaluation.request import metric_settings
from llama_exp.formatting import format_score, plural, plus_minus
from llama_exp.metrics import likelihood
from llama_exp.records import Example, Prediction
from llama_exp.runs.files import parse_json, read_text
from llama_exp.runs.results import Results
from llama_exp.sanitize import clean
from llama_exp.statistics.comparisons import FEW_CLUSTERS
from llama_exp.statistics.intervals import Interval, mean_interval, ratio_interval, statistic_interval

# Of an id that is not in a predictions file: unlike "", it matches no reference, not even one of signs alone.
NO_ANSWER = "\ufffd"


@dataclass(frozen=True, slots=True)
class Scored:
    """{score: value}, {score: its 95 % interval, clustered by group}, {score: [value per item]}, {metric: its
    facts}."""

    values: dict[str, float]
    intervals: dict[str, Interval]
    items: dict[str, list[float]]
    facts: dict[str, dict[str, Any]]


def score(predictions: Sequence[Prediction], config: Config) -> Scored:
    """The metrics of the dataset in percent; loss in nats a token; perplexity."""
    if not predictions:
        raise UserError("Nothing to score: there is no held-out Example.")
    groups = [prediction.group for prediction in predictions]
    scored = Scored({}, {}, {}, {})
    for name in config.dataset.metrics:
        scores = metrics.load(name).scores
        found = metrics.measure(name, predictions, metric_settings(config))
        for key, items in found.items.items():
            scored.values[key] = sum(items) / len(items)
            scored.intervals[key] = mean_interval(items, groups, bounds=scores[key].limits)
        for key, statistic in found.corpus.items():
            scored.values[key] = statistic(predictions)
            scored.intervals[key] = statistic_interval(statistic, predictions, groups, bounds=scores[key].limits)
        scored.items.update(found.items)
        if found.facts:
            scored.facts[name] = found.facts
    measured = [prediction for prediction in predictions if prediction.nll is not None]
    if measured:
        nll, tokens = [p.nll or 0.0 for p in measured], [p.tokens for p in measured]
        scored.values["loss"] = sum(nll) / sum(tokens)
        scored.values["perplexity"] = math.exp(min(scored.values["loss"], 700))
        groups = [prediction.group for prediction in measured]
        bounds = likelihood.LOSS.limits
        scored.intervals["loss"] = ratio_interval(nll, tokens, groups, bounds=bounds)
        scored.intervals["perplexity"] = ratio_interval(nll, tokens, groups, transform=math.exp, bounds=bounds)
    return scored


def score_clean_items(
    predictions: Sequence[Prediction], clean: Sequence[Prediction] | None, config: Config
) -> dict[str, Any] | None:
    """The scores on the items that nothing in training overlaps with; without scores where these are all items, or
    none.

    None where it is not known which they are.
    """
    if clean is None or not 0 < len(clean) < len(predictions):
        return None if clean is None else {"items": len(clean)}
    scored = score(clean, config)
    return {"items": len(clean), "scores": scored.values, "intervals": intervals_as_dicts(scored)}


def intervals_as_dicts(scored: Scored) -> dict[str, dict[str, Any]]:
    return {name: dataclasses.asdict(interval) for name, interval in scored.intervals.items()}


def scoring_settings(config: Config) -> dict[str, Any]:
    """What decides the scores of given predictions, with the encoder that bertscore.model=auto chooses on this
    machine."""
    settings = metrics.scoring_settings(metric_settings(config))
    return {"metrics": list(config.dataset.metrics), "metric_settings": settings}


def format_scores(results: Results) -> str:
    """The scores in one line, each with its 95 % interval, then the loss.

    Also, once: why there is no interval, that there are few groups,
    of how many items the loss is where not of all, and how many replies are
    empty.
    """
    scores, reasons = [], []
    for name in metrics.by_importance(results.scores, results.declared):
        value = results.scores[name]
        if name == "perplexity":  # says what the loss says
            continue
        stored = results.intervals.get(name) or {}
        if stored.get("low") is None:
            text = format_score(value, metrics.describe(name, results.declared).decimals)
            reasons += [stored["note"]] if stored.get("note") else []
        else:
            text = plus_minus(value, stored["low"], stored["high"])
        if name == "loss" and results.unmeasured and results.items:
            text += f" on {results.items - results.unmeasured:,} of {results.items:,} items"
        scores.append(f"{metrics.describe(name, results.declared).label} {text}")
    line = ", ".join(scores)
    if reasons:
        line += f" (no interval: {reasons[0]})"
    if results.groups and results.items and results.groups < FEW_CLUSTERS:
        few = plural(results.groups, "group" if results.groups < results.items else "item")
        if results.groups < results.items:
            line += f"; {results.items:,} items in only {few}: the intervals rest on the groups"
        else:
            line += f"; only {few}"
    if results.scores.keys() <= likelihood.SCORES.keys() and results.generated:
        line += f"; {likelihood.LOSS_ONLY}"
    if results.empty_replies:
        line += f"; {results.empty_replies:,} of {results.items:,} replies are empty"
    return clean(line, 4000)  # names and notes are read from a file


def read_official_predictions(
    path: Path, examples: Sequence[Example], all_ids: Set[str]
) -> tuple[list[Prediction], dict[str, int]]:
    """A predictions file in the official format, {id: text}, as Predictions. `all_ids`: the ids of the split
    that `examples` were drawn from.

    Counted are ids that are unknown, known but not drawn, and missing. As in the official script a missing answer
    scores 0. Raises UserError for a file of another shape.
    """
    try:
        answers = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"predictions={path}: cannot be read as JSON ({error}).") from None
    if not isinstance(answers, dict) or not all(isinstance(value, str) for value in answers.values()):
        raise UserError(f'predictions={path}: wanted one JSON object {{"id": "text"}}, as the official script does.')
    known = {official_id(example.id) for example in examples}
    all_ids = {official_id(name) for name in all_ids}
    counts = {
        "unknown_ids": len(answers.keys() - all_ids),
        "not_drawn": len(answers.keys() & all_ids - known),
        "missing_ids": len(known - answers.keys()),
    }
    if len(known & answers.keys()) == 0:
        drawn = f" that were drawn; leave eval_sample out to score all {len(all_ids)}" if counts["not_drawn"] else ""
        raise UserError(
            f"predictions={path}: none of its {len(answers)} ids is one of the {len(known)} held-out Examples{drawn}."
        )
    return [
        Prediction(e.id, e.prompt, e.references, answers.get(official_id(e.id), NO_ANSWER), e.group, tags=e.tags)
        for e in examples
    ], counts


def official_id(name: str) -> str:
    """The source's own id: a row that comes twice is `id` and `id~2` here, and one answer in the official script."""
    return re.sub(r"~\d+$", "", name)
