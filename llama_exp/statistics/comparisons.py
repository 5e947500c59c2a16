"""Whether two cells differ, when they answered the same items: paired differences, and Holm's correction for many.

Pairing removes what makes an item hard for every model; clustering by group accounts for items that are alike. A
difference is a mean of per-item differences, so its interval is the interval of a mean (intervals.py).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import optimize, special

from llama_exp.formatting import plus_minus
from llama_exp.statistics import messages
from llama_exp.statistics.clusters import Clusters, cluster_sums, finite_array, robust_variance, satterthwaite_df
from llama_exp.statistics.intervals import cluster_interval
from llama_exp.statistics.wild_bootstrap import WildBootstrap

Scores = Mapping[str, float]  # item id -> score
Groups = Mapping[str, Hashable] | None  # item id -> its cluster
# With fewer clusters t with CR2 and Satterthwaite's degrees of freedom is nearer to its 5 % than the bootstrap, which
# has few sign patterns then. No bound makes a difference lopsided (docs/statistics.md).
FEW_CLUSTERS = 12


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second, in the units of the scores. Unknown parts are None, and `note` says why."""

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    standard_error: float | None
    items: int
    clusters: int
    method: str
    note: str = ""
    confidence: float = 0.95

    def __str__(self) -> str:
        return plus_minus(self.difference, self.low, self.high, sign=True)


def paired_difference(
    a: Scores, b: Scores, groups: Groups = None, confidence: float = 0.95, seed: int = 0
) -> Difference:
    """a minus b over the same items, with interval and two-sided p-value.

    The p-value is below 1 - confidence exactly when the interval excludes 0. Where all groups differ by the same
    amount there is a p-value but no interval.
    Raises ValueError when the items differ (how many, and the first ids), or a score is NaN.
    """
    ids = shared_ids({"a": a, "b": b})
    return cluster_difference(paired_clusters(a, b, ids, groups), confidence, seed)


def shared_ids(cells: Mapping[str, Scores]) -> list[str]:
    """The sorted ids that every cell answered.

    Raises ValueError, naming ids, when two cells answered different items.
    """
    names = list(cells)
    if not names:
        raise ValueError("no cells to compare")
    first = set(cells[names[0]])
    for name in names[1:]:
        if first != set(cells[name]):
            raise ValueError(_different_items(names[0], first, name, set(cells[name])))
    return sorted(first)


def _different_items(one: str, first: set, other: str, second: set) -> str:
    def listed(ids: set) -> str:
        return ", ".join(map(str, sorted(ids)[:3])) + (", ..." if len(ids) > 3 else "")

    parts = [
        f"{len(ids)} only in {name} ({listed(ids)})"
        for name, ids in ((one, first - second), (other, second - first))
        if ids
    ]
    return f"{one} and {other} answered different items: {'; '.join(parts)}; {len(first & second)} are shared"


def groups_of(ids: Sequence[str], groups: Groups) -> list[Hashable] | None:
    """The group of each id.

    Raises ValueError, naming ids, when some have none.
    """
    if groups is None:
        return None
    missing = [i for i in ids if i not in groups]
    if missing:
        first = ", ".join(map(str, missing[:3]))
        raise ValueError(f"{len(missing)} of {len(ids)} items have no group (first: {first})")
    return [groups[i] for i in ids]


def paired_clusters(a: Scores, b: Scores, ids: Sequence[str], groups: Groups) -> Clusters:
    """The sums of a minus b by group."""
    first = finite_array("scores of a", [a[i] for i in ids])
    second = finite_array("scores of b", [b[i] for i in ids])
    return cluster_sums(first - second, np.ones(len(ids)), groups_of(ids, groups))


def cluster_difference(clusters: Clusters, confidence: float = 0.95, seed: int = 0) -> Difference:
    """The difference whose sums by cluster are given, with interval and two-sided p-value."""
    count, items = len(clusters.sums), clusters.items
    if count == 0:
        raise ValueError("no items to compare")
    if count > 1 and not np.any(clusters.sums):
        return Difference(0.0, 0.0, 0.0, 1.0, 0.0, items, count, "none", messages.NO_DIFFERENCE, confidence)
    found = cluster_interval(clusters, confidence, None, seed, FEW_CLUSTERS)
    return Difference(
        difference=clusters.estimate,
        low=found.low,
        high=found.high,
        p_value=difference_p_value(clusters, confidence, seed),
        standard_error=found.standard_error,
        items=items,
        clusters=count,
        method=found.method,
        note=found.note,
        confidence=confidence,
    )


def difference_p_value(clusters: Clusters, confidence: float = 0.95, seed: int = 0) -> float | None:
    """Two-sided p of no difference; 1 when no group differs, None for a single group.

    Where all groups differ by the same amount there is no spread for a t: then it is the share of sign patterns that
    are as extreme, 2 of 2^G.
    """
    count = len(clusters.sums)
    if count < 2:
        return None
    if not np.any(clusters.sums):
        return 1.0
    error = sqrt(robust_variance(clusters))
    if error <= 1e-12 * abs(clusters.estimate):
        return 2.0 ** (1 - count)
    p = float(2 * special.stdtr(_equivalent_df(clusters, confidence, seed), -abs(clusters.estimate) / error))
    return 1 - confidence if abs(p - (1 - confidence)) < 1e-7 else p  # a tie with the critical value is no rejection


def _equivalent_df(clusters: Clusters, confidence: float = 0.95, seed: int = 0) -> float:
    """Degrees of freedom of the t distribution whose two tails beyond the test's critical value are 1 - confidence.

    The bootstrap's own p-values stop at 1/2000, too coarse for Holm over hundreds of pairs. This t distribution agrees
    with it on what is significant at 1 - confidence and continues smoothly from there.
    """
    if len(clusters.sums) < FEW_CLUSTERS or clusters.equal_weights:
        return satterthwaite_df(clusters.weights)
    critical = WildBootstrap.from_clusters(clusters, None, seed).critical_value(0.0, confidence)
    tail, low, high = (1 + confidence) / 2, 1.0, 1e6
    if critical >= special.stdtrit(low, tail):
        return low
    if critical <= special.stdtrit(high, tail):
        return high
    return float(optimize.brentq(lambda df: special.stdtrit(df, tail) - critical, low, high, xtol=1e-9))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: keeps the chance of any false positive at the level, under any dependence.

    Raises ValueError for p-values outside [0, 1].
    """
    # Equal to statsmodels' multipletests(method="holm"), whose import would add 0.8 s to every report.
    p = finite_array("p_values", p_values)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p-values lie between 0 and 1")
    order, count = np.argsort(p, kind="stable"), len(p)
    stepped = np.maximum.accumulate((count - np.arange(count)) * p[order]) if count else p
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]
