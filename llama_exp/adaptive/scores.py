"""What the runs of a sweep scored, item by item, and what they cost: from their folders, as a report reads them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from llama_exp.adaptive.belief import Observed
from llama_exp.config.schema import Config
from llama_exp.evaluation.request import EvaluationRequest
from llama_exp.metrics import Score, by_importance, describe
from llama_exp.report.items import EvaluationItems, load_items, sums_by_group
from llama_exp.report.load import EvaluationRecord, load_runs
from llama_exp.runs.run import Run
from llama_exp.statistics.clusters import satterthwaite_df
from llama_exp.statistics.learning_curve.noise import common_part, positive, with_few_groups

USUAL_FIXED, USUAL_EACH = 30.0, 0.05  # seconds: only their order matters before the first run has ended


@dataclass(frozen=True)
class ScoredCell:
    """One run, as far as a decision needs it.

    evaluation   of validation Examples, by whose scores settings are chosen
    items        the same item by item; None where that cannot be read
    seconds      of training it and answering these; paid: of all GPUs together
    examples     how many it was trained on
    """

    setting: int
    seed: int
    folder: Path
    evaluation: EvaluationRecord
    items: EvaluationItems | None = field(repr=False)
    seconds: float
    paid: float
    examples: int

    def known(self, metric: str, outputs: Path) -> dict[str, Any]:
        """What decisions.jsonl says of it."""
        return {
            "setting": self.setting,
            "seed": self.seed,
            "examples": self.examples,
            "evaluation": os.path.relpath(self.evaluation.folder, outputs),
            "metric": metric,
            "score": self.evaluation.scores[metric],
            "seconds": self.seconds,
        }

    def seconds_of(self, config: Config) -> float:
        """Of answering what a config says; 0 where that is not done."""
        name = EvaluationRequest.of(config, Run.of(config)).folder.name
        found = [one for record in load_runs(self.folder)[0] for one in record.evaluations if one.folder.name == name]
        return sum(one.results.seconds or 0.0 for one in found)

    @property
    def groups(self) -> int | None:
        """Of the items that it answered."""
        return len(set(self.items.groups)) if self.items else None

    @classmethod
    def read(cls, setting: int, seed: int, config: Config, folder: Path) -> "ScoredCell | None":
        """A run, with the evaluation of validation Examples that the config names; None where it has none."""
        wanted = EvaluationRequest.of(config, Run.of(config)).folder
        for record in load_runs(folder)[0]:
            for evaluation in (e for e in record.evaluations if e.folder.name == wanted.name and e.scores):
                spent = sum(record.summary.seconds.get(phase, 0.0) for phase in ("data", "train", "save"))
                spent = round(spent + (evaluation.results.seconds or 0.0), 3)
                paid = spent * max(record.summary.world_size or 1, 1)
                items, examples = items_of(evaluation), record.examples or 1
                return cls(setting, seed, folder, evaluation, items, spent, paid, examples)
        return None


def items_of(evaluation: EvaluationRecord) -> EvaluationItems | None:
    found = load_items(evaluation)
    return None if isinstance(found, str) else found


def metric_of(cells: Sequence[ScoredCell]) -> Score:
    """The score that is asked about: the one a report leads with."""
    first = cells[0].evaluation
    name = by_importance(first.scores, first.results.declared)[0]
    return describe(name, first.results.declared)


def observed(cells: Sequence[ScoredCell], metric: str, absolute: bool = False) -> Observed:
    """Scores of the runs, and how chance of the items moves them.

    What lifts all alike decides nothing between settings and is left out, unless their level itself is asked for
    (`absolute`).
    """
    settings = np.array([cell.setting for cell in cells], int)
    scores = np.array([cell.evaluation.scores[metric] for cell in cells], float)
    items = with_the_same_items(cells, metric)
    covariance = _covariance(items, metric, absolute) if items else _variances(cells, metric)
    return Observed(settings, scores, covariance)


def _variances(cells: Sequence[ScoredCell], metric: str) -> np.ndarray:
    """Each run's own, where not all answered the same items; of a run whose items cannot be read the mean of others."""
    own = [
        _covariance([one.items], metric, True)[0, 0] if one.items and one.items.can(metric) else np.nan for one in cells
    ]
    return np.diag(np.where(np.isnan(own), np.nanmean(own) if not np.isnan(own).all() else 0.0, own))


def with_the_same_items(cells: Sequence[ScoredCell], metric: str) -> list[EvaluationItems] | None:
    """Their items where all runs answered the same ones; else None."""
    items = [cell.items for cell in cells if cell.items is not None and cell.items.can(metric)]
    return items if len(items) == len(cells) and len({one.ids for one in items}) == 1 else None


def _covariance(items: Sequence[EvaluationItems], metric: str, absolute: bool) -> np.ndarray:
    order = range(len(items[0].ids))  # the same ids in the same order
    sums = sums_by_group(items, metric, [order] * len(items))
    residuals = sums.scaled_residuals()
    found = with_few_groups(residuals @ residuals.T, satterthwaite_df(sums.weights))
    return found if absolute else positive(found - common_part(found))


def span_of(cells: Sequence[ScoredCell], metric: Score) -> float:
    """How far apart scores can lie."""
    if metric.bounds and all(end is not None and np.isfinite(end) for end in metric.bounds):
        return float(metric.bounds[1] - metric.bounds[0])
    return 3 * max(abs(cell.evaluation.scores[metric.name]) for cell in cells) or 1.0


def expected_seconds(cells: Sequence[ScoredCell], examples: np.ndarray) -> np.ndarray:
    """(A,) of a run with so many Examples: a fixed part and one for each, both at least 0, as the runs so far say."""
    if not cells:
        return USUAL_FIXED + USUAL_EACH * examples
    sizes, seconds = np.array([(cell.examples, max(cell.seconds, 1e-3)) for cell in cells], float).T
    if len(set(sizes)) == 1:  # as if evaluating took as long as training
        return seconds.mean() * (0.5 + 0.5 * examples / sizes[0])
    design = np.stack([np.ones(len(sizes)), sizes], axis=1) / seconds[:, None]  # relative errors
    (fixed, each), _ = optimize.nnls(design, np.ones(len(sizes)))
    return np.maximum(fixed + each * examples, 1e-3)
