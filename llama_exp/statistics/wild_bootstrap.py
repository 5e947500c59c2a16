"""The restricted wild cluster bootstrap: how large can |t| be by chance, with these very clusters?

For a supposed true mean m, flip the sign of each cluster's residual at random (+1 or -1, Rademacher), compute t again
and take the 95th percentile of |t|. The interval is every m whose own |t| stays below that. It needs no degrees of
freedom, which is where t intervals go wrong when a few clusters hold most of the items.

Follows Cameron, Gelbach & Miller (2008), "Bootstrap-based improvements for inference with clustered errors", with
the null imposed and CR2 inside t; MacKinnon & Webb (2017) on why the null must be imposed when sizes are unequal.
For scores with bounds (0 to 100), t is taken on the logit scale, which corrects the asymmetry near the bounds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from llama_exp.statistics.clusters import Clusters, robust_variance, satterthwaite_df

DRAWS = 1999  # with the observed one 2,000: 5 % of them is a whole number
CACHED = 256  # up to this many clusters the random patterns are cached for the next call
ENUMERATE = 11  # up to this many clusters all 2^(G-1) sign patterns are used, and nothing is random


def sign_patterns(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (b, count) blocks of +1/-1: every pattern when there are few clusters, else DRAWS random ones.

    In the former the first sign is always +1, because a pattern and its mirror image have the same |t|; all-plus is
    left out: it is the observed one. Blocks keep memory small when every item is a cluster.
    """
    if count <= CACHED:
        yield _all_patterns(count) if count <= ENUMERATE else _random_patterns(count, seed)
        return
    rng = np.random.default_rng(seed)
    for start in range(0, DRAWS, 256):
        yield rng.integers(0, 2, size=(min(256, DRAWS - start), count)) * 2.0 - 1.0


def _all_patterns(count: int) -> np.ndarray:
    codes = np.arange(1, 2 ** (count - 1), dtype=np.int64)
    flips = (codes[:, None] >> np.arange(count - 1)) & 1
    return np.concatenate([np.ones((len(codes), 1)), 1.0 - 2.0 * flips], axis=1)


@lru_cache(maxsize=8)  # a grid compares hundreds of pairs on the same groups
def _random_patterns(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, size=(DRAWS, count)) * 2.0 - 1.0


@dataclass(slots=True)
class WildBootstrap:
    """|t| under sign flips, as a function of the supposed mean.

    The flips enter only through four sums per draw, computed once; after that every supposed mean costs O(draws).
    A `point` is a supposed mean on the scale of t: the logit between bounds, else the score itself.
    """

    clusters: Clusters
    bounds: tuple[float, float] | None
    flipped: np.ndarray  # (draws, 4)
    totals: tuple[float, float, float]

    @classmethod
    def from_clusters(
        cls, clusters: Clusters, bounds: tuple[float, float] | None = None, seed: int = 0
    ) -> "WildBootstrap":
        sums, weights = clusters.sums, clusters.weights
        scale = 1 / np.maximum(1 - weights / weights.sum(), 1e-12)  # CR2's, squared
        columns = np.stack([sums, weights, scale * sums * weights, scale * weights**2], axis=1)  # (G, 4)
        flipped = np.concatenate([signs @ columns for signs in sign_patterns(len(sums), seed)])
        totals = float(scale @ sums**2), float(scale @ (sums * weights)), float(scale @ weights**2)
        return cls(clusters, bounds, flipped, totals)

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Every supposed mean that is not rejected; None when the search finds no end (one cluster dominates)."""
        centre = float(self._to_scale(self.clusters.estimate))
        reach = special.stdtrit(satterthwaite_df(self.clusters.weights), (1 + confidence) / 2)
        step = float(reach * np.sqrt(robust_variance(self.clusters)) * self._slope(self.clusters.estimate)) / 4

        def excess(point: float) -> float:
            # A tie (few clusters: the observed |t| may *be* the critical draw) is no rejection, whatever the rounding.
            return abs(self._observed_t(point)) - self.critical_value(point, confidence) * (1 + 1e-8)

        low, high = _first_root(excess, centre, -step), _first_root(excess, centre, step)
        return None if low is None or high is None else (self._from_scale(low), self._from_scale(high))

    def critical_value(self, point: float, confidence: float) -> float:
        """The |t| that chance exceeds in 1 - confidence of the draws (the observed one counts as a draw)."""
        size = self._drawn_t(point)
        rank = max(int(np.floor((1 - confidence) * (len(size) + 1) + 1e-9)), 1)
        return float(np.partition(size, len(size) - rank)[len(size) - rank])

    def _observed_t(self, point: float) -> float:
        """t of the estimate against the supposed mean."""
        estimate = self.clusters.estimate
        error = np.sqrt(robust_variance(self.clusters)) * self._slope(estimate)
        return float((self._to_scale(estimate) - point) / error)

    def _drawn_t(self, point: float) -> np.ndarray:
        """(draws,) |t| of the sign-flipped data when the supposed mean is true."""
        mean, total = self._from_scale(point), self.clusters.weights.sum()
        sums, weights, cross, square = self.flipped.T
        shift = (sums - mean * weights) / total
        own = self.totals[0] - 2 * mean * self.totals[1] + mean**2 * self.totals[2]
        variance = own - 2 * shift * (cross - mean * square) + shift**2 * self.totals[2]
        error = np.sqrt(np.maximum(variance, 1e-300)) / total * self._slope(mean + shift)
        return np.abs((self._to_scale(mean + shift) - point) / error)

    def _to_scale(self, mean):
        """The mean on the scale on which t is taken."""
        return mean if self.bounds is None else special.logit(self._clipped_part(mean))

    def _from_scale(self, point: float) -> float:
        if self.bounds is None:
            return point
        return self.bounds[0] + (self.bounds[1] - self.bounds[0]) * float(special.expit(point))

    def _slope(self, mean):
        """Derivative of `_to_scale`, for the delta method."""
        if self.bounds is None:
            return np.ones_like(mean)
        part = self._clipped_part(mean)
        return 1 / (part * (1 - part) * (self.bounds[1] - self.bounds[0]))

    def _clipped_part(self, mean):
        """Where the mean lies between the bounds, 0 to 1, clipped because the logit is infinite at a bound.

        It may come within half an item of a bound, or as near as the estimate is, if that is nearer.
        """
        low, width = self.bounds[0], self.bounds[1] - self.bounds[0]
        estimate = (self.clusters.estimate - low) / width
        edge = min(0.5 / (self.clusters.items + 1), estimate, 1 - estimate)
        return np.clip((mean - low) / width, edge, 1 - edge)


def _first_root(excess: Callable[[float], float], centre: float, step: float) -> float | None:
    """Walk outwards until `excess` turns positive, then find where it is 0."""
    inside = centre
    for _ in range(60):
        outside = inside + step
        if excess(outside) > 0:
            return float(optimize.brentq(excess, inside, outside, xtol=abs(step) * 1e-9))
        inside, step = outside, step * 1.15
    return None
