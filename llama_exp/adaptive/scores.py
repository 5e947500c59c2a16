"""What the runs of a sweep scored, item by item, and what they cost: from their folders, as a report reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import optimize

from llama_exp.adaptive.belief import Observed
from llama_exp.metrics import by_importance, describe
from llama_exp.report.items import EvaluationItems, load_items
from llama_exp.report.load import EvaluationRecord, load_runs
from llama_exp.statistics.variance import run_sums


@dataclass(frozen=True)
class ScoredCell:
    """One run, as far as a decision needs it.

    evaluation   by whose scores settings are chosen: of validation Examples where there are any, else of test
    seconds      of training and of all evaluations
    examples     how many it was trained on
    """

    setting: int
    seed: int
    folder: Path
    evaluation: EvaluationRecord
    seconds: float
    examples: int | None

    @classmethod
    def read(cls, setting: int, seed: int, folder: Path) -> "ScoredCell | None":
        """None where the folder holds no scored run."""
        runs, _ = load_runs(folder)
        evaluations = [e for run in runs for e in run.evaluations if e.results.generated and e.scores]
        if not evaluations:
            return None
        by_choice = sorted(evaluations, key=lambda e: (e.split != "validation", e.dataset != runs[0].dataset, e.name))
        spent = sum(v for k, v in runs[0].summary.seconds.items() if k in ("train", "save", "data"))
        spent += sum(e.results.seconds or 0.0 for e in runs[0].evaluations)
        return cls(setting, seed, folder, by_choice[0], spent, runs[0].examples)


def metric_of(cells: Sequence[ScoredCell], wanted: str | None = None) -> str:
    """The score that is asked about: the one a report leads with."""
    first = cells[0].evaluation
    names = by_importance(first.scores, first.results.declared)
    return wanted if wanted in names else names[0]


def observed(cells: Sequence[ScoredCell], metric: str) -> Observed:
    """Scores of the runs, and how chance of the items moves them apart. What lifts all alike is left out: it decides
    nothing between settings."""
    settings = np.array([cell.setting for cell in cells], int)
    scores = np.array([cell.evaluation.scores[metric] for cell in cells], float)
    items = [load_items(cell.evaluation) for cell in cells]
    if not cells or any(isinstance(one, str) or not one.can(metric) for one in items):
        return Observed(settings, scores, np.zeros((len(cells), len(cells))))
    covariance = _covariance([one for one in items if isinstance(one, EvaluationItems)], metric)
    return Observed(settings, scores, covariance)


def _covariance(items: Sequence[EvaluationItems], metric: str) -> np.ndarray:
    rows = [dict(zip(one.ids, _values(one, metric), strict=True)) for one in items]
    residuals = run_sums(rows, dict(zip(items[0].ids, items[0].groups, strict=True))).scaled_residuals()
    found, count = residuals @ residuals.T, len(items)
    common = max((found.sum() - np.trace(found)) / (count * (count - 1)), 0.0) if count > 1 else 0.0
    values, vectors = np.linalg.eigh(found - common)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def _values(items: EvaluationItems, metric: str) -> Sequence[float]:
    if metric in items.scores:
        return items.scores[metric]
    return [loss / max(tokens, 1) for loss, tokens in zip(items.loss or (), items.tokens or (), strict=True)]


def span_of(cells: Sequence[ScoredCell], metric: str) -> float:
    """How far apart scores can lie."""
    bounds = describe(metric, cells[0].evaluation.results.declared).bounds
    if bounds and all(np.isfinite(bounds)):
        return float(bounds[1] - bounds[0])
    return 3 * max(abs(cell.evaluation.scores[metric]) for cell in cells) or 1.0


def expected_seconds(cells: Sequence[ScoredCell], examples: np.ndarray) -> np.ndarray:
    """(A,) of a run with so many Examples: a fixed part and one for each, both at least 0, as the runs so far say."""
    known = [(cell.examples, cell.seconds) for cell in cells if cell.examples]
    if not known:
        return 30 + 0.05 * examples  # only their order matters before the first run has ended
    sizes, seconds = np.array(known, float).T
    if len(set(sizes)) == 1:  # as if evaluating took as long as training
        return seconds.mean() * (0.5 + 0.5 * examples / sizes[0])
    design = np.stack([np.ones(len(sizes)), sizes], axis=1) / seconds[:, None]  # relative errors
    (fixed, each), _ = optimize.nnls(design, np.ones(len(sizes)))
    return np.maximum(fixed + each * examples, 1e-3)
