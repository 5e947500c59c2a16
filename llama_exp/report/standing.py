"""Which settings share the first place, by comparing them item by item.

    difference of two settings = mean over items and shared runs; its variance = test set + runs
    p-values of all pairs, Holm -> the best, what cannot be told from it, what is shown to be worse

Settings are compared as *recipes*: runs with the same seeds are subtracted from each other, and what their differences
scatter by counts as noise, because a lucky seed is no better rank. Three runs are few to measure that scatter by, so
each pair's is drawn towards that of all pairs, with the weight of up to 4 degrees of freedom (Smyth 2004, "Linear
models and empirical Bayes"; learning curves do the same). Settings of one run each are compared as these runs, on the
test set's noise alone, and the report says so.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
from scipy import optimize, special

from llama_exp.statistics.clusters import Clusters, robust_variance, satterthwaite
from llama_exp.statistics.comparisons import Difference, difference_of, holm
from llama_exp.statistics.variance import RunSums, interaction

LEVEL, POWER, PRIOR = 0.05, 0.8, 4.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A setting's runs on the same items: sums by group. `fixed`: no training, so no luck of a run (the untuned model)."""

    key: Hashable
    table: RunSums
    runs: tuple[tuple[int, int], ...]  # (data seed, seed)
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """`tied` and `worse` are keys, best first; `against` holds best minus each other one, and its adjusted p."""

    best: Hashable
    tied: tuple[Hashable, ...]
    worse: tuple[Hashable, ...]
    against: dict[Hashable, tuple[Difference, float]]
    detectable: float | None
    runs: int  # the fewest runs that a pair was compared on
    refused: tuple[tuple[Hashable, str], ...] = ()  # what answered other items, and which


def standing(contenders: Sequence[Contender]) -> Standing:
    """The contenders, best first, must have answered the same items in the same groups."""
    pairs = {(i, j): _gap(contenders[i], contenders[j]) for i, j in combinations(range(len(contenders)), 2)}
    pooled, weight = _pooled(list(pairs.values()), len(contenders))
    found = {pair: _compare(gap, pooled, weight) for pair, gap in pairs.items()}
    adjusted = dict(zip(found, holm([1.0 if d.p_value is None else d.p_value for d, _ in found.values()]), strict=True))
    key, others = [c.key for c in contenders], range(1, len(contenders))
    errors = [found[0, i][0].standard_error for i in others if found[0, i][0].standard_error]
    df = float(np.median([found[0, i][1] for i in others])) if others else 1.0
    reach = special.stdtrit(df, 1 - LEVEL / max(len(pairs), 1) / 2) + special.stdtrit(df, POWER)
    return Standing(
        best=key[0],
        tied=tuple(key[i] for i in others if adjusted[0, i] >= LEVEL),
        worse=tuple(key[i] for i in others if adjusted[0, i] < LEVEL),
        against={key[i]: (found[0, i][0], adjusted[0, i]) for i in others},
        detectable=float(reach * np.median(errors)) if errors else None,
        runs=min((len(gap.sums) for gap in pairs.values()), default=1),
    )


def _gap(a: Contender, b: Contender) -> RunSums:
    """a minus b by unit: a unit is a data seed, the mean of its runs; with one data seed, a run."""
    shared = sorted(set(a.runs) & set(b.runs)) if not (a.fixed or b.fixed) else a.runs if b.fixed else b.runs
    # Runs that have no seed in common are independent: any run of the one beside any of the other shows what pairs scatter by.
    couples = [(run, run) for run in shared] or list(zip(sorted(a.runs), sorted(b.runs), strict=False))
    gaps = np.stack([_row(a, one) - _row(b, other) for one, other in couples])
    draws = [data_seed for (data_seed, _), _ in couples]
    if len(set(draws)) > 1:
        gaps = np.stack([gaps[[d == draw for d in draws]].mean(axis=0) for draw in sorted(set(draws))])
    return RunSums(gaps, a.table.weights, a.table.items)


def _row(one: Contender, run: tuple[int, int]) -> np.ndarray:
    return one.table.sums.mean(axis=0) if one.fixed else one.table.sums[one.runs.index(run)]


def _pooled(gaps: Sequence[RunSums], contenders: int) -> tuple[float, float]:
    """What runs scatter by in a typical pair, and how many degrees of freedom that brings to each pair.

    The more the pairs' own variances differ beyond chance, the less they say of each other: Smyth's estimate from the
    spread of their logarithms, held to at most PRIOR.
    """
    several = [gap for gap in gaps if len(gap.sums) > 1]
    own = np.array([gap.means.var(ddof=1) for gap in several])
    freedom = np.array([len(gap.sums) - 1 for gap in several])
    half = freedom[own > 1e-12] / 2
    if contenders < 3 or len(half) < 2:
        return 0.0, 0.0
    logs = np.log(own[own > 1e-12]) - special.digamma(half) + np.log(half)
    beyond = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    weight = min(PRIOR, (contenders - 2) * float(half.max()) * 2)
    if beyond > special.polygamma(1, weight / 2):  # trigamma falls: find where it is as large as what is to explain
        weight = float(optimize.brentq(lambda x: special.polygamma(1, x / 2) - beyond, 1e-3, weight))
    return float((own * freedom).sum() / freedom.sum()), weight


def _compare(gap: RunSums, pooled: float, weight: float) -> tuple[Difference, float]:
    """The difference with interval and p-value, and its degrees of freedom."""
    mean, count = Clusters(gap.sums.mean(axis=0), gap.weights, gap.items), len(gap.sums)
    if count == 1 or len(mean.sums) < 2 or not gap.sums.any():
        return difference_of(mean), max(satterthwaite(mean.weights), 1.0) if len(mean.sums) > 1 else 1.0
    freedom = weight + count - 1
    between = (weight * pooled + (count - 1) * float(gap.means.var(ddof=1))) / freedom / count
    test, noise = robust_variance(mean), max(between - interaction(gap), 0.0)
    if test + noise <= 0:
        return difference_of(mean), 1.0
    spread = test**2 / max(satterthwaite(mean.weights), 1.0) + (between**2 / freedom if noise > 0 else 0.0)
    df, error = max((test + noise) ** 2 / spread, 1.0), sqrt(test + noise)
    reach = float(special.stdtrit(df, 1 - LEVEL / 2)) * error
    p = float(2 * special.stdtr(df, -abs(mean.estimate) / error))
    note = f"test set and {count} runs of each"
    return Difference(
        mean.estimate,
        mean.estimate - reach,
        mean.estimate + reach,
        p,
        error,
        gap.items,
        len(mean.sums),
        "paired by run and item, CR2 plus between-run variance",
        note,
    ), df
