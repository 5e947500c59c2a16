"""A number and what it is worth: 95 % intervals for means, ratios and any other metric, clustered by group.

    71.2 ± 1.6      10,570 questions from 48 articles

The questions of one article share its difficulty, so the articles, not the questions, are the sample. Which method
is used was chosen by simulation (docs/statistics.md):

    every group weighs the same, no bounds    the ordinary t interval over the group means
    fewer than 8 groups                       t with CR2 variance and Satterthwaite's degrees of freedom
    otherwise                                 restricted wild cluster bootstrap, on the logit scale between bounds
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from .clusters import Clusters, cluster_index, cluster_sums, finite, robust_variance, satterthwaite
from .wild import Wild
from .words import plus_minus

FEW = 8  # below it even all sign patterns are too few for a 5 % tail (7 groups: 64 patterns)
BLOCKS = 400  # a statistic is recomputed at most this often


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval, in the units of the scores.

    `low`, `high` and `standard_error` are None where the data cannot give them, and `note` says in words why.
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


def interval(
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
    bounds      the scale's ends, (0, 1) or (0, 100), where there are any: keeps the interval inside them and mends
                coverage near them
    Raises ValueError for NaN (saying how many), for scores outside `bounds` and for lengths that differ.
    """
    scores = finite("values", values)
    share = np.ones(len(scores)) if weights is None else finite("weights", weights)
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
    """Confidence interval for sum(numerators) / sum(denominators), and for a rising function of it.

    Perplexity: `ratio_interval(nll_sums, token_counts, groups, transform=math.exp)`; its interval is not symmetric.
    """
    plain = cluster_interval(cluster_sums(numerators, denominators, groups), confidence, None, seed)
    if transform is None or plain.estimate is None:
        return plain
    estimate, step = plain.estimate, 1e-5 * max(abs(plain.estimate), 1e-3)
    slope = (transform(estimate + step) - transform(estimate - step)) / (2 * step)
    low, high, error = (
        (None, None, None)
        if plain.low is None
        else (transform(plain.low), transform(plain.high), abs(slope) * plain.standard_error)
    )
    name = getattr(transform, "__name__", "function")
    return Interval(
        transform(estimate), low, high, error, plain.clusters, plain.items, f"{name} of {plain.method}", plain.note,
        confidence,
    )  # fmt: skip


def statistic_interval(
    statistic: Callable[[list], float],
    items: Sequence,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Confidence interval for a metric of all items together, such as macro-F1.

    Leaves out one group at a time (delete-a-group jackknife); how far the metric moves is that group's residual, and
    from there on everything is as for a mean. For a metric that is a mean, the result equals `interval`'s exactly.
    With more than 400 groups, groups are first put together at random (`seed`) into 400 blocks.
    `statistic` gets a list of items and is called at most 401 times.
    """
    items = list(items)
    if not items:
        return _unknown(None, 0, 0, "there are no items to score", confidence)
    estimate = float(statistic(items))
    if not math.isfinite(estimate):
        return _unknown(None, 0, len(items), f"the metric is undefined on these items ({estimate})", confidence)
    index, count = cluster_index(groups, len(items))
    if count > BLOCKS:
        blocks = np.random.default_rng(seed).permutation(count) % BLOCKS
        index, used = blocks[index], BLOCKS
    else:
        used = count
    if used == 1:
        return _unknown(estimate, 1, len(items), _one_group(len(items)), confidence)
    sizes = np.bincount(index, minlength=used).astype(np.float64)
    without = np.array(
        [statistic([item for item, at in zip(items, index, strict=True) if at != g]) for g in range(used)]
    )
    lost = int((~np.isfinite(without)).sum())
    if lost:
        note = f"the metric is undefined when one of {lost} groups is left out, so its spread is unknown"
        return _unknown(estimate, count, len(items), note, confidence)
    moves = (sizes.sum() - sizes) * (estimate - without)
    moves -= moves.sum() * sizes / sizes.sum()  # centre: their sum is the jackknife's estimate of bias
    found = cluster_interval(Clusters(sizes * estimate + moves, sizes, len(items)), confidence, bounds, seed)
    return Interval(
        estimate, found.low, found.high, found.standard_error, count, len(items),
        f"delete-a-group jackknife, {found.method}", found.note, confidence,
    )  # fmt: skip


def cluster_interval(
    clusters: Clusters, confidence: float = 0.95, bounds: tuple[float, float] | None = None, seed: int = 0,
    few: int = FEW,
) -> Interval:  # fmt: skip
    """The interval from cluster sums: chooses the method as the head of this file says; t below `few` groups."""
    count, items = len(clusters.sums), clusters.items
    if count == 0:
        return _unknown(None, 0, items, "there are no items to score" if not items else "every weight is 0", confidence)
    estimate = clusters.estimate
    if count == 1:
        return _unknown(estimate, 1, items, _one_group(items), confidence)
    variance = robust_variance(clusters)
    if variance <= (1e-12 * max(abs(estimate), 1e-12)) ** 2:
        return _no_spread(clusters, confidence, bounds)
    error, method, ends = math.sqrt(variance), "", None
    equal = np.ptp(clusters.weights) <= 1e-9 * clusters.weights.max()
    if count >= few and not (equal and bounds is None):
        method = "restricted wild cluster bootstrap" + (" on the logit scale" if bounds else "")
        ends = Wild.of(clusters, bounds, seed).interval(confidence)
    if ends is None:
        method = "t over groups of equal weight" if equal else "cluster-robust t (CR2, Satterthwaite)"
        ends = t_interval(estimate, error, max(satterthwaite(clusters.weights), 1.0), confidence, bounds)
    note = "fewer than 8 groups: the interval is wide because little is known" if count < FEW else ""
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
    """All groups score the same. At a bound (0 or 100 %) the rule of three still speaks; elsewhere nothing does.

    Clopper & Pearson (1934) with the groups as the sample: 0 failures in G groups leave up to 1 - 0.025^(1/G).
    """
    count, estimate = len(clusters.sums), clusters.estimate
    why = "every group has the same score, so its spread says nothing"
    if bounds is None or not (np.isclose(estimate, bounds[0]) or np.isclose(estimate, bounds[1])):
        return _unknown(estimate, count, clusters.items, why, confidence)
    room = (bounds[1] - bounds[0]) * (1 - ((1 - confidence) / 2) ** (1 / count))
    ends = (bounds[0], bounds[0] + room) if np.isclose(estimate, bounds[0]) else (bounds[1] - room, bounds[1])
    note = f"{why}; the interval is what {count} equal groups leave open (Clopper-Pearson)"
    return Interval(estimate, *ends, None, count, clusters.items, "Clopper-Pearson over groups", note, confidence)


def _one_group(items: int) -> str:
    what = "the one item is" if items == 1 else f"all {items:,} items are"
    return f"{what} of one group, so nothing shows how another group would differ"


def _unknown(estimate: float | None, clusters: int, items: int, note: str, confidence: float) -> Interval:
    return Interval(estimate, None, None, None, clusters, items, "none", note, confidence)
