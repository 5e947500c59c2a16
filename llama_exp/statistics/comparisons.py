"""Which cells differ, when they answered the same items: paired differences, Holm's correction, ties with the best.

Pairing takes away what makes an item hard for everyone; clustering by group keeps the rest honest. A difference is a
mean of per-item differences, so its interval is the interval of a mean (intervals.py).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
from scipy import optimize, special

from .clusters import Clusters, cluster_sums, finite, robust_variance, satterthwaite
from .intervals import cluster_interval
from .wild import Wild
from .words import plus_minus

Scores = Mapping[str, float]  # item id -> score
Groups = Mapping[str, Hashable] | None  # item id -> its cluster
# Below it t with CR2 and Satterthwaite is nearer to its 5 % than the bootstrap, whose sign patterns are few: a difference
# has no bound that would make it lopsided (docs/statistics.md).
FEW_PAIRED = 12


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second, in the units of the scores. None and a `note` where the data cannot say."""

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


@dataclass(frozen=True, slots=True)
class Tie:
    """The best cell and all that cannot be told from it.

    tied        names, best first, by falling score; `worse`: the rest
    against     (name, best minus that cell, p adjusted by Holm over all pairs of cells)
    detectable  the smallest true difference to the best that 80 % of such evaluations would find, typical cell
    """

    best: str
    tied: tuple[str, ...]
    worse: tuple[str, ...]
    against: tuple[tuple[str, Difference, float], ...]
    detectable: float | None
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"best: {self.best}; tied with it: {', '.join(self.tied[1:]) or 'none'}"


def paired(a: Scores, b: Scores, groups: Groups = None, confidence: float = 0.95, seed: int = 0) -> Difference:
    """a minus b over the same items, with interval and two-sided p-value.

    Raises ValueError when the items differ (how many, and the first ids), or a score is NaN.
    The p-value is below 1 - confidence exactly when the interval leaves out 0; where all groups differ by the same amount there
    is a p-value but no interval.
    """
    ids = shared_ids({"a": a, "b": b})
    return difference_of(paired_clusters(a, b, ids, groups), confidence, seed)


def shared_ids(cells: Mapping[str, Scores]) -> list[str]:
    """The sorted ids that every cell answered; ValueError if they did not all answer the same."""
    names = list(cells)
    if not names:
        raise ValueError("no cells to compare")
    first = set(cells[names[0]])
    for name in names[1:]:
        if first != set(cells[name]):
            raise ValueError(_difference_in_items(names[0], first, name, set(cells[name])))
    return sorted(first)


def _difference_in_items(one: str, first: set, other: str, second: set) -> str:
    def some(ids: set) -> str:
        return ", ".join(map(str, sorted(ids)[:3])) + (", ..." if len(ids) > 3 else "")

    parts = [
        f"{len(ids)} only in {name} ({some(ids)})"
        for name, ids in ((one, first - second), (other, second - first))
        if ids
    ]
    return f"{one} and {other} answered different items: {'; '.join(parts)}; {len(first & second)} are shared"


def groups_of(ids: Sequence[str], groups: Groups) -> list[Hashable] | None:
    """One group per id; ValueError naming the ids that have none."""
    if groups is None:
        return None
    lost = [i for i in ids if i not in groups]
    if lost:
        raise ValueError(f"{len(lost)} of {len(ids)} items have no group (first: {', '.join(map(str, lost[:3]))})")
    return [groups[i] for i in ids]


def paired_clusters(a: Scores, b: Scores, ids: Sequence[str], groups: Groups) -> Clusters:
    first, second = finite("scores of a", [a[i] for i in ids]), finite("scores of b", [b[i] for i in ids])
    return cluster_sums(first - second, np.ones(len(ids)), groups_of(ids, groups))


def difference_of(clusters: Clusters, confidence: float = 0.95, seed: int = 0) -> Difference:
    """The difference whose per-cluster sums are given."""
    count, items = len(clusters.sums), clusters.items
    if count == 0:
        raise ValueError("no items to compare")
    if count > 1 and not np.any(clusters.sums):
        note = "the two give every group the same score"
        return Difference(0.0, 0.0, 0.0, 1.0, 0.0, items, count, "none", note, confidence)
    found = cluster_interval(clusters, confidence, None, seed, FEW_PAIRED)
    p = p_value_of(clusters, confidence, seed)
    return Difference(
        found.estimate, found.low, found.high, p, found.standard_error, items, count, found.method, found.note,
        confidence,
    )  # fmt: skip


def p_value_of(clusters: Clusters, confidence: float = 0.95, seed: int = 0) -> float | None:
    """Two-sided p of no difference; 1 when no group differs, None for a single group.

    Where all groups differ by the same amount there is no spread for a t: then it is the share of sign patterns that are as
    extreme, 2 of 2^G.
    """
    count = len(clusters.sums)
    if count < 2:
        return None
    if not np.any(clusters.sums):
        return 1.0
    error = sqrt(robust_variance(clusters))
    if error <= 1e-12 * abs(clusters.estimate):
        return 2.0 ** (1 - count)
    p = float(2 * special.stdtr(null_df(clusters, confidence, seed), -abs(clusters.estimate) / error))
    return 1 - confidence if abs(p - (1 - confidence)) < 1e-7 else p  # a tie with the critical draw is no rejection


def null_df(clusters: Clusters, confidence: float = 0.95, seed: int = 0) -> float:
    """Degrees of freedom of the t distribution whose tail beyond the test's critical value is 1 - confidence.

    The bootstrap's own p-values stop at 1/2000, too coarse for Holm over hundreds of pairs. This t distribution agrees
    with it on what is significant at 1 - confidence and goes on smoothly from there.
    """
    if len(clusters.sums) < FEW_PAIRED or np.ptp(clusters.weights) <= 1e-9 * clusters.weights.max():
        return max(satterthwaite(clusters.weights), 1.0)
    critical, tail = Wild.of(clusters, None, seed).critical(0.0, confidence), (1 + confidence) / 2
    low, high = 1.0, 1e6
    if critical >= special.stdtrit(low, tail):
        return low
    if critical <= special.stdtrit(high, tail):
        return high
    return float(optimize.brentq(lambda df: special.stdtrit(df, tail) - critical, low, high, xtol=1e-9))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: the chance of any false finding stays at the level, under any dependence.

    Equal to statsmodels' `multipletests(method="holm")`. Raises ValueError outside [0, 1].
    """
    p = finite("p_values", p_values)
    if ((p < 0) | (p > 1)).any():
        raise ValueError("p-values lie between 0 and 1")
    order, count = np.argsort(p, kind="stable"), len(p)
    stepped = np.maximum.accumulate((count - np.arange(count)) * p[order]) if count else p
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def tied_with_best(
    cells: Mapping[str, Scores], groups: Groups = None, higher_is_better: bool = True, confidence: float = 0.95,
    seed: int = 0,
) -> Tie:  # fmt: skip
    """Mark the best cell and everything that it cannot be told from.

    Holm runs over *all* pairs of cells, not only over those with the best: which cell is best was itself read off the
    same noisy scores, and correcting for the best's own pairs alone lets too many false winners through
    (docs/statistics.md gives the rates).
    """
    ids = shared_ids(cells)
    labels, weights = groups_of(ids, groups), np.ones(len(ids))
    sums = {name: cluster_sums([cell[i] for i in ids], weights, labels) for name, cell in cells.items()}
    return ties(sums, higher_is_better, confidence, seed)


def ties(cells: Mapping[str, Clusters], higher_is_better: bool = True, confidence: float = 0.95, seed: int = 0) -> Tie:
    """`tied_with_best` from cluster sums, which must list the same clusters in the same order."""
    turn = -1.0 if higher_is_better else 1.0
    ranked = sorted(cells, key=lambda name: (turn * cells[name].estimate, name))
    best, level = ranked[0], 1 - confidence
    if len(ranked) == 1:
        return Tie(best, (best,), (), (), None, confidence)
    pairs = list(combinations(ranked, 2))
    p_values = [p_value_of(_minus(cells[one], cells[other]), confidence, seed) for one, other in pairs]
    adjusted = dict(zip(pairs, holm([1.0 if p is None else p for p in p_values]), strict=True))
    against = tuple(
        (name, difference_of(_minus(cells[best], cells[name]), confidence, seed), adjusted[best, name])
        for name in ranked[1:]
    )
    errors = [d.standard_error for _, d, _ in against if d.standard_error]
    df = max(satterthwaite(cells[best].weights), 1.0) if errors else 1.0
    return Tie(
        best=best,
        tied=(best, *(name for name, _, p in against if p >= level)),
        worse=tuple(name for name, _, p in against if p < level),
        against=against,
        detectable=_detectable(float(np.median(errors)), df, 0.8, level / len(pairs)) if errors else None,
        confidence=confidence,
    )


def _minus(one: Clusters, other: Clusters) -> Clusters:
    return Clusters(one.sums - other.sums, one.weights, one.items)


def smallest_detectable(
    a: Scores, b: Scores, groups: Groups = None, power: float = 0.8, alpha: float = 0.05, comparisons: int = 1,
    seed: int = 0,
) -> float | None:  # fmt: skip
    """The smallest true difference that this evaluation would have called significant with chance `power`.

    (t at alpha / comparisons + t at power) standard errors of the paired difference (Bloom 1995, "Minimum detectable
    effects"). It uses the spread that was seen, never the difference that was seen. None with fewer than two groups.
    """
    clusters = paired_clusters(a, b, shared_ids({"a": a, "b": b}), groups)
    if len(clusters.sums) < 2:
        return None
    error = sqrt(robust_variance(clusters))
    return _detectable(error, null_df(clusters, seed=seed), power, alpha / comparisons) if error > 0 else None


def _detectable(error: float, df: float, power: float, alpha: float) -> float:
    return float((special.stdtrit(df, 1 - alpha / 2) + special.stdtrit(df, power)) * error)
