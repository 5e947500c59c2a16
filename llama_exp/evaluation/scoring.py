"""From predictions to scores with their intervals."""

import dataclasses
import json
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.formatting import format_score
from llama_exp.metrics import measure
from llama_exp.records import Example, Prediction
from llama_exp.statistics import Interval
from llama_exp.statistics.intervals import interval, ratio_interval, statistic_interval
from llama_exp.statistics.words import plus_minus

NO_ANSWER = "\ufffd"  # of an id that is not in a predictions file: unlike "", it matches no reference, not even one of signs alone


def answers_lost(asked: Config, examples: Sequence[Example], predictions: Sequence[Prediction], tokenizer) -> int:
    """Of how many Examples the answer stood in a context that had to be cut, and stands there no longer."""
    from llama_exp.data import DATASETS
    from llama_exp.data.encoding import encode_all

    cut = [example for example, prediction in zip(examples, predictions, strict=True) if prediction.shortened]
    _, counts = encode_all(
        cut, tokenizer, asked.max_length, asked.dataset.max_new_tokens, DATASETS[asked.dataset.name].answers_in_context
    )
    return counts["answers_lost"]


@dataclass(frozen=True, slots=True)
class Scored:
    """{score: value}, {score: its 95 % interval, clustered by group}, {score: [value per item]}, {metric: its facts}."""

    values: dict[str, float]
    intervals: dict[str, Interval]
    items: dict[str, list[float]]
    facts: dict[str, dict[str, Any]]


def metric_settings(asked: Config) -> dict[str, Any]:
    """{metric: its part of the config}, for those that have one and are asked for."""
    return {name: part for name, part in {"bertscore": asked.bertscore}.items() if name in asked.dataset.metrics}


def score(predictions: Sequence[Prediction], asked: Config) -> Scored:
    """The metrics of the dataset in percent; loss in nats a token; perplexity."""
    if not predictions:
        raise UserError("Nothing to score: there is no held-out Example.")
    groups = [prediction.group for prediction in predictions]
    scored = Scored({}, {}, {}, {})
    for name in asked.dataset.metrics:
        found = measure(name, predictions, metric_settings(asked))
        for key, items in found.items.items():
            scored.values[key] = sum(items) / len(items)
            scored.intervals[key] = interval(items, groups, bounds=found.bounds)
        for key, statistic in found.corpus.items():
            scored.values[key] = statistic(predictions)
            scored.intervals[key] = statistic_interval(statistic, predictions, groups, bounds=(0.0, 100.0))
        scored.items.update(found.items)
        if found.facts:
            scored.facts[name] = found.facts
    measured = [prediction for prediction in predictions if prediction.nll is not None]
    if measured:
        nll, tokens = [p.nll for p in measured], [p.tokens for p in measured]
        scored.values["loss"] = sum(nll) / sum(tokens)
        scored.values["perplexity"] = math.exp(min(scored.values["loss"], 700))
        groups = [prediction.group for prediction in measured]
        scored.intervals["loss"] = ratio_interval(nll, tokens, groups)
        scored.intervals["perplexity"] = ratio_interval(nll, tokens, groups, transform=math.exp)
    return scored


def score_clean_items(
    predictions: Sequence[Prediction], clean: Sequence[Prediction] | None, asked: Config
) -> dict[str, Any] | None:
    """The scores on the items that nothing in training overlaps with; without scores where these are all items, or none.

    None where it is not known which they are.
    """
    if clean is None or not 0 < len(clean) < len(predictions):
        return None if clean is None else {"items": len(clean)}
    scored = score(clean, asked)
    intervals = {name: dataclasses.asdict(of) for name, of in scored.intervals.items()}
    return {"items": len(clean), "scores": scored.values, "intervals": intervals}


def scoring_settings(asked: Config) -> dict[str, Any]:
    """What decides the scores of given predictions; of bertscore.model=auto, what that comes to here."""
    from llama_exp.metrics.bertscore import MATCHING, choose

    settings = {name: dataclasses.asdict(part) for name, part in metric_settings(asked).items()}
    if found := settings.get("bertscore"):
        del found["batch"]
        found["model"], _ = choose(found["model"])
        found["matching"] = MATCHING
    return {"metrics": list(asked.dataset.metrics), "metric_settings": settings}


def scores_line(results: dict[str, Any]) -> str:
    """The scores in one line, each with its 95 % interval, percents first, then loss; why there is none, once.

    Also how many items the loss is of, where that is not all of them, and how many replies are empty.
    """
    named, why, items = [], [], results.get("items")
    for name, value in results["scores"].items():
        of = results.get("intervals", {}).get(name) or {}
        if name != "perplexity":
            sure = format_score(name, value) if of.get("low") is None else plus_minus(value, of["low"], of["high"])
            some = name == "loss" and results.get("unmeasured")
            named.append(f"{name} {sure}" + (f" on {items - some:,} of {items:,} items" if some else ""))
            why += [of["note"]] if of.get("low") is None and of.get("note") else []
    empty = results.get("empty_replies")
    return (
        ", ".join(named)
        + (f" (no interval: {why[0]})" if why else "")
        + (f"; {empty:,} of {items:,} replies are empty" if empty else "")
    )


def read_official_predictions(
    path: Path, examples: Sequence[Example], everything: Set[str]
) -> tuple[list[Prediction], dict[str, int]]:
    """A predictions file in the official format, {id: text}, as Predictions. `everything`: the ids that `examples` were drawn of.

    Counted are ids that are unknown, known but not drawn, and missing. As in the official script a missing answer scores 0.
    Raises UserError for a file of another shape.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"predictions={path}: cannot be read as JSON ({error}).") from None
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise UserError(f'predictions={path}: wanted one JSON object {{"id": "text"}}, as the official script does.')
    known = {example.id for example in examples}
    counts = {
        "unknown_ids": len(given.keys() - everything),
        "not_drawn": len(given.keys() & everything - known),
        "missing_ids": len(known - given.keys()),
    }
    if len(known & given.keys()) == 0:
        drawn = f" that were drawn; leave eval_sample out to score all {len(everything)}" if counts["not_drawn"] else ""
        raise UserError(
            f"predictions={path}: none of its {len(given)} ids is one of the {len(known)} held-out Examples{drawn}."
        )
    return [
        Prediction(e.id, e.prompt, e.references, given.get(e.id, NO_ANSWER), e.group, tags=e.tags) for e in examples
    ], counts
