"""Which cells of a sweep share the first place, by comparing them item by item.

    difference of two cells = mean over items and shared runs; its variance = test set + runs
    p-values of all pairs, Holm -> the best, what does not differ significantly from it, what is worse

Cells are compared as *recipes*: runs with the same seeds are subtracted from each other, and the scatter of their
differences counts as noise, because a lucky seed does not make a better rank. Three runs are few to measure that
scatter, so each pair's is shrunk towards that of all pairs, with a weight of up to 4 degrees of freedom (Smyth 2004,
"Linear models and empirical Bayes"; learning curves do the same). Cells of one run each are compared as these runs, on
the test set's noise alone.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import optimize, special

from llama_exp.statistics import messages
from llama_exp.statistics.clusters import robust_variance, satterthwaite_df
from llama_exp.statistics.comparisons import Difference, cluster_difference, difference_p_value, holm
from llama_exp.statistics.intervals import t_interval
from llama_exp.statistics.variance import RunSums, add_variances, interaction

LEVEL, POWER = 0.05, 0.8
PRIOR = 4.0  # largest weight, in degrees of freedom, of all pairs' scatter in each pair's own
METHOD = "paired by run and item, CR2 plus between-run variance"


@dataclass(frozen=True, slots=True)
class Contender:
    """A cell's runs on the same items: sums by group.

    runs   (data seed, seed) of each row of `sums`
    fixed  nothing was trained, so no run is luckier than another (the untuned model)
    """

    key: Hashable
    sums: RunSums
    runs: tuple[tuple[int, int], ...]
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best contender, and how each of the others compares with it. All are named by their keys, best first.

    tied        no significant difference from the best
    worse       significantly worse
    against     {key: (best minus that one, its p-value adjusted by Holm over all pairs)}
    detectable  the smallest true difference from the best that such an evaluation finds with a chance of 80 %
    runs        the fewest runs that a pair was compared on
    refused     (key, reason) of what was left out, because it answered other items
    """

    best: Hashable
    tied: tuple[Hashable, ...]
    worse: tuple[Hashable, ...]
    against: dict[Hashable, tuple[Difference, float]]
    detectable: float | None
    runs: int
    refused: tuple[tuple[Hashable, str], ...] = ()


def rank_cells(contenders: Sequence[Contender]) -> Ranking:
    """Compare all pairs of contenders, given best first; they must have answered the same items in the same groups."""
    pairs = list(combinations(range(len(contenders)), 2))
    gaps = [_subtract(contenders[i], contenders[j]) for i, j in pairs]
    scatter, weight = _common_scatter(gaps, len(contenders))
    keys, count = [one.key for one in contenders], len(contenders) - 1  # combinations() lists the best's pairs first
    compared = [_compare(gap, scatter, weight) for gap in gaps[:count]]
    p_values = [one.p_value for one, _ in compared] + [_p_value(gap, scatter, weight) for gap in gaps[count:]]
    adjusted = holm([1.0 if p is None else p for p in p_values])
    against = {key: (one, p) for key, (one, _), p in zip(keys[1:], compared, adjusted, strict=False)}
    return Ranking(
        best=keys[0],
        tied=tuple(key for key, (_, p) in against.items() if p >= LEVEL),
        worse=tuple(key for key, (_, p) in against.items() if p < LEVEL),
        against=against,
        detectable=_detectable(compared, len(pairs)),
        runs=min((len(gap.sums) for gap in gaps), default=1),
    )


def _subtract(a: Contender, b: Contender) -> RunSums:
    """a minus b by independent draw: a data seed, the mean of its runs; with one data seed, a run."""
    shared = sorted(set(a.runs) & set(b.runs)) if not (a.fixed or b.fixed) else a.runs if b.fixed else b.runs
    # Runs that have no seed in common are independent: any run of the one beside any of the other shows the scatter.
    couples = [(run, run) for run in shared] or list(zip(sorted(a.runs), sorted(b.runs), strict=False))
    gaps = RunSums(np.stack([_row(a, one) - _row(b, other) for one, other in couples]), a.sums.weights, a.sums.items)
    data_seeds = [data_seed for (data_seed, _), _ in couples]
    return gaps.average_by(data_seeds) if len(set(data_seeds)) > 1 else gaps


def _row(one: Contender, run: tuple[int, int]) -> np.ndarray:
    return one.sums.sums.mean(axis=0) if one.fixed else one.sums.sums[one.runs.index(run)]


def _common_scatter(gaps: Sequence[RunSums], contenders: int) -> tuple[float, float]:
    """The variance between runs in a typical pair, and its weight in each pair's own, in degrees of freedom.

    The more the pairs' own variances differ beyond chance, the less they say about each other: Smyth's estimate from
    the spread of their logarithms, at most PRIOR.
    """
    several = [gap for gap in gaps if len(gap.sums) > 1]
    own = np.array([gap.means.var(ddof=1) for gap in several])
    freedom = np.array([len(gap.sums) - 1 for gap in several])
    half = freedom[own > 1e-12] / 2
    if contenders < 3 or len(half) < 2:
        return 0.0, 0.0
    logs = np.log(own[own > 1e-12]) - special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    weight = min(PRIOR, (contenders - 2) * float(half.max()) * 2)
    if excess > special.polygamma(1, weight / 2):  # trigamma falls: find where it equals the excess
        weight = float(optimize.brentq(lambda x: special.polygamma(1, x / 2) - excess, 1e-3, weight))
    return float((own * freedom).sum() / freedom.sum()), weight


def _compare(gap: RunSums, scatter: float, weight: float) -> tuple[Difference, float]:
    """The difference with interval and p-value, and its degrees of freedom."""
    mean, count = gap.mean, len(gap.sums)
    if count == 1 or len(mean.sums) < 2 or not gap.sums.any():
        return cluster_difference(mean), satterthwaite_df(mean.weights) if len(mean.sums) > 1 else 1.0
    freedom = weight + count - 1
    between = (weight * scatter + (count - 1) * float(gap.means.var(ddof=1))) / freedom / count
    test, noise = robust_variance(mean), max(between - interaction(gap), 0.0)
    if test + noise <= 0:
        return cluster_difference(mean), 1.0
    error, df = add_variances(test, satterthwaite_df(mean.weights), noise, between, freedom)
    low, high = t_interval(mean.estimate, error, df, 1 - LEVEL)
    p = float(2 * special.stdtr(df, -abs(mean.estimate) / error))
    note = messages.RUNS_OF_EACH.format(runs=count)
    return Difference(mean.estimate, low, high, p, error, gap.items, len(mean.sums), METHOD, note), df


def _p_value(gap: RunSums, scatter: float, weight: float) -> float | None:
    """That of `_compare`, without a bootstrap interval where each has a single run: several times as fast."""
    return difference_p_value(gap.mean) if len(gap.sums) == 1 else _compare(gap, scatter, weight)[0].p_value


def _detectable(compared: Sequence[tuple[Difference, float]], pairs: int) -> float | None:
    """(t at LEVEL / pairs + t at POWER) times the median standard error (Bloom 1995, "Minimum detectable effects").

    Uses the scatter that was observed, never the differences. None where there is no scatter.
    """
    errors = [one.standard_error for one, _ in compared if one.standard_error]
    if not errors:
        return None
    df = float(np.median([df for _, df in compared]))
    return float((special.stdtrit(df, 1 - LEVEL / pairs / 2) + special.stdtrit(df, POWER)) * np.median(errors))
