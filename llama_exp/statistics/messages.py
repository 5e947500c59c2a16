"""Every sentence of this package: the templates first, then the functions that fill them in. Nothing here computes.

Notes go into a result's `note`, which says why there is no interval, or what is in it. The others are whole sentences.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_exp.formatting import decimal_places, format_p_value, percent, plural, plus_minus, round_count, with_range

if TYPE_CHECKING:
    from llama_exp.statistics.learning_curve.curve import LearningCurve

# Notes of an interval or a comparison
NO_ITEMS = "there are no items to score"
NO_WEIGHT = "every weight is 0"
ONE_ITEM = "the one item is of one group, so nothing shows how another group would differ"
ONE_GROUP = "all {items:,} items are of one group, so nothing shows how another group would differ"
FEW_GROUPS = "fewer than {few} groups: the interval is wide because little is known"
NO_SPREAD = "every group has the same score, so its spread says nothing"
CLOPPER_PEARSON = NO_SPREAD + "; the interval is what {groups} equal groups leave open (Clopper-Pearson)"
UNDEFINED = "the metric is undefined on these items ({value})"
UNDEFINED_WITHOUT = "the metric is undefined when one of {groups} groups is left out, so its spread is unknown"
NO_DIFFERENCE = "the two give every group the same score"
SMALLEST_P = "only {groups_differ}: p cannot fall below {smallest:.3g}, whatever the difference"

# Notes that name the sources of noise in an interval
ONE_RUN = "test set only; one training seed"
ONE_SAMPLE = "test set and {runs} training seeds; one data sample, so which examples were drawn is not in it"
SAMPLES = (
    "test set and {samples} data samples with one training seed each, so sampling and training noise cannot be "
    "separated"
)
SAMPLES_AND_RUNS = "test set, {samples} data samples and {runs} training runs"
RUNS_OF_EACH = "test set and {runs} runs of each"

# What an evaluation cannot show
DETECTABLE = (
    "The smallest true difference that this evaluation would have found, with a chance of {power}, is {size}; "
    "smaller ones can hide in the noise."
)
UNSEEN = (
    "The {runs} runs differ by no more than the test items explain, so their own noise is estimated as 0; so few runs "
    "cannot rule out that it adds up to ± {size}."
)

# Learning curves
REFUSED = "No learning curve: {why}."
TOO_FEW = (
    "at least {fewest} sizes are needed, three to draw the curve and one to see whether it holds; there {are} {count} "
    "({sizes}){advice}"
)
ADD_BETWEEN = ". Add a size between, such as {between}"
ADD_TWO = ". Add sizes, such as {between} and {beyond}"
FLAT = (
    "from n = {first:,.0f} to {last:,.0f} the score changes by {change} ({confidence} interval), which could be no "
    "change at all"
)
MISFIT = "The points do not follow a - b n^(-c) ({p}): the gain from more data cannot be estimated."
UNTESTED = "Whether the law fits cannot be tested: there is one run per size."
GAIN = "{times} the data buys {gain} over the largest size tried, n = {largest:,}, if the curve goes on as it did."
OFF_SCALE = (
    "The curve would leave the scale ({low:g} to {high:g}) before {times} the data, n = {size}. It must flatten "
    "earlier, and these points do not show where, so the gain cannot be estimated. Add a larger size."
)
TIMES = {2.0: "twice", 3.0: "three times", 4.0: "four times", 10.0: "ten times"}
NOT_REACHED = "n for {target:g}: not within {limit} examples by this curve; {why}."
PERHAPS_NEVER = "n for {target:g}: at least {low}, perhaps never; {why}."
REACHED_FIRST = "n for {target:g}: reached by the smallest size tried, n = {smallest:,}."
REQUIRED = "n for {target:g}: {size} ({low} to {high}){beyond}."
REQUIRED_AT_LEAST = "n for {target:g}: {size} (at least {low}, perhaps never){beyond}."
BEYOND = ", beyond the largest n tried"
ALL_END_SHORT = "even the best curve that the points allow ends short of it"
BEST_ENDS_SHORT = "the best-fitting curve ends short of it"
PLATEAU = "The curve flattens out at {value}."
NO_PLATEAU = "The plateau cannot be estimated: {why}."
NO_BEND = "the points do not bend enough to show where they end"
NO_BEND_BELOW = "the points do not bend enough to show where they end below the scale's end, {end:g}"
CHECK = "Fitted without n = {size:,}, the curve predicts {predicted} there; measured {measured}, {verdict}."
AS_PREDICTED = "as predicted"
NOT_AS_PREDICTED = "outside what it predicted: do not trust this curve beyond its points"


def one_group(items: int) -> str:
    """Why items of a single group have no interval."""
    return ONE_ITEM if items == 1 else ONE_GROUP.format(items=items)


def smallest_p(groups: int, smallest: float) -> str:
    """Why a sign-flip test of so few groups cannot become significant."""
    differ = "differs" if groups == 1 else "differ"
    return SMALLEST_P.format(groups_differ=f"{plural(groups, 'group')} {differ}", smallest=smallest)


def sources_in_interval(samples: int, runs: int, repeated: bool) -> str:
    """Which noise the interval of several runs holds; `repeated`: a data sample has several runs."""
    template = ONE_SAMPLE if samples == 1 else SAMPLES_AND_RUNS if repeated else SAMPLES
    return template.format(samples=samples, runs=runs)


def too_few_sizes(sizes: Sequence[float], fewest: int, between: float) -> str:
    """Why so few sizes make no curve, and a size to add; `between`: the middle of their widest gap."""
    advice = "" if len(sizes) == 1 else ADD_TWO if len(sizes) < fewest - 1 else ADD_BETWEEN
    return TOO_FEW.format(
        fewest=fewest,
        are="is" if len(sizes) == 1 else "are",
        count=len(sizes),
        sizes=", ".join(f"{size:,.0f}" for size in sizes),
        advice=advice.format(between=round_count(between), beyond=round_count(2 * sizes[-1])),
    )


def flat_curve(sizes: Sequence[float], change: tuple[float, float, float], confidence: float) -> str:
    """Why a curve without a rise is refused; `change`: (estimate, low, high) from the smallest to the largest size."""
    return FLAT.format(
        first=sizes[0], last=sizes[-1], change=plus_minus(*change, sign=True), confidence=percent(confidence)
    )


def describe_detectable(size: float, power: float = 0.8) -> str:
    """The smallest difference that an evaluation finds with this chance."""
    return DETECTABLE.format(power=percent(power), size=f"{size:.{decimal_places(size)}f}")


def describe_unseen(size: float, runs: int) -> str:
    """How much noise the runs may have although they show none; `size`: its standard error."""
    return UNSEEN.format(runs=runs, size=f"{2 * size:.{decimal_places(2 * size)}f}")


def describe_curve(curve: "LearningCurve", factor: float = 10.0, target: float | None = None) -> list[str]:
    """What more data buys, the size for a target, and whether the curve can be believed: one sentence each."""
    if curve.refusal:
        return [REFUSED.format(why=curve.refusal)]
    warnings = [sentence for sentence in (_describe_fit(curve), _describe_check(curve)) if sentence]
    if curve.misfit:
        return warnings  # a wrong law promises nothing
    sentences = [describe_gain(curve, factor)]
    if target is not None:
        sentences.append(describe_size(curve, target))
    sentences.append(_describe_plateau(curve))
    return sentences + warnings if curve.trusted else warnings + sentences  # what must be read first comes first


def describe_gain(curve: "LearningCurve", factor: float) -> str:
    """`Ten times the data buys +4.1 (1.9 to 6.0) over ...`"""
    times, largest = TIMES.get(factor, f"{factor:g} times"), curve.sizes[-1]
    if curve.leaves_scale([factor * largest])[0]:
        low, high = curve.bounds
        return OFF_SCALE.format(low=low, high=high, times=times, size=round_count(factor * largest))
    gain = curve.gain(factor)
    return GAIN.format(
        times=times.capitalize(), gain=with_range(gain.estimate, gain.low, gain.high, sign=True), largest=largest
    )


def describe_size(curve: "LearningCurve", target: float) -> str:
    """`n for 70: 2,300 (1,400 to 5,100), beyond the largest n tried.`"""
    need = curve.size_for(target)
    if need.low is None:
        return NOT_REACHED.format(target=target, limit=round_count(need.limit), why=need.note)
    if need.estimate is None:
        return PERHAPS_NEVER.format(target=target, low=round_count(need.low), why=need.note)
    if need.estimate <= curve.sizes[0]:
        return REACHED_FIRST.format(target=target, smallest=curve.sizes[0])
    template = REQUIRED_AT_LEAST if need.high is None else REQUIRED
    return template.format(
        target=target,
        size=round_count(need.estimate),
        low=round_count(need.low),
        high="" if need.high is None else round_count(need.high),
        beyond=BEYOND if need.estimate > curve.sizes[-1] else "",
    )


def _describe_check(curve: "LearningCurve") -> str:
    """What the fit without the largest size predicted for that size; "" where there was no such fit."""
    check = curve.check
    if check is None:
        return ""
    return CHECK.format(
        size=check.size,
        predicted=with_range(check.predicted, check.low, check.high),
        measured=f"{check.measured:.{decimal_places((check.high - check.low) / 2)}f}",
        verdict=AS_PREDICTED if check.agrees else NOT_AS_PREDICTED,
    )


def _describe_fit(curve: "LearningCurve") -> str:
    if curve.misfit_p is None:
        return UNTESTED
    return MISFIT.format(p=format_p_value(curve.misfit_p)) if curve.misfit else ""


def _describe_plateau(curve: "LearningCurve") -> str:
    plateau = curve.plateau()
    if plateau.low is None or plateau.high is None:
        return NO_PLATEAU.format(why=plateau.note)
    return PLATEAU.format(value=with_range(plateau.estimate, plateau.low, plateau.high))
