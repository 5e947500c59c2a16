"""95 % confidence intervals for means, ratios and any other metric, clustered by group.

    71.2 ± 1.6      10,570 questions from 48 articles

The questions of one article share its difficulty, so the articles are the sample, not the questions. The method was
chosen by simulation (docs/statistics.md):

    every group weighs the same, no bounds    the ordinary t interval over the group means
    fewer than 8 groups                       t with CR2 variance and Satterthwaite's degrees of freedom
    otherwise                                 restricted wild cluster bootstrap, on the logit scale between bounds
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from llama_exp.formatting import plus_minus
from llama_exp.statistics import messages
from llama_exp.statistics.clusters import (
    Clusters,
    cluster_index,
    cluster_sums,
    finite_array,
    robust_variance,
    satterthwaite_df,
)
from llama_exp.statistics.wild_bootstrap import WildBootstrap

FEW = 8  # with fewer clusters even all sign patterns are too few for a 5 % tail (7 clusters: 64 patterns)
BLOCKS = 400  # at most this many groups are left out in turn


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval, in the units of the scores.

    `low`, `high` and `standard_error` are None where the data cannot give them, and `note` says why.
    """

    estimate: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    clusters: int
    items: int
    method: str
    note: str = ""
    confidence: float = 0.95

    def __str__(self) -> str:
        return plus_minus(self.estimate, self.low, self.high)


def mean_interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
) -> Interval:
    """Confidence interval for the (weighted) mean of per-item scores.

    values      one finite score per item
    groups      the cluster of each item (`Example.group`); None: every item is its own
    bounds      the ends of the scale, (0, 1) or (0, 100), where it has any: keeps the interval inside them and corrects
                its coverage near them
    Raises ValueError for NaN (counting them), for scores outside `bounds` and for lengths that differ.
    """
    scores = finite_array("values", values)
    share = np.ones(len(scores)) if weights is None else finite_array("weights", weights)
    if len(share) != len(scores):
        raise ValueError(f"as many weights as values are needed: got {len(share)} for {len(scores)}")
    if bounds is not None and ((scores < bounds[0] - 1e-9) | (scores > bounds[1] + 1e-9)).any():
        raise ValueError(f"scores from {scores.min():g} to {scores.max():g} are outside the bounds {bounds}")
    return cluster_interval(cluster_sums(scores * share, share, groups), confidence, bounds, seed)


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    transform: Callable[[float], float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Confidence interval for sum(numerators) / sum(denominators), or for an increasing function of it.

    Perplexity: `ratio_interval(nll_sums, token_counts, groups, transform=math.exp)`; its interval is not symmetric.
    """
    plain = cluster_interval(cluster_sums(numerators, denominators, groups), confidence, None, seed)
    if transform is None or plain.estimate is None:
        return plain
    method = f"{getattr(transform, '__name__', 'function')} of {plain.method}"
    estimate, step = plain.estimate, 1e-5 * max(abs(plain.estimate), 1e-3)
    if plain.low is None:
        return replace(plain, estimate=transform(estimate), method=method)
    slope = (transform(estimate + step) - transform(estimate - step)) / (2 * step)
    return replace(
        plain,
        estimate=transform(estimate),
        low=transform(plain.low),
        high=transform(plain.high),
        standard_error=abs(slope) * plain.standard_error,
        method=method,
    )


def statistic_interval(
    statistic: Callable[[list], float],
    items: Sequence,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Confidence interval for a metric of all items together, such as macro-F1.

    Leaves out one group at a time (delete-a-group jackknife): how far the metric moves is that group's residual, and
    the rest is as for a mean. For a metric that is a mean, the result equals `mean_interval`'s exactly.
    With more than 400 groups, groups are first merged at random (`seed`) into 400 blocks.
    `statistic` gets a list of items and is called at most 401 times.
    """
    items = list(items)
    if not items:
        return _without_interval(None, 0, 0, messages.NO_ITEMS, confidence)
    estimate = float(statistic(items))
    if not math.isfinite(estimate):
        note = messages.UNDEFINED.format(value=estimate)
        return _without_interval(None, 0, len(items), note, confidence)
    index, count = cluster_index(groups, len(items))
    blocks = min(count, BLOCKS)
    if count > BLOCKS:
        index = (np.random.default_rng(seed).permutation(count) % BLOCKS)[index]
    if blocks == 1:
        return _without_interval(estimate, 1, len(items), messages.one_group(len(items)), confidence)
    sizes = np.bincount(index, minlength=blocks).astype(np.float64)
    without = np.array(
        [statistic([item for item, at in zip(items, index, strict=True) if at != block]) for block in range(blocks)]
    )
    undefined = int((~np.isfinite(without)).sum())
    if undefined:
        note = messages.UNDEFINED_WITHOUT.format(groups=undefined)
        return _without_interval(estimate, count, len(items), note, confidence)
    moves = (sizes.sum() - sizes) * (estimate - without)
    moves -= moves.sum() * sizes / sizes.sum()  # centre: their sum is the jackknife's estimate of bias
    found = cluster_interval(Clusters(sizes * estimate + moves, sizes, len(items)), confidence, bounds, seed)
    return replace(found, estimate=estimate, clusters=count, method=f"delete-a-group jackknife, {found.method}")


def cluster_interval(
    clusters: Clusters,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
    few: int = FEW,
) -> Interval:
    """The interval from sums by cluster, by the method that the module's docstring lists; t below `few` clusters."""
    count, items = len(clusters.sums), clusters.items
    if count == 0:
        return _without_interval(None, 0, items, messages.NO_WEIGHT if items else messages.NO_ITEMS, confidence)
    estimate = clusters.estimate
    if count == 1:
        return _without_interval(estimate, 1, items, messages.one_group(items), confidence)
    variance = robust_variance(clusters)
    if variance <= (1e-12 * max(abs(estimate), 1e-12)) ** 2:
        return _no_spread(clusters, confidence, bounds)
    error, method, ends = math.sqrt(variance), "", None
    equal = clusters.equal_weights
    if count >= few and not (equal and bounds is None):
        method = "restricted wild cluster bootstrap" + (" on the logit scale" if bounds else "")
        ends = WildBootstrap.from_clusters(clusters, bounds, seed).interval(confidence)
    if ends is None:
        method = "t over groups of equal weight" if equal else "cluster-robust t (CR2, Satterthwaite)"
        ends = t_interval(estimate, error, satterthwaite_df(clusters.weights), confidence, bounds)
    note = messages.FEW_GROUPS.format(few=FEW) if count < FEW else ""
    return Interval(estimate, *ends, error, count, items, method, note, confidence)


def t_interval(
    estimate: float, error: float, df: float, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> tuple[float, float]:
    """estimate +- t x error; between bounds on the logit scale, by the delta method."""
    reach = special.stdtrit(df, (1 + confidence) / 2)
    if bounds is None:
        return float(estimate - reach * error), float(estimate + reach * error)
    low, width = bounds[0], bounds[1] - bounds[0]
    part = float(np.clip((estimate - low) / width, 1e-9, 1 - 1e-9))
    half = reach * error / (width * part * (1 - part))
    down, up = special.expit(special.logit(part) - half), special.expit(special.logit(part) + half)
    return float(low + width * down), float(low + width * up)


def _no_spread(clusters: Clusters, confidence: float, bounds: tuple[float, float] | None) -> Interval:
    """All groups have the same score: at a bound (0 or 100 %) the rule of three gives an interval, elsewhere nothing.

    Clopper & Pearson (1934) with the groups as the sample: 0 failures in G groups leave up to 1 - 0.025^(1/G).
    """
    count, estimate = len(clusters.sums), clusters.estimate
    if bounds is None or not (np.isclose(estimate, bounds[0]) or np.isclose(estimate, bounds[1])):
        return _without_interval(estimate, count, clusters.items, messages.NO_SPREAD, confidence)
    room = (bounds[1] - bounds[0]) * (1 - ((1 - confidence) / 2) ** (1 / count))
    ends = (bounds[0], bounds[0] + room) if np.isclose(estimate, bounds[0]) else (bounds[1] - room, bounds[1])
    note = messages.CLOPPER_PEARSON.format(groups=count)
    return Interval(estimate, *ends, None, count, clusters.items, "Clopper-Pearson over groups", note, confidence)


def _without_interval(estimate: float | None, clusters: int, items: int, note: str, confidence: float) -> Interval:
    return Interval(estimate, None, None, None, clusters, items, "none", note, confidence)
