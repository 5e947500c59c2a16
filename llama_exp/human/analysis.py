"""What the ratings say about the conditions: win rates, means on scales, and how they go with automatic metrics.

    Trial + Given -> Judged -> Preference (a pair of conditions), Scale (a condition), Relation (a metric)

An item counts once, as the mean over its raters, and items of one group are one cluster: the main interval is about
other items judged by these raters. Where three or more rated, a second one lets the raters vary too.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import sqrt

from scipy.stats import kendalltau

from llama_exp.human.store import Given, Store
from llama_exp.human.study import Study, Trial, same
from llama_exp.records import Rating
from llama_exp.statistics import Interval
from llama_exp.statistics.clusters import cluster_sums, robust_variance
from llama_exp.statistics.comparisons import Difference, difference_of, holm, paired
from llama_exp.statistics.intervals import interval, statistic_interval, t_interval

SCALE = (1.0, 5.0)
Row = tuple[float, float, str, int]  # value, weight, group, rater
Metrics = dict[str, dict[str, dict[str, float]]]  # name -> condition -> item -> value


@dataclass(frozen=True, slots=True)
class Judged:
    """A complete rating beside what was on the page."""

    rater: int
    place: int
    trial: Trial
    group: str
    given: Given

    @property
    def rating(self) -> Rating:
        return self.given.rating

    @property
    def preferred(self) -> str:
        """The condition that was called better; "" for a tie and on scales."""
        return {"left": self.trial.left, "right": self.trial.right}.get(self.rating.verdict, "")

    def percent(self, first: str) -> float:
        """100 where `first` won, 50 for a tie, 0 where the other won."""
        return 50.0 if not self.preferred else 100.0 * (self.preferred == first)


@dataclass(frozen=True, slots=True)
class Preference:
    """How often `first` was preferred to `second`, a tie counting half, in percent.

    same       items on which both said the same: ties that nobody was asked about, part of `rate`
    rate       other items, these raters;  `any_raters`: other items and other raters (None below three raters)
    p_value    of no preference (50), Holm-adjusted over all pairs of the study
    """

    first: str
    second: str
    wins: int
    ties: int
    losses: int
    same: int
    rate: Interval
    any_raters: tuple[float, float] | None
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Scale:
    """The mean of one condition on one scale, 1 to 5."""

    name: str
    condition: str
    ratings: int
    mean: Interval


@dataclass(frozen=True, slots=True)
class Relation:
    """Kendall's tau-b between what people said and a metric, over `items` answers or pairs of answers."""

    metric: str
    judgement: str
    tau: Interval


def collect(study: Study, store: Store) -> list[Judged]:
    """Every complete rating, in the order of raters and places."""
    return [
        Judged(number, place, queue[place - 1], study.item(queue[place - 1]).group, given)
        for number, queue in enumerate(study.queues, 1)
        for place, given in store.ratings(number).items()
        if given.done and place <= len(queue)
    ]


def kind(judged: Sequence[Judged], wanted: str) -> list[Judged]:
    return [one for one in judged if one.trial.kind == wanted]


def preferences(study: Study, judged: Sequence[Judged]) -> list[Preference]:
    """A Preference for every pair of conditions that was judged at all; p-values adjusted over these."""
    found = [preference(study, kind(judged, "judged"), pair) for pair in study.pairs]
    found = [one for one in found if one]
    known = [one for one in found if one[1] is not None]
    adjusted = iter(holm([p for _, p in known]))
    return [Preference(*fields, next(adjusted) if p is not None else None) for fields, p in found]


def preference(study: Study, judged: Sequence[Judged], pair: tuple[str, str]) -> tuple[tuple, float | None] | None:
    """The fields of a Preference, and its unadjusted p-value."""
    about = [one for one in judged if set(one.trial.pair) == set(pair)]
    if not about:
        return None
    by_item: dict[str, list[Judged]] = defaultdict(list)
    for one in about:
        by_item[one.trial.item].append(one)
    equal = [item for item in study.items.values() if same(item, *pair)]
    # A study in progress: the judged items stand for those to come, or the ties that need no judge would weigh too much.
    weight = (len(study.items) - len(equal)) / len(by_item)
    raters = sorted({one.rater for one in about})
    rows = [
        (one.percent(pair[0]), weight / len(ones), one.group, one.rater) for ones in by_item.values() for one in ones
    ]
    rows += [(50.0, 1 / len(raters), item.group, rater) for item in equal for rater in raters]
    means = [sum(one.percent(pair[0]) for one in ones) / len(ones) for ones in by_item.values()] + [50.0] * len(equal)
    groups = [study.items[i].group for i in by_item] + [item.group for item in equal]
    weights = [weight] * len(by_item) + [1.0] * len(equal)
    rate = interval(means, groups, weights, bounds=(0.0, 100.0))
    gain = cluster_sums([w * (m - 50) for m, w in zip(means, weights, strict=True)], weights, groups)
    values = [one.percent(pair[0]) for one in about]
    counts = values.count(100.0), values.count(50.0), values.count(0.0)
    return (*pair, *counts, len(equal), rate, two_way(rows, (0.0, 100.0))), difference_of(gain).p_value


def two_way(rows: Sequence[Row], bounds: tuple[float, float]) -> tuple[float, float] | None:
    """The 95 % interval where items and raters both are samples; None below three raters or two groups.

    The variances clustered by group and by rater, less that by both (Cameron, Gelbach & Miller 2011), never below the
    larger of the two; t with one degree of freedom fewer than there are raters or groups, whichever are fewer.
    """
    top, bottom = [value * weight for value, weight, *_ in rows], [row[1] for row in rows]
    ways = [[row[2] for row in rows], [row[3] for row in rows], [row[2:] for row in rows]]
    fewest = min(len(set(ways[0])) - 1, len(set(ways[1])) - 1)
    if fewest < 1 or len(set(ways[1])) < 3:
        return None
    by_group, by_rater, by_both = (cluster_sums(top, bottom, way) for way in ways)
    apart = [robust_variance(clusters) for clusters in (by_group, by_rater, by_both)]
    variance = max(apart[0] + apart[1] - apart[2], apart[0], apart[1])
    if variance <= 0 or not bounds[0] < by_group.estimate < bounds[1]:
        return None
    return t_interval(by_group.estimate, sqrt(variance), fewest, bounds=bounds)


def item_means(judged: Sequence[Judged], scale: str, condition: str) -> dict[str, float]:
    """{item: mean over its raters} of one condition on one scale."""
    by_item: dict[str, list[int]] = defaultdict(list)
    for one in judged:
        if one.trial.left == condition:
            by_item[one.trial.item].append(one.rating.scores[scale])
    return {item: sum(scores) / len(scores) for item, scores in by_item.items()}


def scales(study: Study, judged: Sequence[Judged]) -> list[Scale]:
    judged, found = kind(judged, "judged"), []
    for name in study.settings["scales"]:
        for condition in study.conditions:
            means = item_means(judged, name, condition)
            ratings = sum(one.trial.left == condition for one in judged)
            if means:
                groups = [study.items[i].group for i in means]
                found.append(Scale(name, condition, ratings, interval(list(means.values()), groups, bounds=SCALE)))
    return found


def differences(study: Study, judged: Sequence[Judged]) -> list[tuple[str, str, str, Difference]]:
    """(scale, first, second, difference of their means over the items that were rated for both); p-values adjusted over all."""
    judged, found = kind(judged, "judged"), []
    for name in study.settings["scales"]:
        for first, second in study.pairs:
            one, other = (item_means(judged, name, condition) for condition in (first, second))
            shared = sorted(one.keys() & other.keys())
            if shared:
                groups = {i: study.items[i].group for i in shared}
                minus = paired({i: one[i] for i in shared}, {i: other[i] for i in shared}, groups)
                found.append((name, first, second, minus))
    adjusted = iter(holm([row[3].p_value for row in found if row[3].p_value is not None]))
    return [row if row[3].p_value is None else (*row[:3], replace(row[3], p_value=next(adjusted))) for row in found]


def relations(study: Study, judged: Sequence[Judged], metrics: Metrics) -> list[Relation]:
    """How each metric goes with what people said. Pairs: differences of both; scales: both as they are."""
    judged, found = kind(judged, "judged"), []
    for metric, values in metrics.items():
        for judgement, points in human_points(study, judged).items():
            rows, groups = [], []
            for (item, *names), said in points.items():
                if all(item in values.get(name, {}) for name in names):
                    measured = [values[name][item] for name in names]
                    rows.append((measured[0] - (measured[1] if len(measured) > 1 else 0.0), said))
                    groups.append(study.items[item].group)
            if rows:
                found.append(Relation(metric, judgement, kendall(rows, groups)))
    return found


def human_points(study: Study, judged: Sequence[Judged]) -> dict[str, dict[tuple, float]]:
    """{"preference" or a scale: {(item, condition[, condition]): what the raters said on average}}."""
    if study.on_scales:
        return {
            scale: {(i, c): mean for c in study.conditions for i, mean in item_means(judged, scale, c).items()}
            for scale in study.settings["scales"]
        }
    points: dict[tuple, list[float]] = defaultdict(list)
    for first, second in combinations(study.conditions, 2):
        for one in judged:
            if set(one.trial.pair) == {first, second}:
                points[one.trial.item, first, second].append(one.percent(first))
    return {"preference": {key: sum(said) / len(said) for key, said in points.items()}}


def kendall(rows: Sequence[tuple[float, float]], groups: Sequence[str]) -> Interval:
    """Tau-b with its interval, by leaving out one group at a time."""

    def tau(rows: Sequence[tuple[float, float]]) -> float:
        return float(kendalltau(*zip(*rows, strict=True)).statistic) if len(rows) > 1 else float("nan")

    return within(statistic_interval(tau, rows, groups), -1.0, 1.0)


def within(found: Interval, low: float, high: float) -> Interval:
    """An interval cut to what the statistic can be."""
    if found.low is None:
        return found
    return replace(found, low=max(found.low, low), high=min(found.high, high))
