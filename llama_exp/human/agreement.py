"""Whether raters agree with each other.

    Krippendorff's alpha    any number of raters, gaps allowed; 1 = they agree, 0 = no better than chance
    Cohen's kappa           two raters;  Fleiss' kappa: three or more; both only over what everybody rated

The libraries `krippendorff` and `statsmodels` compute them; here the ratings are arranged for them.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from llama_exp.errors import UserError
from llama_exp.human.analysis import Judgement, clip_interval, of_kind
from llama_exp.human.study import Study
from llama_exp.programs import install
from llama_exp.statistics.intervals import Interval, statistic_interval

Unit = dict[int, int]  # rater -> value


@dataclass(frozen=True, slots=True)
class Agreement:
    """On preferences, or on one scale.

    units          things that two or more rated: what alpha is over
    equal          percent of pairs of ratings that are the same
    level          of measurement: "nominal" or "ordinal"
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


def agreements(study: Study, judgements: Sequence[Judgement]) -> list[Agreement]:
    """One for preferences (nominal), or one for each scale (ordinal)."""
    judged = of_kind(judgements, "judged")
    if study.on_scales:
        scales = study.settings.scales
        return [agreement(scale, [(j, j.rating.scores[scale]) for j in judged], "ordinal") for scale in scales]
    position = {name: i for i, name in enumerate(study.conditions)}

    def preference(judgement: Judgement) -> int:
        """1: the condition named first is better, -1: the other one, 0: a tie."""
        first = min(judgement.trial.pair, key=position.get)
        return 0 if not judgement.preferred else 1 if judgement.preferred == first else -1

    return [agreement("preference", [(j, preference(j)) for j in judged], "nominal")]


def agreement(about: str, values: Sequence[tuple[Judgement, int]], level: str) -> Agreement:
    by_unit: dict[tuple, Unit] = defaultdict(dict)
    groups: dict[tuple, str] = {}
    for judgement, value in values:
        key = judgement.trial.item, judgement.trial.pair
        by_unit[key][judgement.rater] = value
        groups[key] = judgement.group
    shared = {key: unit for key, unit in by_unit.items() if len(unit) > 1}
    units = list(shared.values())
    pairs = [a == b for unit in units for a, b in combinations(unit.values(), 2)]
    if units:
        estimate = statistic_interval(lambda of: krippendorff_alpha(of, level), units, [groups[key] for key in shared])
        alpha = clip_interval(estimate, -1, 1)
    else:
        alpha = Interval(None, None, None, None, 0, 0, "none", "no item has two ratings yet")
    equal = 100 * sum(pairs) / len(pairs) if pairs else None
    return Agreement(about, len(units), equal, alpha, level, *kappa(units, level))


def krippendorff_alpha(units: Sequence[Unit], level: str) -> float:
    """NaN where every rating is the same, which leaves nothing to expect by chance."""
    try:
        from krippendorff import alpha
    except ImportError:
        raise UserError(f"Krippendorff's alpha needs krippendorff. Install it: {install('ui')}") from None
    if len({value for unit in units for value in unit.values()}) < 2:
        return math.nan
    raters = sorted({rater for unit in units for rater in unit})
    table = [[unit.get(rater, math.nan) for unit in units] for rater in raters]  # (raters, units)
    return float(alpha(reliability_data=table, level_of_measurement=level))


def kappa(units: Sequence[Unit], level: str) -> tuple[float | None, str, int]:
    """(value, name, units) of Cohen's kappa for two raters, quadratic weights on scales, or Fleiss' kappa for more.

    Over the units that all raters rated; None where these are too few or all the same.
    """
    raters = sorted({rater for unit in units for rater in unit})
    cohen, weighted = len(raters) < 3, len(raters) < 3 and level == "ordinal"
    name = "Cohen's kappa, quadratic weights" if weighted else "Cohen's kappa" if cohen else "Fleiss' kappa"
    rows = [[unit[rater] for rater in raters] for unit in units if len(unit) == len(raters)]
    values = sorted({value for row in rows for value in row})
    if len(rows) < 2 or len(values) < 2:
        return None, name, len(rows)
    from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa  # pandas: a second

    if not cohen:
        value = fleiss_kappa(aggregate_raters(rows)[0])
    else:  # distances count on a scale, also to the numbers between that nobody chose
        categories = range(values[0], values[-1] + 1) if weighted else values
        table = [[rows.count([a, b]) for b in categories] for a in categories]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # no variation: NaN, which becomes None below
            value = cohens_kappa(table, wt="quadratic" if weighted else None, return_results=False)
    return (float(value) if math.isfinite(value) else None), name, len(rows)
