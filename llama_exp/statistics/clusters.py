"""From items to clusters: the sums, variances and degrees of freedom that every interval here is made of.

    items      score 1 0 1 1 | 0 0 1 | 1 ...      an item is one question
    clusters   sum   3       | 1     | ...        a cluster is one article: its questions are not independent
               weight 4      | 3     | ...
    estimate   sum of sums / sum of weights       the mean over items; with tokens as weights, a ratio metric

Only the cluster sums matter to the estimate and to its uncertainty, so 10,570 questions become 48 numbers at once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


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
        """(G,) how far each cluster's sum lies from what the overall mean would give it; adds up to 0."""
        return self.sums - self.estimate * self.weights

    @property
    def shares(self) -> np.ndarray:
        """(G,) each cluster's share of the total weight: its leverage on the mean."""
        return self.weights / self.weights.sum()


def finite(name: str, values: Sequence[float]) -> np.ndarray:
    """Values as float64, or a ValueError that says how many are missing: NaN must never average away."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: wanted one number per item, got an array of shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{name}: {len(bad)} of {len(array)} are NaN or infinite (first at position {bad[0]}); "
            "leave those items out on purpose, or score them, but do not average over them"
        )
    return array


def cluster_index(groups: Sequence[Hashable] | None, items: int) -> tuple[np.ndarray, int]:
    """(items,) number of each item's cluster, in order of first appearance, and how many there are.

    `groups=None`, or None as one item's group, makes the item a cluster of its own.
    """
    if groups is None:
        return np.arange(items), items
    if len(groups) != items:
        raise ValueError(f"one group per item is needed: got {len(groups)} groups for {items} items")
    number: dict[Hashable, int] = {}
    index = [number.setdefault(("item", i) if g is None else ("group", g), len(number)) for i, g in enumerate(groups)]
    return np.asarray(index, dtype=np.int64), len(number)


def cluster_sums(
    numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[Hashable] | None
) -> Clusters:
    """Add up numerators and denominators by group.

    Raises ValueError for NaN, for lengths that differ and for negative denominators.
    """
    top, bottom = finite("numerators", numerators), finite("denominators", denominators)
    if len(top) != len(bottom):
        raise ValueError(f"as many denominators as numerators are needed: got {len(bottom)} for {len(top)}")
    if (bottom < 0).any():
        raise ValueError(f"{int((bottom < 0).sum())} weights or denominators are negative")
    index, count = cluster_index(groups, len(top))
    sums = np.bincount(index, weights=top, minlength=count)
    weights = np.bincount(index, weights=bottom, minlength=count)
    used = (weights > 0) | (sums != 0)  # a cluster without a single token says nothing
    return Clusters(sums[used], weights[used], len(top))


def robust_variance(clusters: Clusters, kind: str = "CR2") -> float:
    """Cluster-robust variance of the estimate. `kind`: CR0, CR1, CR2 or CR3.

    CR0 and CR1 are statsmodels' `cov_type="cluster"` without and with `use_correction`, for a regression on a
    constant. CR2 (Bell & McCaffrey 2002) divides each cluster's residual by sqrt(1 - its share), which makes the
    variance unbiased for independent items; CR3 is the delete-one-cluster jackknife's.
    """
    count, residuals = len(clusters.sums), clusters.residuals
    scale = {
        "CR0": np.ones(count),
        "CR1": np.full(count, np.sqrt(count / (count - 1)) if count > 1 else np.nan),
        "CR2": 1 / np.sqrt(np.maximum(1 - clusters.shares, 1e-12)),
        "CR3": 1 / np.maximum(1 - clusters.shares, 1e-12),
    }
    if kind not in scale:
        raise ValueError(f"unknown variance {kind!r}; known: {', '.join(scale)}")
    return float(((residuals * scale[kind]) ** 2).sum() / clusters.weights.sum() ** 2)


def satterthwaite(weights: np.ndarray) -> float:
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
    return float(trace**2 / (squares + cross))
