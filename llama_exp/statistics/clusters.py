"""From items to clusters: the sums, variances and degrees of freedom that every interval here is made of.

    items      score 1 0 1 1 | 0 0 1 | 1 ...      an item is one question
    clusters   sum   3       | 1     | ...        a cluster is one article: its questions are not independent
               weight 4      | 3     | ...
    estimate   sum of sums / sum of weights       the mean over items; with tokens as weights, a ratio metric

Estimate and uncertainty depend on the cluster sums alone, so 10,570 questions become 48 numbers at once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True, slots=True)
class Clusters:
    """Sums by cluster. `sums[g]` adds up numerators, `weights[g]` denominators; both float64 of shape (G,)."""

    sums: np.ndarray
    weights: np.ndarray
    items: int

    @property
    def estimate(self) -> float:
        """The ratio of the totals: the (weighted) mean over items."""
        return float(self.sums.sum() / self.weights.sum())

    @property
    def residuals(self) -> np.ndarray:
        """(G,) each cluster's sum minus what the overall mean predicts for it; adds up to 0."""
        return self.sums - self.estimate * self.weights

    @property
    def equal_weights(self) -> bool:
        """Whether all clusters weigh the same."""
        return bool(np.ptp(self.weights) <= 1e-9 * self.weights.max())


def finite_array(name: str, values: Numbers) -> np.ndarray:
    """Values as float64.

    Raises ValueError that counts NaN and infinite values: they must never be averaged over.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: wanted one number per item, got an array of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{name}: {len(bad)} of {len(array)} are NaN or infinite (first at position {bad[0]}); "
            "score those items or leave them out, but do not average over them"
        )
    return array


def cluster_index(groups: Sequence[Hashable] | None, items: int) -> tuple[np.ndarray, int]:
    """(items,) index of each item's cluster, in order of first appearance, and the number of clusters.

    `groups=None`, or None as one item's group, makes the item a cluster of its own.
    """
    if groups is None:
        return np.arange(items), items
    if len(groups) != items:
        raise ValueError(f"one group per item is needed: got {len(groups)} groups for {items} items")
    number: dict[Hashable, int] = {}
    index = [number.setdefault(("item", i) if g is None else ("group", g), len(number)) for i, g in enumerate(groups)]
    return np.asarray(index, dtype=np.int64), len(number)


def cluster_sums(numerators: Numbers, denominators: Numbers, groups: Sequence[Hashable] | None) -> Clusters:
    """Add up numerators and denominators by group.

    Raises ValueError for NaN, for lengths that differ and for negative denominators.
    """
    top, bottom = finite_array("numerators", numerators), finite_array("denominators", denominators)
    if len(top) != len(bottom):
        raise ValueError(f"as many denominators as numerators are needed: got {len(bottom)} for {len(top)}")
    if (bottom < 0).any():
        raise ValueError(f"{int((bottom < 0).sum())} weights or denominators are negative")
    index, count = cluster_index(groups, len(top))
    sums = np.bincount(index, weights=top, minlength=count)
    weights = np.bincount(index, weights=bottom, minlength=count)
    used = (weights > 0) | (sums != 0)  # a cluster without a single token carries no information
    return Clusters(sums[used], weights[used], len(top))


def cr2_scale(weights: np.ndarray) -> np.ndarray:
    """(G,) CR2's factor of each cluster's residual: 1 / sqrt(1 - its share of the total weight)."""
    return 1 / np.sqrt(np.maximum(1 - weights / weights.sum(), 1e-12))


def robust_variance(clusters: Clusters) -> float:
    """Cluster-robust variance of the estimate: CR2 (Bell & McCaffrey 2002), unbiased for independent items."""
    residuals = clusters.residuals * cr2_scale(clusters.weights)
    return float((residuals**2).sum() / clusters.weights.sum() ** 2)


def satterthwaite_df(weights: np.ndarray) -> float:
    """Degrees of freedom of the CR2 variance (Bell & McCaffrey 2002): G - 1 for equal clusters, fewer for unequal.

    The variance is a quadratic form y'My in the cluster sums y; with cov(y) = V its moments are those of a chi-square
    with tr(MV)^2 / tr(MVMV) degrees of freedom. V = diag(weights): the working model of independent items.
    """
    shares = weights / weights.sum()
    scale = 1 / (1 - shares)
    # With P = I - share 1' the residuals' covariance is P V P' = W(diag(share) - share share'), so that the traces
    # need no G x G matrix.
    trace = (scale * (shares - shares**2)).sum()
    squares = (scale**2 * (shares - shares**2) ** 2).sum()
    cross = (scale * shares**2).sum() ** 2 - (scale**2 * shares**4).sum()
    return max(float(trace**2 / (squares + cross)), 1.0)  # never below 1 but by rounding
