"""How uncertain each point of a learning curve is, and how the points move together.

    covariance of the points' means = test set + draws shared by all sizes + each size's own runs

The test set is the same for every size, so its noise mostly lifts or lowers the whole curve (it hardly touches what
more data buys); runs are independent, and spread more where data are few.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .clusters import finite, satterthwaite
from .variance import RunSums, interaction, run_sums

PRIOR = 4.0  # weight, in degrees of freedom, of the pooled variance in each size's own


@dataclass(frozen=True, slots=True)
class Points:
    """The curve's points. K distinct sizes, rising.

    variances   (K,) what each mean scatters by on its own: the fit's weights
    covariance  (K, K) all of it
    df          degrees of freedom of these estimates; 0: the runs do not show their own noise
    """

    sizes: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    covariance: np.ndarray
    df: float
    runs: int

    def first(self, count: int) -> "Points":
        """The points at the `count` smallest sizes."""
        part = slice(0, count)
        return Points(
            self.sizes[part], self.means[part], self.variances[part], self.covariance[part, part], self.df, self.runs
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Runs in order of their units: a unit is one data seed at one size, the mean of its training runs."""

    sizes: np.ndarray  # (K,)
    size_of: np.ndarray  # (U,) index into sizes
    draw_of: np.ndarray  # (U,) data seed's number, or -1 where there are none
    means: np.ndarray  # (U,)
    sums: RunSums | None


def tabulate(
    sizes: Sequence[int], scores: Sequence, groups: Mapping[str, Hashable] | None, data_seeds: Sequence[int] | None
) -> Table:
    """Runs -> units. `scores[r]` is a number, or id -> score."""
    if len(sizes) != len(scores) or not len(sizes):
        raise ValueError(f"one size per run is needed: got {len(sizes)} sizes for {len(scores)} runs")
    if min(sizes) <= 0:
        raise ValueError("sizes are numbers of training examples, 1 or more; the untuned model is no point of a curve")
    if data_seeds is not None and len(data_seeds) != len(sizes):
        raise ValueError(f"one data seed per run is needed: got {len(data_seeds)} for {len(sizes)} runs")
    draws = list(range(len(sizes))) if data_seeds is None else list(data_seeds)
    if len(set(draws)) == 1:  # one sample, several training seeds: the runs are the units
        draws, data_seeds = list(range(len(sizes))), None
    keys = sorted(set(zip(sizes, draws, strict=True)))
    members = [[r for r, key in enumerate(zip(sizes, draws, strict=True)) if key == unit] for unit in keys]
    distinct = sorted(set(sizes))
    if isinstance(scores[0], Mapping):
        table = run_sums(scores, groups)
        sums = RunSums(np.stack([table.sums[m].mean(axis=0) for m in members]), table.weights, table.items)
        means = sums.means
    else:
        values = finite("scores", scores)
        sums, means = None, np.array([values[m].mean() for m in members])
    size_of = np.array([distinct.index(size) for size, _ in keys])
    draw_of = np.array([-1 if data_seeds is None else draw for _, draw in keys])
    return Table(np.array(distinct, dtype=np.float64), size_of, draw_of, means, sums)


def points(table: Table) -> Points:
    """Means and their covariance; see the head of this file."""
    count = len(table.sizes)
    units = np.bincount(table.size_of, minlength=count)
    means = np.bincount(table.size_of, weights=table.means, minlength=count) / units
    test, own_test, extra, test_df = _test_noise(table, units)
    run, shared, df = _run_noise(table, means, units)
    floor = (1e-6 * max(float(np.ptp(means)), 1e-12)) ** 2
    variances = np.maximum(run / units + own_test, floor)
    covariance = test - np.diag(extra) + shared + np.diag(np.maximum(run / units, floor))
    if df > 0 and test_df > 0:
        of_test, of_run = float(np.trace(test)), float((run / units).sum() + np.trace(shared))
        df = (of_test + of_run) ** 2 / (of_test**2 / test_df + of_run**2 / df) if of_test + of_run else df
    return Points(table.sizes, means, variances, covariance, df, len(table.means))


def _test_noise(table: Table, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(K, K) covariance from the test items, (K,) what of it is each size's own, (K,) what the spread of runs already
    holds, and degrees of freedom."""
    count = len(units)
    if table.sums is None or len(table.sums.weights) < 2:
        return np.zeros((count, count)), np.zeros(count), np.zeros(count), 0.0
    sums, weights, items = table.sums.sums, table.sums.weights, table.sums.items
    per_size = [RunSums(sums[table.size_of == k], weights, items) for k in range(count)]
    scores = np.stack([group.scores().mean(axis=0) for group in per_size])
    test = scores @ scores.T
    extra = np.array([interaction(group) if len(group.sums) > 1 else 0.0 for group in per_size])
    common = (test.sum() - np.trace(test)) / (count * (count - 1)) if count > 1 else 0.0
    own = np.maximum(np.diag(test) - extra - max(common, 0.0), 0.0)
    return test, own, extra, satterthwaite(weights)


def _run_noise(table: Table, means: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """(K,) variance of one run at each size, (K, K) variance shared by all sizes, degrees of freedom (0: unseen)."""
    count = len(units)
    residuals = table.means - means[table.size_of]
    freedom, shared = units - 1.0, np.zeros((count, count))
    draws = sorted(set(table.draw_of))
    if -1 not in draws and len(draws) >= 2 and count > 1 and (units == len(draws)).all():
        # Every data seed at every size: samples nest, so a lucky draw may be lucky at all sizes.
        grid = residuals.reshape(count, len(draws))  # units are sorted by size, then draw
        lift = grid.mean(axis=0)
        own = grid - lift
        freedom = np.full(count, (len(draws) - 1.0) * (count - 1) / count)
        pooled = (own**2).sum() / freedom.sum()
        shared += max(lift.var(ddof=1) - pooled / count, 0.0) / len(draws)
        residuals = own.ravel()
    total = freedom.sum()
    if total == 0:
        return np.zeros(count), shared, 0.0
    squares = np.bincount(table.size_of, weights=residuals**2, minlength=count)
    return (PRIOR * squares.sum() / total + squares) / (PRIOR + freedom), shared, float(total)
