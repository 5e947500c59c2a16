"""95 % confidence intervals for means, ratios and any other metric, clustered by group.

    71.2 ± 1.6      10,570 questions from 48 articles

The questions of one article share its difficulty, so the articles are the sample, not the questions. The method was
chosen by simulation (docs/statistics.md):

    a scale with one end (loss)         t on the log scale, with three quarters of the degrees of freedom
    near a bound                        groups as clusters of trials (clustered_binomial.py)
    between bounds, otherwise           as without, on the logit scale
    every group weighs the same         the ordinary t interval over the group means
    fewer than 8 groups                 t with CR2 variance and Satterthwaite's degrees of freedom
    otherwise                           restricted wild cluster bootstrap

`bounds` are the ends of the scale, (0, 100) or (0, inf): no interval leaves them.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from llama_exp.formatting import plus_minus
from llama_exp.statistics import messages
from llama_exp.statistics.clustered_binomial import clustered_binomial, losses_are_concentrated
from llama_exp.statistics.clusters import (
    Clusters,
    cluster_index,
    cluster_sums,
    finite_array,
    robust_variance,
    satterthwaite_df,
)
from llama_exp.statistics.wild_bootstrap import WildBootstrap

Bounds = tuple[float, float] | None  # the ends of the scale; one of them may be infinite
FEW = 8  # with fewer clusters even all sign patterns are too few for a 5 % tail (7 clusters: 64 patterns)
TRIALS = "clustered binomial, averaged over correlations"
CAUTIOUS = 12  # with fewer, one bad group decides: the whole of its probability counts
HEAVY_TAIL = 0.75  # of the degrees of freedom: losses have long tails, which show late in few groups
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
    bounds: Bounds = None,
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
    bounds: Bounds = None,
) -> Interval:
    """Confidence interval for sum(numerators) / sum(denominators), or for an increasing function of it.

    Perplexity: `ratio_interval(nll_sums, token_counts, groups, transform=math.exp, bounds=(0, math.inf))`.
    `bounds` are those of the ratio, before the transform.
    """
    plain = cluster_interval(cluster_sums(numerators, denominators, groups), confidence, bounds, seed)
    if transform is None or plain.estimate is None:
        return plain
    method = f"{getattr(transform, '__name__', 'function')} of {plain.method}"
    estimate, step = plain.estimate, 1e-5 * max(abs(plain.estimate), 1e-3)
    if plain.low is None or plain.high is None:
        return replace(plain, estimate=transform(estimate), method=method)
    slope = (transform(estimate + step) - transform(estimate - step)) / (2 * step)
    return replace(
        plain,
        estimate=transform(estimate),
        low=transform(plain.low),
        high=transform(plain.high),
        standard_error=None if plain.standard_error is None else abs(slope) * plain.standard_error,
        method=method,
    )


def statistic_interval(
    statistic: Callable[[list], float],
    items: Sequence,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    bounds: Bounds = None,
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
    pseudo = Clusters(sizes * estimate + moves, sizes, len(items))
    found = cluster_interval(pseudo, confidence, bounds, seed, trials=False)
    return replace(found, estimate=estimate, clusters=count, method=f"delete-a-group jackknife, {found.method}")


def cluster_interval(
    clusters: Clusters,
    confidence: float = 0.95,
    bounds: Bounds = None,
    seed: int = 0,
    few: int = FEW,
    trials: bool = True,
) -> Interval:
    """The interval from sums by cluster, by the method that the module's docstring lists; t below `few` clusters.

    trials  the sums are of per-item scores, each between the bounds
    """
    count, items, bounds = len(clusters.sums), clusters.items, known_ends(bounds)
    if count == 0:
        return _without_interval(None, 0, items, messages.NO_WEIGHT if items else messages.NO_ITEMS, confidence)
    estimate = clusters.estimate
    if count == 1:
        return _without_interval(estimate, 1, items, messages.one_group(items), confidence)
    variance = robust_variance(clusters)
    if variance <= (1e-12 * max(abs(estimate), 1e-12)) ** 2:
        return _no_spread(clusters, confidence, bounds, trials)
    error, df = math.sqrt(variance), satterthwaite_df(clusters.weights)
    method, ends = _method_and_ends(clusters, error, df, confidence, bounds, seed, few, trials)
    return Interval(estimate, *ends, error, count, items, method, _few_groups(count, df), confidence)


def _method_and_ends(
    clusters: Clusters, error: float, df: float, confidence: float, bounds: Bounds, seed: int, few: int, trials: bool
) -> tuple[str, tuple[float, float]]:
    count, estimate, ends = len(clusters.sums), clusters.estimate, two_ends(bounds)
    if bounds and not ends:
        reach = max(HEAVY_TAIL * df, 1.0)
        return "cluster-robust t on the log scale (CR2)", t_interval(estimate, error, reach, confidence, bounds)
    if ends and trials and losses_are_concentrated(clusters, ends):
        found = clustered_binomial(clusters, confidence, ends, cautious=count < CAUTIOUS)
        return TRIALS, found
    if count >= few and not (clusters.equal_weights and bounds is None):
        method = "restricted wild cluster bootstrap" + (" on the logit scale" if bounds else "")
        wild = WildBootstrap.from_clusters(clusters, ends, seed).interval(confidence)
        if wild:
            return method, wild
    method = "t over groups of equal weight" if clusters.equal_weights else "cluster-robust t (CR2, Satterthwaite)"
    return method, t_interval(estimate, error, df, confidence, bounds)


def _few_groups(count: int, df: float) -> str:
    """Why an interval is wide: few groups, or one that outweighs the others."""
    if count < FEW:
        return messages.FEW_GROUPS.format(few=FEW)
    return messages.UNEVEN_GROUPS.format(groups=count, worth=round(df + 1)) if df + 1 < FEW else ""


def known_ends(bounds: Bounds) -> Bounds:
    """The bounds, where at least one is finite."""
    return bounds if bounds and any(map(math.isfinite, bounds)) else None


def two_ends(bounds: Bounds) -> Bounds:
    """The bounds, where both are finite."""
    return bounds if bounds and all(map(math.isfinite, bounds)) else None


def clip_to_bounds(low: float, high: float, bounds: Bounds) -> tuple[float, float]:
    """An interval without what lies off the scale."""
    if bounds is None:
        return low, high
    return min(max(low, bounds[0]), bounds[1]), max(min(high, bounds[1]), bounds[0])


def t_interval(
    estimate: float, error: float, df: float, confidence: float = 0.95, bounds: Bounds = None
) -> tuple[float, float]:
    """estimate +- t x error; between bounds on the logit scale, from one end on the log scale, by the delta method."""
    reach = float(special.stdtrit(df, (1 + confidence) / 2)) * error
    if (bounds := known_ends(bounds)) is None:
        return float(estimate - reach), float(estimate + reach)
    if two_ends(bounds) is None:
        return _from_one_end(estimate, reach, bounds)
    low, width = bounds[0], bounds[1] - bounds[0]
    part = float(np.clip((estimate - low) / width, 1e-9, 1 - 1e-9))
    half = reach / (width * part * (1 - part))
    down, up = special.expit(special.logit(part) - half), special.expit(special.logit(part) + half)
    return float(low + width * down), float(low + width * up)


def _from_one_end(estimate: float, half: float, bounds: tuple[float, float]) -> tuple[float, float]:
    rising = math.isfinite(bounds[0])
    away = estimate - bounds[0] if rising else bounds[1] - estimate
    if away <= 0:
        return clip_to_bounds(estimate - half, estimate + half, bounds)
    near, far = away * math.exp(-half / away), away * math.exp(min(half / away, 700.0))
    return (bounds[0] + near, bounds[0] + far) if rising else (bounds[1] - far, bounds[1] - near)


def _no_spread(clusters: Clusters, confidence: float, bounds: Bounds, trials: bool) -> Interval:
    """Of groups that all have the same score: as trials they leave an interval open, else their spread says nothing."""
    count, estimate, ends = len(clusters.sums), clusters.estimate, two_ends(bounds)
    at_bound = ends is not None and bool(np.isclose(estimate, ends).any())
    if ends is None or not (trials or at_bound):
        return _without_interval(estimate, count, clusters.items, messages.NO_SPREAD, confidence)
    found = clustered_binomial(clusters, confidence, ends, cautious=True)
    note = messages.ALIKE.format(groups=count)
    return Interval(estimate, *found, None, count, clusters.items, TRIALS, note, confidence)


def _without_interval(estimate: float | None, clusters: int, items: int, note: str, confidence: float) -> Interval:
    return Interval(estimate, None, None, None, clusters, items, "none", note, confidence)
