"""What the ratings say about the conditions: win rates, means on scales, and their correlation with automatic metrics.

    Trial + StoredRating -> Judgement -> WinRate (a pair of conditions), ScaleMean (a condition), MetricCorrelation

An item counts once, as the mean over its raters, and items of one group are one cluster: the main interval is about
other items judged by these raters. Where three or more rated, a second one lets the raters vary too.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from typing import NamedTuple

from scipy.stats import kendalltau

from llama_exp.human.store import RatingStore, StoredRating
from llama_exp.human.study import Study, Trial, identical_replies
from llama_exp.records import Rating
from llama_exp.statistics.clusters import cluster_sums, robust_variance
from llama_exp.statistics.comparisons import Difference, cluster_difference, holm, paired_difference
from llama_exp.statistics.intervals import Interval, mean_interval, statistic_interval, t_interval

PERCENT = (0.0, 100.0)
SCALE = (1.0, 5.0)
MetricScores = Mapping[str, Mapping[str, Mapping[str, float]]]  # score -> condition -> item -> value


@dataclass(frozen=True, slots=True)
class Judgement:
    """A complete rating, beside what was on the page."""

    rater: int
    page: int
    trial: Trial
    group: str
    stored: StoredRating

    @property
    def rating(self) -> Rating:
        return self.stored.rating

    @property
    def preferred(self) -> str:
        """The condition that was called better; "" for a tie and on scales."""
        return {"left": self.trial.left, "right": self.trial.right}.get(self.rating.verdict, "")

    def percent(self, condition: str) -> float:
        """100 where `condition` won, 50 for a tie, 0 where the other won."""
        return 50.0 if not self.preferred else 100.0 * (self.preferred == condition)


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often `first` was preferred to `second`, a tie counting half, in percent.

    same       items with identical replies: ties that nobody was asked about, part of `rate`
    rate       with the interval for other items and these raters
    any_raters the interval for other items and other raters; None below three raters
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

    def reversed(self) -> "WinRate":
        """The same with `second` first."""
        ends = {} if self.rate.low is None else {"low": 100 - self.rate.high, "high": 100 - self.rate.low}
        return WinRate(
            self.second,
            self.first,
            self.losses,
            self.ties,
            self.wins,
            self.same,
            replace(self.rate, estimate=100 - self.rate.estimate, **ends),
            self.any_raters and (100 - self.any_raters[1], 100 - self.any_raters[0]),
            self.p_value,
        )

    def preferred_first(self) -> "WinRate":
        """In the direction in which a report tells it."""
        return self.reversed() if self.rate.estimate is not None and self.rate.estimate < 50 else self


@dataclass(frozen=True, slots=True)
class ScaleMean:
    """The mean of one condition on one scale, 1 to 5."""

    name: str
    condition: str
    ratings: int
    mean: Interval


class ScaleDifference(NamedTuple):
    """`first` minus `second` on one scale; p_value Holm-adjusted over scales and pairs."""

    scale: str
    first: str
    second: str
    difference: Difference

    def higher_first(self) -> "ScaleDifference":
        """In the direction in which a report tells it."""
        d = self.difference
        if d.difference >= 0:
            return self
        ends = {} if d.low is None or d.high is None else {"low": -d.high, "high": -d.low}
        return ScaleDifference(self.scale, self.second, self.first, replace(d, difference=-d.difference, **ends))


@dataclass(frozen=True, slots=True)
class MetricCorrelation:
    """Kendall's tau-b between the judgements and a metric, over `tau.items` answers or pairs of answers."""

    metric: str
    judgement: str
    tau: Interval


def collect_judgements(study: Study, store: RatingStore) -> list[Judgement]:
    """Every complete rating, in the order of raters and pages."""
    return [
        Judgement(rater, page, queue[page - 1], study.item(queue[page - 1]).group, stored)
        for rater, queue in enumerate(study.queues, 1)
        for page, stored in store.ratings(rater).items()
        if stored.complete and page <= len(queue)
    ]


def of_kind(judgements: Sequence[Judgement], kind: str) -> list[Judgement]:
    return [j for j in judgements if j.trial.kind == kind]


def win_rates(study: Study, judgements: Sequence[Judgement]) -> list[WinRate]:
    """A WinRate for every pair of conditions that was judged at all; p-values adjusted over these."""
    found = [win_rate(study, of_kind(judgements, "judged"), pair) for pair in study.pairs]
    rates = [rate for rate in found if rate]
    return [replace(rate, p_value=p) for rate, p in zip(rates, _holm([r.p_value for r in rates]), strict=True)]


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values; unknown ones stay None and do not count."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def win_rate(study: Study, judgements: Sequence[Judgement], pair: tuple[str, str]) -> WinRate | None:
    """With the p-value before adjustment; None where nothing of this pair was judged."""
    by_item: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        if set(judgement.trial.pair) == set(pair):
            by_item[judgement.trial.item].append(judgement)
    if not by_item:
        return None
    percents = {item: [j.percent(pair[0]) for j in ratings] for item, ratings in by_item.items()}
    identical = [item for item in study.items.values() if identical_replies(item, *pair)]
    # While a study is under way, the judged items stand for those to come: identical replies would weigh too much.
    weight = (len(study.items) - len(identical)) / len(by_item)
    means = [sum(values) / len(values) for values in percents.values()] + [50.0] * len(identical)
    weights = [weight] * len(by_item) + [1.0] * len(identical)
    groups = [study.items[item].group for item in by_item] + [item.group for item in identical]
    gains = cluster_sums([w * (mean - 50) for mean, w in zip(means, weights, strict=True)], weights, groups)

    raters = sorted({j.rater for ratings in by_item.values() for j in ratings})
    rows = [
        (j.percent(pair[0]), weight / len(ratings), j.group, j.rater) for ratings in by_item.values() for j in ratings
    ]
    rows += [(50.0, 1 / len(raters), item.group, rater) for item in identical for rater in raters]
    values = [value for values in percents.values() for value in values]
    return WinRate(
        *pair,
        wins=values.count(100.0),
        ties=values.count(50.0),
        losses=values.count(0.0),
        same=len(identical),
        rate=mean_interval(means, groups, weights, bounds=PERCENT),
        any_raters=two_way_interval(rows, PERCENT),
        p_value=cluster_difference(gains).p_value,
    )


def two_way_interval(
    rows: Sequence[tuple[float, float, str, int]], bounds: tuple[float, float]
) -> tuple[float, float] | None:
    """The 95 % interval where items and raters both are samples; None below three raters or two groups.

    rows    (value, weight, group, rater)

    The variances clustered by group and by rater, less that by both (Cameron, Gelbach & Miller 2011), never below the
    larger of the two; t with one degree of freedom fewer than there are raters or groups, whichever are fewer.
    """
    values, weights, groups, raters = zip(*rows, strict=True)
    fewest = min(len({*groups}), len({*raters})) - 1
    if fewest < 1 or len({*raters}) < 3:
        return None
    sums = [value * weight for value, weight in zip(values, weights, strict=True)]
    clusterings = (groups, raters, list(zip(groups, raters, strict=True)))
    by_group, by_rater, by_both = (cluster_sums(sums, weights, clusters) for clusters in clusterings)
    of_groups, of_raters, of_both = (robust_variance(clusters) for clusters in (by_group, by_rater, by_both))
    variance = max(of_groups + of_raters - of_both, of_groups, of_raters)
    if variance <= 0 or not bounds[0] < by_group.estimate < bounds[1]:
        return None
    return t_interval(by_group.estimate, sqrt(variance), fewest, bounds=bounds)


def item_means(judgements: Sequence[Judgement], scale: str, condition: str) -> dict[str, float]:
    """{item: mean over its raters} of one condition on one scale."""
    by_item: dict[str, list[int]] = defaultdict(list)
    for judgement in judgements:
        if judgement.trial.left == condition:
            by_item[judgement.trial.item].append(judgement.rating.scores[scale])
    return {item: sum(scores) / len(scores) for item, scores in by_item.items()}


def scale_means(study: Study, judgements: Sequence[Judgement]) -> list[ScaleMean]:
    judged, found = of_kind(judgements, "judged"), []
    for scale in study.settings.scales:
        for condition in study.conditions:
            means = item_means(judged, scale, condition)
            ratings = sum(j.trial.left == condition for j in judged)
            if means:
                groups = [study.items[item].group for item in means]
                mean = mean_interval(list(means.values()), groups, bounds=SCALE)
                found.append(ScaleMean(scale, condition, ratings, mean))
    return found


def scale_differences(study: Study, judgements: Sequence[Judgement]) -> list[ScaleDifference]:
    """Over the items that were rated for both conditions; p-values adjusted over all scales and pairs."""
    judged, found = of_kind(judgements, "judged"), []
    for scale in study.settings.scales:
        for first, second in study.pairs:
            ours, theirs = item_means(judged, scale, first), item_means(judged, scale, second)
            shared = sorted(ours.keys() & theirs.keys())
            if shared:
                groups = {item: study.items[item].group for item in shared}
                difference = paired_difference({i: ours[i] for i in shared}, {i: theirs[i] for i in shared}, groups)
                found.append(ScaleDifference(scale, first, second, difference))
    adjusted = _holm([row.difference.p_value for row in found])
    return [row._replace(difference=replace(row.difference, p_value=p)) for row, p in zip(found, adjusted, strict=True)]


def metric_correlations(
    study: Study, judgements: Sequence[Judgement], metrics: MetricScores
) -> list[MetricCorrelation]:
    """In pairs: the difference in the metric against who was preferred; on scales: the metric against the rating."""
    means, found = mean_judgements(study, of_kind(judgements, "judged")), []
    for metric, scores in metrics.items():
        for name, judged in means.items():
            points, groups = [], []
            for (item, *conditions), mean in judged.items():
                if all(item in scores.get(condition, {}) for condition in conditions):
                    values = [scores[condition][item] for condition in conditions]
                    points.append((values[0] - values[1] if len(values) > 1 else values[0], mean))
                    groups.append(study.items[item].group)
            if points:
                found.append(MetricCorrelation(metric, name, kendall_tau(points, groups)))
    return found


def mean_judgements(study: Study, judgements: Sequence[Judgement]) -> dict[str, dict[tuple[str, ...], float]]:
    """{"preference", or a scale: {(item, condition[, condition]): mean over the raters}}."""
    if study.on_scales:
        return {
            scale: {
                (item, c): mean for c in study.conditions for item, mean in item_means(judgements, scale, c).items()
            }
            for scale in study.settings.scales
        }
    values: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for pair in study.pairs:
        for judgement in judgements:
            if set(judgement.trial.pair) == set(pair):
                values[judgement.trial.item, *pair].append(judgement.percent(pair[0]))
    return {"preference": {key: sum(percents) / len(percents) for key, percents in values.items()}}


def kendall_tau(points: Sequence[tuple[float, float]], groups: Sequence[str]) -> Interval:
    """Tau-b with its interval, by leaving out one group at a time."""

    def tau(points: Sequence[tuple[float, float]]) -> float:
        return float(kendalltau(*zip(*points, strict=True)).statistic) if len(points) > 1 else nan

    return clip_interval(statistic_interval(tau, points, groups), -1.0, 1.0)


def clip_interval(interval: Interval, low: float, high: float) -> Interval:
    """The interval cut to what the statistic can be."""
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(interval.low, low), high=min(interval.high, high))
