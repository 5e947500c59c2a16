"""What the best of several cells scores, corrected for having been chosen by these very scores.

The best of nine equal cells is the luckiest of them: its mean is too high, and its own interval covers too rarely.
Given which cell came first, and what the others' scores are apart from what they share with it, its score follows a
normal distribution cut off where another cell would have come first. Its quantiles give a median-unbiased estimate and
a conditional interval; both are held within the interval that allows for any choice at a level of 0.5 % (the hybrid
inference of Andrews, Kitagawa & McCloskey 2024, "Inference on winners"). Where one cell is clearly best nothing
changes.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

OUTER = 0.1  # the share of the level that goes to the interval that allows for any choice
DRAWS = 4000


@dataclass(frozen=True, slots=True)
class Winner:
    """The best cell's score with its 95 % interval, corrected for the choice among `cells`."""

    estimate: float
    low: float
    high: float
    cells: int


def correct_winner(
    means: np.ndarray, covariance: np.ndarray, stretch: float = 1.0, level: float = 0.05
) -> Winner | None:
    """The first of `means`, of which it is the highest, corrected; None where its variance is 0.

    covariance  (K, K) of the means
    stretch     how much wider than the normal distribution's an interval must be, because the variances are estimated
    """
    variance = float(covariance[0, 0])
    if variance <= 0:
        return None
    best, cut = float(means[0]), _cut(means, covariance)
    spread = np.sqrt(variance)
    outer = _outer_reach(covariance, OUTER * level) * spread
    inner = (level - OUTER * level) / (1 - OUTER * level)

    def quantile(share: float, wide: float) -> float:
        """The true mean under which a score as low as the observed one has this chance, given the choice."""
        reach = outer * wide

        def excess(mean: float) -> float:
            ends = max(cut, mean - reach), mean + reach
            return _below(best, mean, spread * wide, *ends) - share

        low, high = best - reach, best + reach
        return low if excess(low) <= 0 else high if excess(high) >= 0 else float(optimize.brentq(excess, low, high))

    ends = quantile(1 - inner / 2, stretch), quantile(inner / 2, stretch)
    estimate = quantile(0.5, 1.0)
    return Winner(float(estimate), float(min(ends[0], estimate)), float(max(ends[1], estimate)), len(means))


def _cut(means: np.ndarray, covariance: np.ndarray) -> float:
    """The lowest score with which the first cell would still have come first."""
    slope = 1 - covariance[0, 1:] / covariance[0, 0]  # how fast its lead grows with its own score
    leads = means[0] - means[1:]
    growing = slope > 1e-9
    return float(np.max(means[0] - leads[growing] / slope[growing], initial=-np.inf))


def _outer_reach(covariance: np.ndarray, level: float) -> float:
    """How many standard errors no cell's score strays from its mean, at this level."""
    sizes = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    values, vectors = np.linalg.eigh(covariance / np.outer(sizes, sizes))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = np.random.default_rng(0).standard_normal((DRAWS, len(sizes))) @ root.T
    return float(np.quantile(np.abs(drawn).max(axis=1), 1 - level))


def _below(value: float, mean: float, spread: float, low: float, high: float) -> float:
    """P(X <= value) of a normal distribution cut to [low, high], stable far out in the tail."""
    a, x, b = ((end - mean) / spread for end in (low, min(value, high), high))
    if x <= a:
        return 0.0
    if a > 0:  # mirrored: differences of small upper tails
        a, x, b = -a, -x, -b
        top, whole = special.ndtr(a) - special.ndtr(x), special.ndtr(a) - special.ndtr(b)
    else:
        top, whole = special.ndtr(x) - special.ndtr(a), special.ndtr(b) - special.ndtr(a)
    return float(top / whole) if whole > 0 else 1.0
