"""Runs that belong in one picture of how training went, whether or not they were evaluated."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llama_exp.report.grouping import differing
from llama_exp.report.results import Run


@dataclass(frozen=True, slots=True)
class Family:
    """Runs that differ in size, rank and seeds alone, evaluated or not."""

    dataset: str
    model: str
    keys: dict[str, Any]
    runs: tuple[Run, ...]


def families(runs: Iterable[Run]) -> list[Family]:
    """Fine-tuning runs by what they have in common: dataset, model and training keys."""
    tuned = sorted((r for r in runs if r.rank), key=lambda r: (r.dataset, r.model))
    found = []
    for (dataset, model), group in groupby(tuned, key=lambda r: (r.dataset, r.model)):
        group = list(group)
        facets, _ = differing(group)
        by_keys: dict[str, list[Run]] = {}
        for run in group:
            by_keys.setdefault(str([run.identity.get(k) for k in facets]), []).append(run)
        found += [Family(dataset, model, {k: g[0].identity.get(k) for k in facets}, tuple(g)) for g in by_keys.values()]
    return found
