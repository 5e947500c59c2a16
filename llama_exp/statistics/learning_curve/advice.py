"""From the curves of all ranks to advice: the smallest size and rank that suffice, and which run would tell more.

The curves are those of `Points.on_these_items`: sizes and ranks are compared on the same test items, whose common luck
cancels. Draws of different ranks are independent, so a maximum over ranks is never lower than the best one's own: what
chance makes look best counts against being sure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llama_exp.statistics.learning_curve.curve import Band, LearningCurve
from llama_exp.statistics.single_runs import relative_scatter

SURE = 0.9  # how sure the recommended cell must be to suffice
OUTCOMES = 96  # possible scores of a next run that are weighed
CANDIDATES = 24  # sizes tried between the smallest and the largest


@dataclass(frozen=True, slots=True)
class Choice:
    """The cheapest cell that is within `tolerance` of the best that the grid can reach: fewest examples, then rank.

    sure   probability that it is; below SURE where no cell is that sure
    """

    rank: int
    examples: int
    tolerance: float
    sure: float


@dataclass(frozen=True, slots=True)
class NextRun:
    """A run that has not been made. narrowing: the share by which it is expected to narrow what twice the data buys."""

    rank: int
    examples: int
    narrowing: float


def recommend(curves: Mapping[int, LearningCurve], tolerance: float, lower_is_better: bool) -> Choice:
    """Weigh every size between the tried ones at every rank against the best of the grid."""
    sign = -1.0 if lower_is_better else 1.0
    reached = [sign * curve.values([curve.sizes[-1]])[:, 0] for curve in curves.values()]
    best = np.max(reached, axis=0)
    found = []
    for rank, curve in curves.items():
        sizes = _sizes_between(curve)
        enough = (sign * curve.values(sizes) >= best[:, None] - tolerance).mean(axis=0)
        found += [Choice(rank, size, tolerance, float(share)) for size, share in zip(sizes, enough, strict=True)]
    sure = [one for one in found if one.sure >= SURE]
    if sure:
        return min(sure, key=lambda one: (one.examples, one.rank))
    return max(found, key=lambda one: (one.sure, -one.examples, -one.rank))


def _sizes_between(curve: LearningCurve) -> list[int]:
    """The sizes tried, and round ones (two digits) between them."""
    grid = np.geomspace(curve.sizes[0], curve.sizes[-1], CANDIDATES)
    rounded = {int(float(f"{size:.1e}")) for size in grid}
    return sorted({*curve.sizes, *(size for size in rounded if curve.sizes[0] < size < curve.sizes[-1])})


def rank_difference(curves: Mapping[int, LearningCurve], rank: int, other: int, examples: int) -> Band:
    """The score at `rank` minus that at `other`, both with so many examples."""
    curve = curves[rank]
    gap = curve.values([examples])[:, 0] - curves[other].values([examples])[:, 0]
    tail = (1 - curve.confidence) / 2
    return Band(*(float(part) for part in np.quantile(gap, [0.5, tail, 1 - tail])))


def next_runs(curve: LearningCurve, rank: int, available: int | None = None) -> list[NextRun]:
    """Runs worth making at this rank, the one that tells most about doubling the data first.

    Twice the largest size (or all that is available), a size in each gap, and the largest size with another seed.
    """
    sizes, largest = curve.sizes, curve.sizes[-1]
    between = [int(float(f"{(a * b) ** 0.5:.1e}")) for a, b in pairwise(sizes)]
    candidates = [min(2 * largest, available or 2 * largest), *between, largest]
    doubling = np.subtract(*curve.values([2 * largest, largest]).T)
    now = _width(doubling[None], np.ones((1, len(doubling))), curve.confidence)[0]
    if now <= 0:  # nothing is left to learn about it
        return []
    found = [NextRun(rank, n, float(1 - _expected_width(curve, n, doubling) / now)) for n in dict.fromkeys(candidates)]
    return sorted(found, key=lambda one: -one.narrowing)


def _expected_width(curve: LearningCurve, n: int, quantity: np.ndarray) -> float:
    """The width of the quantity's interval once a run with n examples has been scored, averaged over its scores."""
    if curve.draws is None:
        raise ValueError(f"this curve was refused: {curve.refusal}")
    usual = 1.0 if curve.repeated else relative_scatter(np.array(n))
    expected, scatter = curve.values([n])[:, 0], curve.draws.scatters * usual
    chosen = np.linspace(0, len(expected) - 1, OUTCOMES).astype(int)
    luck = np.random.default_rng(2).standard_normal(OUTCOMES)
    outcomes = expected[chosen] + scatter[chosen] * luck
    z = (outcomes[:, None] - expected) / scatter
    weights = np.exp(-0.5 * z**2) / scatter
    return float(_width(np.broadcast_to(quantity, weights.shape), weights, curve.confidence).mean())


def _width(values: np.ndarray, weights: np.ndarray, confidence: float) -> np.ndarray:
    """(M,) widths of the central intervals of weighted values (M, D)."""
    order = np.argsort(values, axis=1, kind="stable")
    below = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    below /= below[:, -1:]
    tail = (1 - confidence) / 2
    ends = [np.take_along_axis(order, (below < share).sum(1, keepdims=True), axis=1) for share in (tail, 1 - tail)]
    low, high = (np.take_along_axis(values, end, axis=1)[:, 0] for end in ends)
    return high - low
