"""Runs that belong in one picture of how training went, whether or not they were evaluated."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llama_exp.report.compare import differing
from llama_exp.report.load import RunRecord


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that differ in size, rank and seeds alone, evaluated or not."""

    dataset: str
    model: str
    keys: dict[str, Any]
    runs: tuple[RunRecord, ...]


def group_runs(runs: Iterable[RunRecord]) -> list[RunGroup]:
    """Fine-tuning runs by what they have in common: dataset, model and training keys."""
    tuned = sorted((r for r in runs if r.rank), key=lambda r: (r.dataset, r.model))
    found = []
    for (dataset, model), group in groupby(tuned, key=lambda r: (r.dataset, r.model)):
        group = list(group)
        facets, _ = differing(group)
        by_keys: dict[str, list[RunRecord]] = {}
        for run in group:
            by_keys.setdefault(str([run.identity.get(k) for k in facets]), []).append(run)
        found += [
            RunGroup(dataset, model, {k: g[0].identity.get(k) for k in facets}, tuple(g)) for g in by_keys.values()
        ]
    return found
