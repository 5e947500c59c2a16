"""How uncertain each point of a learning curve is, and how the points move together.

    covariance of the points' means = test set + draws shared by all sizes + each size's own runs

The test set is the same for every size, so its noise mostly lifts or lowers the whole curve (it hardly affects the
gain from more data); runs are independent, and scatter more where data are few.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from llama_exp.statistics.clusters import finite_array, satterthwaite_df
from llama_exp.statistics.single_runs import relative_scatter
from llama_exp.statistics.variance import RunSums, interaction, run_sums

PRIOR = 4.0  # weight, in degrees of freedom, of the pooled variance in each size's own


@dataclass(frozen=True, slots=True)
class Points:
    """The points of the curve: K distinct sizes, rising.

    draws         (K,) draws that each mean is of
    fixed         (K, K) covariance of the means that does not depend on run_variance: test set, and draws shared by all
                  sizes
    common        the part of `fixed` that lifts or lowers all points together: the test set
    run_variance  variance of one draw, averaged over sizes; 0 where no size has two
    profile       (K,) each size's own variance of a draw, relative to run_variance; where that is 0, what is usual of
                  the size, relative to 1,000 examples
    df            degrees of freedom of run_variance
    """

    sizes: np.ndarray
    means: np.ndarray
    draws: np.ndarray
    fixed: np.ndarray
    common: float
    run_variance: float
    profile: np.ndarray
    df: float

    def on_these_items(self) -> "Points":
        """Without what the test set adds to all points alike: for comparing sizes and ranks on the same items."""
        rest = positive(self.fixed - self.common)
        return replace(self, fixed=rest, common=0.0)


@dataclass(frozen=True, slots=True)
class SweepScores:
    """The scores of a sweep by draw: a draw is one data seed at one size, the mean of its training runs.

    sizes         (K,) distinct sizes, rising
    size_index    (U,) index of each draw's size; draws are sorted by size, then by data seed
    data_seeds    (U,) data seed of each draw, or -1 where there are none
    means         (U,) score of each draw
    sums          the draws' scores by group of test items; None where only their means are known
    """

    sizes: np.ndarray
    size_index: np.ndarray
    data_seeds: np.ndarray
    means: np.ndarray
    sums: RunSums | None


def tabulate(
    sizes: Sequence[int], scores: Sequence, groups: Mapping[str, Hashable] | None, data_seeds: Sequence[int] | None
) -> SweepScores:
    """Average runs by draw. `scores[r]` is a number, or id -> score.

    Raises ValueError for lengths that differ, sizes below 1, NaN, and runs that answered different items.
    """
    if len(sizes) != len(scores) or not len(sizes):
        raise ValueError(f"one size per run is needed: got {len(sizes)} sizes for {len(scores)} runs")
    if min(sizes) <= 0:
        raise ValueError(
            "sizes are numbers of training examples, 1 or more: the untuned model is not a point of the curve"
        )
    if data_seeds is not None and len(data_seeds) != len(sizes):
        raise ValueError(f"one data seed per run is needed: got {len(data_seeds)} for {len(sizes)} runs")
    if data_seeds is not None and len(set(data_seeds)) == 1:  # one sample, several training seeds: each run is a draw
        data_seeds = None
    draws = list(range(len(sizes))) if data_seeds is None else list(data_seeds)
    keys, owners = np.unique(np.stack([sizes, draws], axis=1), axis=0, return_inverse=True)
    owners = owners.ravel()
    if isinstance(scores[0], Mapping):
        sums = run_sums(scores, groups).average_by(owners)
        means = sums.means
    else:
        values = finite_array("scores", scores)
        sums, means = None, np.array([values[owners == draw].mean() for draw in range(len(keys))])
    distinct, size_index = np.unique(keys[:, 0], return_inverse=True)
    seeds = np.full(len(keys), -1) if data_seeds is None else keys[:, 1]
    return SweepScores(distinct.astype(np.float64), size_index, seeds, means, sums)


def estimate_points(scores: SweepScores) -> Points:
    """The means of each size and their covariance; see the module's docstring."""
    count = len(scores.sizes)
    draws = np.bincount(scores.size_index, minlength=count)
    means = np.bincount(scores.size_index, weights=scores.means, minlength=count) / draws
    test, in_scatter, test_df = _test_noise(scores, draws)
    run, shared, df = _run_noise(scores, means, draws)
    fixed = with_few_groups(positive(test - np.diag(in_scatter)), test_df)
    common = common_part(fixed)
    pooled = float(run.mean())
    profile = run / pooled if pooled > 0 else relative_scatter(scores.sizes) ** 2
    return Points(scores.sizes, means, draws, fixed + shared, common, pooled, profile, df if pooled > 0 else 0.0)


def common_part(covariance: np.ndarray) -> float:
    """What lifts or lowers all means together, at least 0: the mean covariance of two of them."""
    count = len(covariance)
    return max(float(covariance.sum() - np.trace(covariance)) / (count * (count - 1)), 0.0) if count > 1 else 0.0


def positive(covariance: np.ndarray) -> np.ndarray:
    """The nearest covariance: what a subtraction left below 0 is 0."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def with_few_groups(test: np.ndarray, df: float) -> np.ndarray:
    """The covariance of the test set, larger where few groups show it, as t's interval is wider than the normal's."""
    return test * float(special.stdtrit(df, 0.975) / special.ndtri(0.975)) ** 2 if df > 0 else test


def _test_noise(scores: SweepScores, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The noise of the finite test set.

    Returns its (K, K) covariance; (K,) the part that the scatter of the draws already contains; and its degrees of
    freedom, 0 where it is unknown.
    """
    count = len(draws)
    if scores.sums is None or len(scores.sums.weights) < 2:
        return np.zeros((count, count)), np.zeros(count), 0.0
    by_size = [scores.sums.select(scores.size_index == size) for size in range(count)]
    residuals = np.stack([group.scaled_residuals().mean(axis=0) for group in by_size])
    in_scatter = np.array([interaction(group) if len(group.sums) > 1 else 0.0 for group in by_size])
    return residuals @ residuals.T, in_scatter, satterthwaite_df(scores.sums.weights)


def _run_noise(scores: SweepScores, means: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The noise of the runs.

    Returns the (K,) variance of one draw at each size, the (K, K) covariance shared by all sizes, and the degrees of
    freedom, 0 where it is unknown.
    """
    count = len(draws)
    residuals = scores.means - means[scores.size_index]
    freedom, shared = draws - 1.0, np.zeros((count, count))
    seeds = sorted(set(scores.data_seeds))
    if -1 not in seeds and len(seeds) >= 2 and count > 1 and (draws == len(seeds)).all():
        # Every data seed at every size: samples nest, so a lucky draw may be lucky at all sizes.
        grid = residuals.reshape(count, len(seeds))  # sorted by size, then data seed
        lift = grid.mean(axis=0)
        own = grid - lift
        freedom = np.full(count, (len(seeds) - 1.0) * (count - 1) / count)
        pooled = (own**2).sum() / freedom.sum()
        shared += max(lift.var(ddof=1) - pooled / count, 0.0) / len(seeds)
        residuals = own.ravel()
    total = freedom.sum()
    if total == 0:
        return np.zeros(count), shared, 0.0
    squares = np.bincount(scores.size_index, weights=residuals**2, minlength=count)
    return (PRIOR * squares.sum() / total + squares) / (PRIOR + freedom), shared, float(total)
