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
from llama_exp.statistics.intervals import Bounds, Interval, clip_to_bounds, cluster_interval
from llama_exp.statistics.run_effects import RunEffects
from llama_exp.statistics.two_sources import TwoSources

DRAWS = 2000
METHOD = "test-set (CR2) plus between-run variance"


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

    def average_by(self, owners: np.ndarray | Sequence[int]) -> "RunSums":
        """One row per distinct owner, in rising order: the mean of its runs."""
        owners = np.asarray(owners)
        return RunSums(
            np.stack([self.sums[owners == owner].mean(axis=0) for owner in np.unique(owners)]), self.weights, self.items
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One source of a cell's uncertainty.

    variance    of the cell's mean; unbiased, so it may be below 0
    share       of the whole variance, 0 to 1, with the ends of its 95 % interval
    """

    name: str
    variance: float
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class VarianceComponents:
    """The interval of a cell's mean score, and what its variance consists of.

    total   the interval, with every source of noise that the runs can show; its `note` names them
    parts   by source; training and sampling are one where this design cannot separate them; () where there is no spread
    unseen  where the runs show no noise of their own: the upper end of the one-sided interval of its standard error. A
            variance whose estimate is 0 is not known to be 0
    """

    total: Interval
    parts: tuple[Part, ...] = ()
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
    runs: RunSums, data_seeds: Sequence[int], confidence: float = 0.95, bounds: Bounds = None
) -> VarianceComponents:
    """A cell's interval from several runs on the same test items, and its variance by source.

    Run r was trained on the sample of data_seeds[r]. Training seeds are nested in data seeds: seed 0 on two different
    samples is two unrelated runs. The estimate is the mean over all runs.
    """
    count, mean = len(runs.sums), runs.mean
    test = cluster_interval(mean, confidence, bounds)
    if count == 1:
        return VarianceComponents(replace(test, note=messages.ONE_RUN), (Part("test set", 0.0, 1.0, 1.0, 1.0),))
    if len(mean.sums) < 2:
        return VarianceComponents(test)
    nested = tuple((int(data_seed), run) for run, data_seed in enumerate(data_seeds))
    effects = RunEffects(runs.means, runs.scaled_residuals(), np.zeros(count, dtype=int), nested)
    luck = effects.variance(effects.weights(0))
    sources = TwoSources(robust_variance(mean), satterthwaite_df(mean.weights), luck)
    note = messages.sources_in_interval(data_seeds, _separable(data_seeds))
    if sources.error <= 0:  # every group of every run has the same score: no spread, but that is not certainty
        return VarianceComponents(replace(test, note=f"{note}; {test.note}"))
    low, high = _ends(test, sources, 1 - confidence, bounds)
    total = replace(test, low=low, high=high, standard_error=sources.error, method=METHOD, note=note)
    unseen = None if luck.beyond_items > 0 else _upper_limit(luck.total, luck.df, confidence)
    return VarianceComponents(total, _parts(effects, sources, data_seeds), unseen)


def _ends(test: Interval, sources: TwoSources, level: float, bounds: Bounds) -> tuple[float, float]:
    """The ends of the interval: the test set's own, lopsided near a bound, widened by the luck of the runs."""
    estimate, reach = test.estimate or 0.0, sources.reach(level)
    usual = -float(special.stdtrit(sources.test_df, level / 2)) * sqrt(sources.test)
    ends = []
    for end, sign in ((test.low, -1), (test.high, 1)):
        ratio = abs(end - estimate) / usual if end is not None and usual > 0 else 1.0
        ends.append(estimate + sign * reach * sqrt(sources.test * ratio**2 + sources.runs.beyond_items))
    return clip_to_bounds(ends[0], ends[1], bounds)


def _separable(data_seeds: Sequence[int]) -> bool:
    """Whether training and sampling have two degrees of freedom each, so that their shares say something."""
    samples = len(set(data_seeds))
    return samples > 2 and len(data_seeds) - samples > 1


def _parts(effects: RunEffects, sources: TwoSources, data_seeds: Sequence[int]) -> tuple[Part, ...]:
    """The variance of the cell's mean by source, with intervals of the shares.

    Generalised confidence intervals (Weerahandi 1993): every mean square divided by draws of its chi-squared.
    """
    rng, luck, samples = np.random.default_rng(0), sources.runs, len(set(data_seeds))
    weights, runs = effects.weights(0), len(data_seeds)
    both, drawn = effects.unbiased(weights), luck.total / _relative(rng, luck.df) - luck.items
    found = {"test set": (sources.test, sources.test / _relative(rng, sources.test_df))}
    if _separable(data_seeds):
        scores, items = effects.own_run()
        training = (scores - items) / runs
        draws = (scores / _relative(rng, runs - samples) - items) / runs
        found |= {"training": (training, draws), "sampling": (both - training, drawn - draws)}
    else:
        found["training" if samples == 1 else "training and sampling"] = both, drawn
    whole = sum(max(value, 0.0) for value, _ in found.values())
    every = np.sum([np.maximum(draws, 0.0) for _, draws in found.values()], axis=0)
    parts = []
    for name, (value, draws) in found.items():
        low, high = np.quantile(np.maximum(draws, 0.0) / np.maximum(every, 1e-300), (0.025, 0.975))
        share = max(value, 0.0) / whole if whole > 0 else 0.0
        parts.append(Part(name, float(value), float(share), float(low), float(high)))
    return tuple(parts)


def _relative(rng: np.random.Generator, df: float) -> np.ndarray:
    """(DRAWS,) an estimated variance relative to the true one."""
    return np.maximum(rng.chisquare(max(df, 1.0), DRAWS) / max(df, 1.0), 1e-12)


def interaction(draws: RunSums) -> float:
    """The part of the variance between draws that is chance on these test items, not a better or worse run.

    Two-way clustering (Cameron, Gelbach & Miller 2011) adds the variance by group and the variance by run, and takes
    off this one, which is in both.
    """
    residuals, count = draws.scaled_residuals(), len(draws.sums)
    return float(((residuals - residuals.mean(axis=0)) ** 2).sum() / (count * (count - 1)))


def _upper_limit(between: float, df: float, confidence: float) -> float:
    """Upper limit of the runs' own standard error: that of `between`, by chi-squared.

    What the test items explain of `between` is not taken off, which errs on the safe side. Of all cells (also those
    whose runs do show noise) about 5 in 100 have more than this although they showed none.
    """
    return sqrt(df * between / float(special.chdtri(df, confidence)))
