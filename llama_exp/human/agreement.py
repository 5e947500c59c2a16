"""Whether raters agree with each other, with themselves, and with what is known.

    Krippendorff's alpha    any number of raters, gaps allowed; 1 = they agree, 0 = no better than chance
    Cohen's kappa           two raters;  Fleiss' kappa: three or more; both only over what everybody rated
    consistency             the same verdict when an item came again with its sides swapped
    controls                trials with a known answer that were called wrong, or a tie
    haste                   pages that were judged faster than anybody sees, decides and clicks

Agreement is computed by the libraries `krippendorff` and `statsmodels`; what is done here is laying out the table.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from llama_exp.errors import UserError
from llama_exp.human.analysis import Judged, kind, within
from llama_exp.human.study import Study
from llama_exp.statistics import Interval
from llama_exp.statistics.intervals import interval, statistic_interval

Unit = dict[int, int]  # rater -> value
# Seconds below which nobody has seen a page, decided and clicked; twice that where the answers are longer than a glance takes in.
# No more, however long they are: that an answer is no answer is seen in its first words.
GLANCE, GLANCE_WORDS = 1, 20
NEAR = 1  # on a scale of 5, two numbers this close count as the same judgement
MIDDLE = 3


@dataclass(frozen=True, slots=True)
class Agreement:
    """On preferences, or on one scale.

    units          things that two or more rated: what alpha is over
    equal          percent of pairs of ratings that are the same
    kappa_units    things that all raters rated: what kappa is over, often far fewer
    """

    about: str
    units: int
    equal: float | None
    alpha: Interval
    level: str
    kappa: float | None
    kappa_name: str
    kappa_units: int


@dataclass(frozen=True, slots=True)
class RaterSummary:
    number: int
    rated: int
    of: int
    seconds: float | None  # the median over pages whose time is known
    timed: int
    hasty: int  # of these, judged faster than one can
    left: int  # pages on which the left answer was called better
    right: int
    ties: int
    repeats: int
    consistent: int
    controls: int
    failed: int
    changes: int


def agreements(study: Study, judged: Sequence[Judged]) -> list[Agreement]:
    """One for preferences (nominal), or one for each scale (ordinal)."""
    judged = kind(judged, "judged")
    if not study.on_scales:
        place = {name: i for i, name in enumerate(study.conditions)}

        def said(one: Judged) -> int:  # 1: the condition named first is better, -1: the other one, 0: a tie
            first = min(one.trial.pair, key=place.get)
            return 0 if not one.preferred else 1 if one.preferred == first else -1

        return [agreement("preference", [(one, said(one)) for one in judged], "nominal")]
    return [agreement(s, [(one, one.rating.scores[s]) for one in judged], "ordinal") for s in study.settings["scales"]]


def agreement(about: str, values: Sequence[tuple[Judged, int]], level: str) -> Agreement:
    units: dict[tuple, Unit] = defaultdict(dict)
    groups: dict[tuple, str] = {}
    for one, value in values:
        units[one.trial.item, one.trial.pair][one.rater] = value
        groups[one.trial.item, one.trial.pair] = one.group
    shared = {key: unit for key, unit in units.items() if len(unit) > 1}
    pairs = [a == b for unit in shared.values() for a, b in combinations(unit.values(), 2)]
    if not shared:
        why = "no item has two ratings yet, so there is nothing to compare"
        alpha = Interval(None, None, None, None, 0, 0, "none", why)
    else:
        rows = list(shared.values())
        alpha = within(statistic_interval(lambda of: krippendorff(of, level), rows, [groups[k] for k in shared]), -1, 1)
    kappa = kappas(list(shared.values()), level)
    return Agreement(about, len(shared), 100 * sum(pairs) / len(pairs) if pairs else None, alpha, level, *kappa)


def krippendorff(units: Sequence[Unit], level: str) -> float:
    """Alpha by the library of that name; NaN where every rating is the same, which leaves nothing to expect by chance."""
    try:
        from krippendorff import alpha
    except ImportError:
        raise UserError("Krippendorff's alpha needs krippendorff. Install it: pip install -e '.[ui]'") from None
    if len({value for unit in units for value in unit.values()}) < 2:
        return math.nan
    raters = sorted({rater for unit in units for rater in unit})
    table = [[unit.get(rater, math.nan) for unit in units] for rater in raters]  # (raters, units)
    return float(alpha(reliability_data=table, level_of_measurement=level))


def kappas(units: Sequence[Unit], level: str) -> tuple[float | None, str, int]:
    """Cohen's kappa of two raters (with quadratic weights on scales), Fleiss' of more, over what all of them rated: its value,
    its name, and how many things that is."""
    raters = sorted({rater for unit in units for rater in unit})
    name = "Cohen's kappa" if len(raters) < 3 else "Fleiss' kappa"
    name += ", quadratic weights" if len(raters) < 3 and level == "ordinal" else ""
    whole = [[unit[rater] for rater in raters] for unit in units if len(unit) == len(raters)]
    values = sorted({value for row in whole for value in row})
    if len(whole) < 2 or len(values) < 2:
        return None, name, len(whole)
    from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa

    if len(raters) > 2:
        kappa = fleiss_kappa(aggregate_raters(whole)[0])
    else:
        table = [
            [sum(row == [a, b] for row in whole) for b in range_of(values, level)] for a in range_of(values, level)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # no variation: NaN, said below
            kappa = cohens_kappa(table, wt="quadratic" if level == "ordinal" else None, return_results=False)
    return (float(kappa) if math.isfinite(kappa) else None), name, len(whole)


def range_of(values: list[int], level: str) -> Sequence[int]:
    """Categories of a table: on a scale also those between that nobody chose, since distances count."""
    return range(values[0], values[-1] + 1) if level == "ordinal" else values


def repeats(judged: Sequence[Judged]) -> list[tuple[Judged, bool]]:
    """(the repeat, whether it agrees with the first time) wherever a rater has given both."""
    first = {(one.rater, one.trial.item, one.trial.pair): one for one in kind(judged, "judged")}
    found = []
    for again in kind(judged, "repeat"):
        before = first.get((again.rater, again.trial.item, again.trial.pair))
        if before:
            scores = zip(before.rating.scores.values(), again.rating.scores.values(), strict=True)
            found.append((again, before.preferred == again.preferred and all(abs(a - b) <= NEAR for a, b in scores)))
    return found


def consistency(judged: Sequence[Judged]) -> Interval | None:
    """Percent of repeats that were judged as the first time, over all raters; clustered by group."""
    values = [(100.0 * agrees, again.group) for again, agrees in repeats(judged)]
    return interval(*zip(*values, strict=True), bounds=(0.0, 100.0)) if values else None


def failed(study: Study, one: Judged) -> bool:
    """Whether a control was missed: the right answer not called better, or the wrong one rated above the middle."""
    if study.on_scales:
        return one.rating.scores[study.settings["control_scale"]] > MIDDLE
    return one.preferred != "right"


def hasty(study: Study, one: Judged) -> bool:
    """Whether a page was judged faster than one can; False where no script took the time."""
    words = sum(len(text.split()) for text in study.texts(one.trial))
    return 0 < one.rating.seconds < (2 * GLANCE if words > GLANCE_WORDS else GLANCE)


def rater_summaries(study: Study, judged: Sequence[Judged]) -> list[RaterSummary]:
    found = []
    for number, queue in enumerate(study.queues, 1):
        mine = [one for one in judged if one.rater == number]
        verdicts = [one.rating.verdict for one in mine]
        spent = [one.rating.seconds for one in mine if one.rating.seconds > 0]
        again, known = repeats(mine), kind(mine, "control")
        found.append(
            RaterSummary(
                number,
                len(mine),
                len(queue),
                median(spent) if spent else None,
                len(spent),
                sum(hasty(study, one) for one in mine),
                verdicts.count("left"),
                verdicts.count("right"),
                verdicts.count("tie"),
                len(again),
                sum(agrees for _, agrees in again),
                len(known),
                sum(failed(study, one) for one in known),
                sum(one.given.changes for one in mine),
            )
        )
    return found


def unreliable(summaries: Sequence[RaterSummary], share: float = 1 / 3) -> list[int]:
    """Raters who failed more than a third of their controls, two at least: one slip is no verdict on a person."""
    return [one.number for one in summaries if one.failed >= 2 and one.failed > share * one.controls]


def hurried(summaries: Sequence[RaterSummary]) -> list[int]:
    """Raters who judged more than half of their pages faster than one can."""
    return [one.number for one in summaries if one.hasty > one.timed / 2]
