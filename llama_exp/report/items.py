"""Scores item by item, from what is on disk: what intervals over seeds and paired comparisons are made of.

    eval/<name>/predictions.jsonl, scores.jsonl  ->  Items {score: one value per item}  ->  report/items/<name>.json

The scores are those that evaluate.py stored beside the predictions, BERTScore and ROUGE among them. An evaluation that
has no scores.jsonl gets those that are computed in a moment. Nothing here imports torch.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llama_exp.errors import UserError
from llama_exp.metrics import cheap_metrics, likelihood, load
from llama_exp.records import Prediction
from llama_exp.report.load import EvaluationRecord
from llama_exp.runs.files import atomic_write, read_json, read_predictions
from llama_exp.runs.scores import SCORES, read_scores
from llama_exp.statistics.clusters import cluster_index
from llama_exp.statistics.variance import RunSums

FORMAT = 2  # of the files in report/items; a new number discards the old ones


@dataclass(frozen=True, slots=True)
class EvaluationItems:
    """One evaluation, item by item. `loss` and `tokens` are sums per item; None where nothing was measured."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    scores: dict[str, tuple[float, ...]]
    loss: tuple[float, ...] | None = None
    tokens: tuple[int, ...] | None = None

    def can(self, metric: str) -> bool:
        return metric in self.scores or (metric in likelihood.SCORES and self.loss is not None)

    def values(self, metric: str) -> np.ndarray:
        return np.array(self.loss if metric in likelihood.SCORES else self.scores[metric])

    def weights(self, metric: str) -> np.ndarray:
        """Every item counts once; for the loss, every token."""
        return np.array(self.tokens, float) if metric in likelihood.SCORES else np.ones(len(self.ids))


def sums_by_group(items: Sequence[EvaluationItems], metric: str, orders: Sequence[Sequence[int]]) -> RunSums:
    """The runs of one or several cells on the same items, whose places in each file `orders` says."""
    first = list(orders[0])
    index, count = cluster_index([items[0].groups[i] for i in first], len(first))
    pairs = zip(items, orders, strict=True)
    sums = [np.bincount(index, one.values(metric)[list(order)], count) for one, order in pairs]
    return RunSums(np.stack(sums), np.bincount(index, items[0].weights(metric)[first], count), len(first))


def load_items(evaluation: EvaluationRecord, cache: Path | None = None) -> EvaluationItems | str:
    """The items of an evaluation, or the reason why there are none. With `cache`, written there for the next report."""
    path, stored = evaluation.folder / "predictions.jsonl", evaluation.folder / "scores.jsonl"
    try:
        stamp = [FORMAT, *_version(path), *(_version(stored) if stored.is_file() else ()), *sorted(evaluation.scores)]
    except OSError:
        return "predictions.jsonl is not there"
    cached = cache / f"{hashlib.sha256(str(evaluation.folder).encode()).hexdigest()[:20]}.json" if cache else None
    found = _read_cache(cached, stamp)
    if found is None:
        try:
            found = score(read_predictions(path), evaluation)
        except (UserError, OSError, ValueError, TypeError, AttributeError) as error:
            return f"its answers cannot be read ({str(error).splitlines()[0][:200]})"
        _write_cache(cached, stamp, found)
    return _mismatch(found, evaluation) or found


def _version(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def score(predictions: list[Prediction], evaluation: EvaluationRecord) -> EvaluationItems:
    """Each prediction's scores, in the order of the file: as stored, else computed where that takes a moment."""
    if (evaluation.folder / SCORES).is_file():
        found = read_scores(evaluation.folder, predictions)
    else:
        quick = {name.split("/")[0] for name in evaluation.scores} & set(cheap_metrics())
        found = {name: values for family in sorted(quick) for name, values in load(family)(predictions).items()}
    scores = {name: tuple(map(float, values)) for name, values in found.items()}
    measured = bool(predictions) and all(p.nll is not None and p.tokens > 0 for p in predictions)
    return EvaluationItems(
        tuple(p.id for p in predictions),
        tuple(p.group for p in predictions),
        scores,
        tuple(float(p.nll) for p in predictions if p.nll is not None) if measured else None,
        tuple(p.tokens for p in predictions) if measured else None,
    )


def _mismatch(items: EvaluationItems, evaluation: EvaluationRecord) -> str:
    """Why these are not the answers that results.json was made from; "" if they are."""
    if not items.ids:
        return "predictions.jsonl is empty"
    if len(set(items.ids)) < len(items.ids):
        return f"predictions.jsonl holds {len(items.ids) - len(set(items.ids))} ids twice"
    means = {name: sum(values) / len(values) for name, values in items.scores.items()}
    if items.loss is not None and items.tokens is not None:
        means["loss"] = sum(items.loss) / sum(items.tokens)
    for name, mean in means.items():
        stored = evaluation.scores.get(name)
        if stored is not None and not math.isclose(mean, stored, rel_tol=1e-6, abs_tol=1e-6):
            return f"item by item {name} is {mean:.4g} where results.json says {stored:.4g}: not the same answers"
    return ""


def _read_cache(path: Path | None, stamp: list) -> EvaluationItems | None:
    try:
        cached = read_json(path) if path else None
        if not cached or cached["stamp"] != stamp:
            return None
        scores = {name: tuple(values) for name, values in cached["scores"].items()}
        loss, tokens = (tuple(cached[key]) if cached[key] is not None else None for key in ("loss", "tokens"))
        return EvaluationItems(tuple(cached["ids"]), tuple(cached["groups"]), scores, loss, tokens)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_cache(path: Path | None, stamp: list, items: EvaluationItems) -> None:
    if path is None:
        return
    try:
        with atomic_write(path) as file:
            json.dump({"stamp": stamp, **asdict(items)}, file)
    except (OSError, ValueError):
        pass  # the next report reads the predictions again
