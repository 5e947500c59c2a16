"""Intervals of a bounded mean from few groups, or where few groups lose anything: the groups as clusters of trials.

At 98 % right with correlated groups most groups are all right, and a sample that happens to hold no bad group looks
surer than it is: t and bootstrap intervals cover 82 to 90 %. Here the correlation within groups is not estimated but
averaged over, by its beta-binomial likelihood at the supposed mean (Williams 1975); each correlation says how many
independent trials the items are worth (their design effect), and the tail is that of Clopper and Pearson for so many
(Korn & Graubard 1998), with half of the observed outcome's probability where groups are many enough.
"""

from collections.abc import Callable

import numpy as np
from scipy import optimize, special

from llama_exp.statistics.clusters import Clusters

CORRELATIONS = np.array(
    [1e-4, 0.003, 0.01, 0.03, 0.06, 0.1, 0.17, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 0.99]
)
PRIOR = np.gradient(CORRELATIONS) * (1 - CORRELATIONS) ** 2  # of the correlations: small ones are likelier
REACH = 30.0  # of the search, on the logit scale


def losses_are_concentrated(clusters: Clusters, bounds: tuple[float, float]) -> bool:
    """Whether what separates the mean from the nearer bound comes from so few groups that t cannot be trusted.

    Groups are counted by the inverse of their shares' sum of squares: fewer than 30, and half of what their sizes
    allow.
    """
    below, above = clusters.sums - bounds[0] * clusters.weights, bounds[1] * clusters.weights - clusters.sums
    lost = below if below.sum() < above.sum() else above
    if lost.sum() <= 0:
        return True
    return _count(lost) < min(30.0, _count(clusters.weights) / 2)


def clustered_binomial(
    clusters: Clusters, confidence: float, bounds: tuple[float, float], cautious: bool
) -> tuple[float, float]:
    """The interval of the mean between bounds. `cautious`: with all of the observed outcome's probability."""
    low, width = bounds[0], bounds[1] - bounds[0]
    trials = clusters.weights * clusters.items / clusters.weights.sum()
    share = np.clip((clusters.sums - low * clusters.weights) / (width * clusters.weights), 0.0, 1.0)
    right = share * trials
    estimate, tail = float(right.sum() / trials.sum()), (1 - confidence) / 2
    worth = trials.sum() / (1 + CORRELATIONS * ((trials**2).sum() / trials.sum() - 1))
    add = 0.0 if cautious else 0.5
    groups, counts = np.unique(np.stack([right, trials], axis=1), axis=0, return_counts=True)

    def lower(point: float) -> float:  # the chance of as much as was observed, or more
        mean = special.expit(point)
        tails = special.betainc(estimate * worth + add, (1 - estimate) * worth + 1 - add, mean)
        return float(_weights(point, groups, counts) @ tails) - tail

    def upper(point: float) -> float:  # of as much, or less
        mean = special.expit(point)
        tails = special.betaincc(estimate * worth + 1 - add, (1 - estimate) * worth + add, mean)
        return tail - float(_weights(point, groups, counts) @ tails)

    ends = (0.0 if estimate <= 0 else _end(lower), 1.0 if estimate >= 1 else _end(upper))
    return low + width * ends[0], low + width * ends[1]


def _weights(point: float, groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(correlations,) how likely each is, where the mean is supposed to be at this logit."""
    mean = np.clip(special.expit(point), 1e-12, 1 - 1e-12)
    size = 1 / CORRELATIONS - 1
    alpha, beta = (mean * size)[:, None], ((1 - mean) * size)[:, None]
    right, trials = groups.T
    logs = (special.betaln(alpha + right, beta + (trials - right)) - special.betaln(alpha, beta)) @ counts
    weights = np.exp(logs - logs.max()) * PRIOR
    return weights / weights.sum()


def _end(excess: Callable[[float], float]) -> float:
    """Where a rising function of the logit crosses 0; the end of the scale, where it does not before it."""
    if excess(-REACH) >= 0 or excess(REACH) <= 0:
        return 0.0 if excess(-REACH) >= 0 else 1.0
    return float(special.expit(optimize.brentq(excess, -REACH, REACH, xtol=1e-6)))


def _count(values: np.ndarray) -> float:
    return float(values.sum() ** 2 / (values**2).sum())
