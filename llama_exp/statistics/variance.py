"""Where the uncertainty of a cell's score comes from: the test items, the training seed, the sample of examples.

    run     a data seed (which sample) and a training seed (initialisation, order, dropout), scored on the same items
    cell    the mean over its runs
    variance of the cell = test set / groups  +  sampling / data seeds  +  training / runs

Each training run is a random draw, as each article is; an interval from one run holds for that run alone.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from scipy import special

from llama_exp.statistics import messages
from llama_exp.statistics.clusters import (
    Clusters,
    cluster_index,
    cr2_scale,
    finite_array,
    robust_variance,
    satterthwaite_df,
)
from llama_exp.statistics.comparisons import groups_of, shared_ids
from llama_exp.statistics.intervals import Interval, cluster_interval, t_interval

METHOD = "test-set (CR2) plus between-run variance, t with Satterthwaite's degrees of freedom"


@dataclass(frozen=True, slots=True)
class RunSums:
    """Cluster sums per run: `sums` (runs, G), `weights` (G,)."""

    sums: np.ndarray
    weights: np.ndarray
    items: int

    @property
    def means(self) -> np.ndarray:
        """(runs,) score of each run."""
        return self.sums.sum(axis=1) / self.weights.sum()

    @property
    def mean(self) -> Clusters:
        """The clusters of the mean over runs."""
        return Clusters(self.sums.mean(axis=0), self.weights, self.items)

    def scaled_residuals(self) -> np.ndarray:
        """(runs, G) CR2-scaled residuals in units of the mean: their cross products are covariances."""
        scale = cr2_scale(self.weights) / self.weights.sum()
        return (self.sums - self.means[:, None] * self.weights) * scale

    def select(self, rows: np.ndarray | Sequence[int]) -> "RunSums":
        """These runs only."""
        return RunSums(self.sums[rows], self.weights, self.items)

    def average_by(self, owners: Sequence[int]) -> "RunSums":
        """One row per distinct owner, in rising order: the mean of its runs."""
        owners = np.asarray(owners)
        return RunSums(
            np.stack([self.sums[owners == owner].mean(axis=0) for owner in np.unique(owners)]), self.weights, self.items
        )


@dataclass(frozen=True, slots=True)
class VarianceComponents:
    """The interval of a cell's mean score, and what its variance consists of.

    total   the interval, with every source of noise that the runs can show; its `note` names them
    shares  (source, share of the variance), adding up to 1; training and sampling are one source where each data seed
            has one run, because they cannot be separated then; () where there is no spread
    unseen  where the runs show no noise of their own: the upper end of the one-sided interval of its standard error. A
            variance whose estimate is 0 is not known to be 0
    """

    total: Interval
    shares: tuple[tuple[str, float], ...] = ()
    unseen: float | None = None


def run_sums(scores: Sequence[Mapping[str, float]], groups: Mapping[str, Hashable] | None) -> RunSums:
    """Add up each run's scores by group.

    Raises ValueError when runs answered different items, or for NaN.
    """
    ids = shared_ids({f"run {number}": run for number, run in enumerate(scores)})
    index, count = cluster_index(groups_of(ids, groups), len(ids))
    rows = [finite_array(f"scores of run {number}", [run[i] for i in ids]) for number, run in enumerate(scores)]
    sums = np.stack([np.bincount(index, weights=row, minlength=count) for row in rows])
    return RunSums(sums, np.bincount(index, minlength=count).astype(np.float64), len(ids))


def variance_components(
    runs: RunSums, data_seeds: Sequence[int], confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> VarianceComponents:
    """A cell's interval from several runs on the same test items, and its variance by source.

    Run r was trained on the sample of data_seeds[r]. Training seeds are nested in data seeds: seed 0 on two different
    samples is two unrelated runs.
    """
    count, samples = len(runs.sums), len(set(data_seeds))
    if count == 1:
        found = cluster_interval(runs.mean, confidence, bounds)
        return VarianceComponents(replace(found, note=messages.ONE_RUN), (("test set", 1.0),))
    # The independent draws are the data seeds, each the mean of its runs; with one data seed, the runs themselves.
    owners = np.unique(data_seeds, return_inverse=True)[1] if samples > 1 else np.arange(count)
    draws, runs_per_draw = runs.average_by(owners), np.bincount(owners)
    mean = draws.mean
    if len(mean.sums) < 2:
        return VarianceComponents(cluster_interval(mean, confidence, bounds))
    df = len(draws.sums) - 1
    test, between = robust_variance(mean), float(draws.means.var(ddof=1)) / len(draws.sums)
    noise = max(between - interaction(draws), 0.0)  # what the finite test set adds to each run is in `test` already
    note = messages.sources_in_interval(samples, count, repeated=bool((runs_per_draw > 1).any()))
    if test + noise <= 0:  # every group of every run has the same score: no spread, but that is not certainty
        found = cluster_interval(mean, confidence, bounds)
        return VarianceComponents(replace(found, note=f"{note}; {found.note}"))
    error, total_df = add_variances(test, satterthwaite_df(mean.weights), noise, between, df)
    ends = t_interval(mean.estimate, error, total_df, confidence, bounds)
    total = Interval(mean.estimate, *ends, error, len(mean.sums), runs.items, METHOD, note, confidence)
    parts = {"test set": test, **_split_by_source(runs, owners, runs_per_draw, noise, samples)}
    shares = tuple((name, float(part / (test + noise))) for name, part in parts.items())
    return VarianceComponents(total, shares, None if noise > 0 else _upper_limit(between, df, confidence))


def interaction(draws: RunSums) -> float:
    """The part of the variance between draws that is chance on these test items, not a better or worse run.

    Two-way clustering (Cameron, Gelbach & Miller 2011) adds the variance by group and the variance by run, and takes
    off this one, which is in both.
    """
    residuals, count = draws.scaled_residuals(), len(draws.sums)
    return float(((residuals - residuals.mean(axis=0)) ** 2).sum() / (count * (count - 1)))


def add_variances(test: float, test_df: float, noise: float, between: float, df: float) -> tuple[float, float]:
    """Standard error of test-set variance plus run noise, and its Satterthwaite degrees of freedom.

    `noise` is `between` less a well-known part, so it is as uncertain as all of `between`.
    """
    variance = test + noise
    spread = test**2 / test_df + (between**2 / df if noise > 0 else 0.0)
    return sqrt(variance), max(variance**2 / spread, 1.0)


def _upper_limit(between: float, df: int, confidence: float) -> float:
    """Upper limit of the runs' own standard error: that of `between`, by chi-squared.

    What the test items explain of `between` is not taken off, which errs on the safe side. Of all cells (also those
    whose runs do show noise) about 5 in 100 have more than this although they showed none.
    """
    return sqrt(df * between / float(special.chdtri(df, confidence)))


def _split_by_source(
    runs: RunSums, owners: np.ndarray, runs_per_draw: np.ndarray, noise: float, samples: int
) -> dict[str, float]:
    """The noise of the runs, as variances of the cell's mean: training, sampling, or both together."""
    if samples == 1:
        return {"training": noise}
    if (runs_per_draw < 2).all():
        return {"training and sampling": noise}
    squares, freedom = 0.0, 0
    for draw in np.flatnonzero(runs_per_draw > 1):
        own, size = runs.select(owners == draw), runs_per_draw[draw]
        squares += (own.means.var(ddof=1) - interaction(own) * size) * (size - 1)
        freedom += size - 1
    training = max(squares / freedom, 0.0) * float((1 / runs_per_draw).mean()) / len(runs_per_draw)
    return {"training": min(training, noise), "sampling": noise - min(training, noise)}
