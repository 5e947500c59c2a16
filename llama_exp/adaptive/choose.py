"""The answer that the runs so far give, and the run that would tell most for its seconds.

What a run would tell is the fall of the expected loss (questions.py) once its score is known, averaged over the scores
that it may have: the knowledge gradient with correlated beliefs (Frazier, Powell & Dayanik 2009), here by weighting
draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from llama_exp.adaptive.belief import Belief

OUTCOMES = 24  # scores that a run may have


@dataclass(frozen=True, slots=True)
class Verdict:
    """The best answer now: its index, the probability that it is right, and its expected loss in points."""

    answer: int
    certainty: float
    loss: float


def verdict(losses: np.ndarray) -> Verdict:
    """Of the losses (D, answers), the answer that is right in most draws; ties by the smaller loss."""
    right, mean = (losses <= 0).mean(axis=0), losses.mean(axis=0)
    answer = int(np.lexsort((mean, -right))[0])
    return Verdict(answer, float(right[answer]), float(mean[answer]))


def best_cell(
    belief: Belief, scores: np.ndarray, losses: np.ndarray, settings: Sequence[int], items: float, seconds: np.ndarray
) -> int:
    """Of the settings, the one of which a run tells most for its seconds.

    Where no single run would change the answer, the likeliest best one, which takes several: `scores` (D, A), higher is
    better.
    """
    chosen = list(settings)
    value = worth(belief, losses, chosen, items)
    if not value.any():
        value = np.bincount(scores.argmax(axis=1), minlength=scores.shape[1])[chosen] + 1.0
    return chosen[int(np.argmax(value / seconds[chosen]))]


def worth(belief: Belief, losses: np.ndarray, settings: Sequence[int], items: float) -> np.ndarray:
    """(S,) how far one run of each setting would lower the expected loss. `items`: variance by chance of the items."""
    now, losses = losses.mean(axis=0).min(), losses.astype(np.float32)
    return np.array([max(now - _expected_loss(belief, losses, setting, items), 0.0) for setting in settings])


def _expected_loss(belief: Belief, losses: np.ndarray, setting: int, items: float) -> float:
    expected, variance = belief.scores[:, setting], belief.run_variance(setting) + items
    chosen = np.linspace(0, len(expected) - 1, OUTCOMES).astype(int)
    luck = special.ndtri((np.random.default_rng(1).permutation(OUTCOMES) + 0.5) / OUTCOMES)
    outcomes = expected[chosen] + np.sqrt(variance[chosen]) * luck
    away = (outcomes[:, None] - expected).astype(np.float32)  # single precision: twice as fast, and read off a maximum
    logs = -0.5 * (away**2 / variance.astype(np.float32) + np.log(variance).astype(np.float32))
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return float((weights @ losses).min(axis=1).mean())
