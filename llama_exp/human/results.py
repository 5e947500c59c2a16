"""Everything that the ratings of a study say, as report/results.json holds it."""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_exp.human import agreement, analysis, raters
from llama_exp.human.analysis import Judgement, MetricScores
from llama_exp.human.study import Study
from llama_exp.statistics.intervals import Interval


@dataclass(frozen=True, slots=True)
class Comment:
    """What a rater wrote, beside their rating of that page."""

    rater: int
    place: int  # the page
    kind: str
    item: str
    said: str  # the rating in words
    text: str


@dataclass(frozen=True, slots=True)
class StudyResults:
    """The fields of results.json.

    reliable    the preferences without the raters who are `left_out`; empty if there are none
    hurried     raters who judged most pages too fast
    left_out    unreliable and hurried raters, or the unreliable alone where nobody else would remain
    """

    preferences: list[analysis.WinRate]
    reliable: list[analysis.WinRate]
    scales: list[analysis.ScaleMean]
    differences: list[analysis.ScaleDifference]
    agreements: list[agreement.Agreement]
    consistency: Interval | None
    relations: list[analysis.MetricCorrelation]
    raters: list[raters.RaterSummary]
    unreliable: list[int]
    hurried: list[int]
    left_out: list[int]
    comments: list[Comment]


def analyse(study: Study, judgements: Sequence[Judgement], metrics: MetricScores) -> StudyResults:
    summaries = raters.rater_summaries(study, judgements)
    unreliable, hurried = raters.unreliable_raters(summaries), raters.hurried_raters(summaries)
    left_out = {*unreliable, *hurried}
    if all(j.rater in left_out for j in judgements):
        left_out = {*unreliable}
    others = [j for j in judgements if j.rater not in left_out]
    on_scales = study.on_scales
    return StudyResults(
        preferences=[] if on_scales else _preferences(study, judgements),
        reliable=_preferences(study, others) if left_out and not on_scales else [],
        scales=analysis.scale_means(study, judgements) if on_scales else [],
        differences=[d.higher_first() for d in analysis.scale_differences(study, judgements)] if on_scales else [],
        agreements=agreement.agreements(study, judgements),
        consistency=raters.consistency(judgements),
        relations=analysis.metric_correlations(study, judgements, metrics),
        raters=summaries,
        unreliable=unreliable,
        hurried=hurried,
        left_out=sorted(left_out),
        comments=[
            Comment(j.rater, j.page, j.trial.kind, j.trial.item, describe_rating(j), j.rating.comment)
            for j in judgements
            if j.rating.comment.strip()
        ],
    )


def _preferences(study: Study, judgements: Sequence[Judgement]) -> list[analysis.WinRate]:
    """In one direction wherever they are told: sentence, figure, table and file."""
    return [rate.preferred_first() for rate in analysis.win_rates(study, judgements)]


def describe_rating(judgement: Judgement) -> str:
    """`tuned better`, `equally good`, or `untuned: fluency 4, helpfulness 2`."""
    scores = judgement.rating.scores
    if scores:
        return f"{judgement.trial.left}: {', '.join(f'{scale} {value}' for scale, value in scores.items())}"
    return f"{judgement.preferred} better" if judgement.preferred else "equally good"
