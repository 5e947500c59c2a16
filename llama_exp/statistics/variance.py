"""Where a cell's uncertainty comes from: the test questions, the training seed, and which examples were drawn.

    run     a data seed (which sample) and a training seed (initialisation, order, dropout), scored on the same items
    cell    the mean over its runs
    variance of the cell = test set / groups  +  sampling / data seeds  +  training / runs

Each training run is a draw like each article is; an interval from one run holds for that run alone.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from scipy import special

from .clusters import Clusters, cluster_index, finite, robust_variance, satterthwaite
from .comparisons import Difference, groups_of, paired, shared_ids
from .intervals import Interval, cluster_interval, t_interval

ONE_RUN = "test set only; one training seed"


@dataclass(frozen=True, slots=True)
class Components:
    """A cell's interval and its parts.

    total      the interval, with every noise in it that the runs can show
    test_set, training, sampling
               each part's standard error of the cell's mean; None where the runs cannot show it
    together   training and sampling noise where they cannot be told apart (one training seed per data seed)
    shares     (name, part of the variance), adding up to 1
    df         degrees of freedom of the total; None for one run, whose interval is not a t interval
    unseen     how large the standard error from the runs' luck may be all the same, where these runs show none of it: the
               upper end of its one-sided interval. A variance whose estimate is 0 is not known to be 0
    note       in words what is in the interval and what is not
    """

    total: Interval
    test_set: float | None
    training: float | None
    sampling: float | None
    together: float | None
    shares: tuple[tuple[str, float], ...]
    runs: int
    data_seeds: int
    note: str
    df: float | None = None
    unseen: float | None = None

    def __str__(self) -> str:
        return f"{self.total} ({self.note})"


@dataclass(frozen=True, slots=True)
class RunSums:
    """Cluster sums per run: `sums` (runs, G), `weights` (G,)."""

    sums: np.ndarray
    weights: np.ndarray
    items: int

    @property
    def means(self) -> np.ndarray:
        return self.sums.sum(axis=1) / self.weights.sum()

    def scores(self) -> np.ndarray:
        """(runs, G) CR2-scaled residuals in units of the mean: their cross products are covariances."""
        share = self.weights / self.weights.sum()
        scale = 1 / (np.sqrt(np.maximum(1 - share, 1e-12)) * self.weights.sum())
        return (self.sums - self.means[:, None] * self.weights) * scale


def run_sums(scores: Sequence[Mapping[str, float]], groups: Mapping[str, Hashable] | None) -> RunSums:
    """Add up each run's scores by group; ValueError when runs answered different items."""
    ids = shared_ids({f"run {number}": run for number, run in enumerate(scores)})
    index, count = cluster_index(groups_of(ids, groups), len(ids))
    rows = [finite(f"scores of run {number}", [run[i] for i in ids]) for number, run in enumerate(scores)]
    sums = np.stack([np.bincount(index, weights=row, minlength=count) for row in rows])
    return RunSums(sums, np.bincount(index, minlength=count).astype(np.float64), len(ids))


def components(
    scores: Sequence[Mapping[str, float]],
    data_seeds: Sequence[int],
    seeds: Sequence[int],
    groups: Mapping[str, Hashable] | None = None,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Components:
    """A cell's interval from several runs on the same test items, taken apart by source.

    scores[r] is run r's id -> score, trained with data_seeds[r] and seeds[r]. Training seeds are nested in data seeds:
    seed 0 on two different samples is two unrelated runs. Raises ValueError for different items, NaN, or a run given
    twice.
    """
    keys = list(zip(data_seeds, seeds, strict=True))
    if len(keys) != len(scores) or not keys:
        raise ValueError(f"one data seed and one seed per run are needed: got {len(keys)} for {len(scores)} runs")
    if len(set(keys)) != len(keys):
        raise ValueError("the same run (data seed, seed) is given twice; a copy is not a second draw")
    return components_of(run_sums(scores, groups), data_seeds, confidence, bounds)


def components_of(
    table: RunSums, data_seeds: Sequence[int], confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> Components:
    """`components` from cluster sums."""
    runs, draws = len(table.sums), sorted(set(data_seeds))
    if runs == 1:
        found = cluster_interval(Clusters(table.sums[0], table.weights, table.items), confidence, bounds)
        return Components(found, found.standard_error, None, None, None, (("test set", 1.0),), 1, 1, ONE_RUN)
    # Units are the independent draws: data seeds, each the mean of its runs; with one data seed, the runs themselves.
    owner = np.array([draws.index(d) for d in data_seeds]) if len(draws) > 1 else np.arange(runs)
    units = RunSums(*_unit_means(table, owner), table.items)
    mean = Clusters(units.sums.mean(axis=0), units.weights, units.items)
    if len(mean.sums) < 2:
        found = cluster_interval(mean, confidence, bounds)
        return Components(found, None, None, None, None, (), runs, len(draws), f"no interval: {found.note}")
    count = len(units.sums)
    test, between = robust_variance(mean), float(units.means.var(ddof=1)) / count
    noise = max(between - interaction(units), 0.0)  # what the finite test set adds to each run is in `test` already
    within = np.array([int((owner == u).sum()) for u in range(count)])
    training, sampling, together = _split(table, owner, within, noise, len(draws))
    note = _note(len(draws), runs, bool((within > 1).any()))
    if test + noise <= 0:  # every group of every run scores the same: no spread, which is not the same as no doubt
        found = cluster_interval(mean, confidence, bounds)
        found = replace(found, note=f"{note}; {found.note}")
        return Components(found, None, None, None, None, (), runs, len(draws), found.note)
    error, df = _combine(test, satterthwaite(mean.weights), noise, between, count - 1)
    low, high = t_interval(mean.estimate, error, df, confidence, bounds)
    total = Interval(
        mean.estimate, low, high, error, len(mean.sums), units.items,
        "test-set (CR2) plus between-run variance, t with Satterthwaite's degrees of freedom", note, confidence,
    )  # fmt: skip
    parts = [("test set", test), ("training", training), ("sampling", sampling), ("training and sampling", together)]
    shares = tuple((name, float(part / (test + noise))) for name, part in parts if part is not None)
    roots = [None if part is None else sqrt(part) for _, part in parts]
    unseen = None if noise > 0 else _at_most(between, count - 1, confidence)
    return Components(total, *roots, shares, runs, len(draws), note, df, unseen)


def paired_runs(
    a: Sequence[Mapping[str, float]],
    b: Sequence[Mapping[str, float]],
    data_seeds: Sequence[int],
    seeds: Sequence[int],
    groups: Mapping[str, Hashable] | None = None,
    confidence: float = 0.95,
) -> Difference:
    """a minus b as *recipes*: `paired` for cells of several runs, with the luck of seeds and samples in the interval.

    Run r of either cell drew data_seeds[r] and started from seeds[r]; the two are subtracted run by run, so that a
    sample that suits both cancels. With one run it is `paired`, which compares those two runs and no more.
    """
    if len(a) != len(b):
        raise ValueError(f"the two cells need the same runs: got {len(a)} and {len(b)}")
    for one, other in zip(a, b, strict=True):
        shared_ids({"a": one, "b": other})
    gaps = [{i: one[i] - other[i] for i in one} for one, other in zip(a, b, strict=True)]
    if len(gaps) == 1:
        return replace(paired(a[0], b[0], groups, confidence), note=ONE_RUN)
    if not any(any(gap.values()) for gap in gaps):
        return paired(a[0], b[0], groups, confidence)
    found = components(gaps, data_seeds, seeds, groups, confidence)
    total, p = found.total, None
    if total.low is not None:
        p = float(2 * special.stdtr(found.df, -abs(total.estimate) / total.standard_error))
    return Difference(
        total.estimate, total.low, total.high, p, total.standard_error, total.items, total.clusters, total.method,
        found.note, confidence,
    )  # fmt: skip


def interaction(units: RunSums) -> float:
    """The part of the variance between unit means that is chance on these test items, not a better or worse run.

    Two-way clustering (Cameron, Gelbach & Miller 2011) adds the variance by group and the variance by run, and takes
    this one off, which is in both.
    """
    scores, count = units.scores(), len(units.sums)
    return float(((scores - scores.mean(axis=0)) ** 2).sum() / (count * (count - 1)))


def _at_most(between: float, df: int, confidence: float) -> float:
    """Upper limit of the runs' own standard error: that of `between`, by chi-squared.

    What the test items explain of `between` is not taken off, which errs on the safe side. Of all cells (those whose
    runs show luck among them) about 5 in 100 have more than this although they showed none.
    """
    return sqrt(df * between / float(special.chdtri(df, confidence)))


def _unit_means(table: RunSums, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([table.sums[owner == unit].mean(axis=0) for unit in range(owner.max() + 1)]), table.weights


def _split(
    table: RunSums, owner: np.ndarray, within: np.ndarray, noise: float, data_seeds: int
) -> tuple[float | None, float | None, float | None]:
    """Training, sampling, or both together: as variances of the cell's mean."""
    if data_seeds == 1:
        return noise, None, None
    if (within < 2).all():
        return None, None, noise
    squares, freedom = 0.0, 0
    for unit in np.flatnonzero(within > 1):
        runs = RunSums(table.sums[owner == unit], table.weights, table.items)
        pure = runs.means.var(ddof=1) - interaction(runs) * within[unit]
        squares, freedom = squares + pure * (within[unit] - 1), freedom + within[unit] - 1
    training = min(max(squares / freedom, 0.0) * float((1 / within).mean()) / len(within), noise)
    return training, noise - training, None


def _combine(test: float, test_df: float, noise: float, between: float, df: int) -> tuple[float, float]:
    """Standard error of the sum and its Satterthwaite degrees of freedom."""
    variance = test + noise
    # `noise` is `between` less a well-known part, so it is as uncertain as the whole of `between`.
    spread = test**2 / max(test_df, 1.0) + (between**2 / df if noise > 0 else 0.0)
    return sqrt(variance), max(variance**2 / spread, 1.0)


def _note(data_seeds: int, runs: int, repeated: bool) -> str:
    if data_seeds == 1:
        return f"test set and {runs} training seeds; one data sample, so which examples were drawn is not in it"
    if repeated:
        return f"test set, {data_seeds} data samples and {runs} training runs"
    return f"test set and {data_seeds} data samples with one training seed each, whose noises cannot be told apart"
