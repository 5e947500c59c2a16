"""Whether each rater can be relied on.

repeats     the same verdict when an item came again with its sides swapped
controls    trials with a known answer that were called wrong, or a tie
speed       pages that were judged faster than anybody can read, decide and click
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from llama_exp.human.analysis import PERCENT, Judgement, of_kind
from llama_exp.human.study import Study
from llama_exp.statistics.intervals import Interval, mean_interval

# Seconds below which nobody has read a page, decided and clicked; twice that for answers of more than SHORT_ANSWERS
# words. No more, however long they are: that an answer is no answer is seen in its first words.
MIN_SECONDS, SHORT_ANSWERS = 1, 20
MAX_DISTANCE = 1  # on a scale of 5, two numbers this close count as the same judgement
MIDDLE = 3  # a wrong answer rated above it is a failed control
MAX_FAILED_CONTROLS, MAX_TOO_FAST = 1 / 3, 1 / 2  # shares


@dataclass(frozen=True, slots=True)
class RaterSummary:
    number: int
    rated: int
    of: int
    seconds: float | None  # the median over pages whose time is known
    timed: int
    hasty: int  # of these, judged too fast
    left: int  # pages on which the left answer was called better
    right: int
    ties: int
    repeats: int
    consistent: int
    controls: int
    failed: int
    changes: int


def rater_summaries(study: Study, judgements: Sequence[Judgement]) -> list[RaterSummary]:
    return [
        summarise_rater(study, number, [j for j in judgements if j.rater == number])
        for number in range(1, len(study.queues) + 1)
    ]


def summarise_rater(study: Study, number: int, judgements: Sequence[Judgement]) -> RaterSummary:
    verdicts = [j.rating.verdict for j in judgements]
    seconds = [j.rating.seconds for j in judgements if j.rating.seconds > 0]
    repeats, controls = repeat_outcomes(judgements), of_kind(judgements, "control")
    return RaterSummary(
        number=number,
        rated=len(judgements),
        of=len(study.queues[number - 1]),
        seconds=median(seconds) if seconds else None,
        timed=len(seconds),
        hasty=sum(is_too_fast(study, j) for j in judgements),
        left=verdicts.count("left"),
        right=verdicts.count("right"),
        ties=verdicts.count("tie"),
        repeats=len(repeats),
        consistent=sum(same for _, same in repeats),
        controls=len(controls),
        failed=sum(is_failed_control(study, j) for j in controls),
        changes=sum(j.stored.changes for j in judgements),
    )


def repeat_outcomes(judgements: Sequence[Judgement]) -> list[tuple[Judgement, bool]]:
    """(the repeat, whether it agrees with the first time) wherever a rater has judged both."""
    first = {(j.rater, j.trial.item, j.trial.pair): j for j in of_kind(judgements, "judged")}
    outcomes = []
    for repeat in of_kind(judgements, "repeat"):
        before = first.get((repeat.rater, repeat.trial.item, repeat.trial.pair))
        if before:
            scores = zip(before.rating.scores.values(), repeat.rating.scores.values(), strict=True)
            close = all(abs(a - b) <= MAX_DISTANCE for a, b in scores)
            outcomes.append((repeat, before.preferred == repeat.preferred and close))
    return outcomes


def consistency(judgements: Sequence[Judgement]) -> Interval | None:
    """Percent of repeats that were judged as the first time, over all raters; clustered by group."""
    values = [(100.0 * same, repeat.group) for repeat, same in repeat_outcomes(judgements)]
    return mean_interval(*zip(*values, strict=True), bounds=PERCENT) if values else None


def is_failed_control(study: Study, judgement: Judgement) -> bool:
    """Whether the right answer was not called better, or the wrong one rated above the middle."""
    if study.on_scales:
        return judgement.rating.scores[study.settings.control_scale] > MIDDLE
    return judgement.preferred != "right"


def is_too_fast(study: Study, judgement: Judgement) -> bool:
    """Whether a page was judged faster than anybody can; False where no script measured the time."""
    words = sum(len(text.split()) for text in study.answers(judgement.trial))
    return 0 < judgement.rating.seconds < (2 * MIN_SECONDS if words > SHORT_ANSWERS else MIN_SECONDS)


def unreliable_raters(summaries: Sequence[RaterSummary]) -> list[int]:
    """Raters who failed more than a third of their controls, and at least two: one slip is no verdict on a person."""
    return [r.number for r in summaries if r.failed >= 2 and r.failed > MAX_FAILED_CONTROLS * r.controls]


def hurried_raters(summaries: Sequence[RaterSummary]) -> list[int]:
    """Raters who judged more than half of their pages too fast."""
    return [r.number for r in summaries if r.hasty > MAX_TOO_FAST * r.timed]
