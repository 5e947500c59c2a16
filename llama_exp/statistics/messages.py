"""Every sentence of this package: the templates first, then the functions that fill them in. Nothing here computes.

Notes go into a result's `note`, which says why there is no interval, or what is in it. The others are whole sentences.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_exp.formatting import decimal_places, percent, plural, round_count, with_range

if TYPE_CHECKING:
    from llama_exp.statistics.learning_curve.curve import LearningCurve

# Notes of an interval or a comparison
NO_ITEMS = "there are no items to score"
NO_WEIGHT = "every weight is 0"
ONE_ITEM = "the one item is of one group, so nothing shows how another group would differ"
ONE_GROUP = "all {items:,} items are of one group, so nothing shows how another group would differ"
FEW_GROUPS = "fewer than {few} groups: the interval is wide because little is known"
UNEVEN_GROUPS = (
    "the {groups} groups are so unequal that they are worth {worth} equal ones: the interval is wide because little is "
    "known"
)
NO_SPREAD = "every group has the same score, so its spread says nothing"
ALIKE = NO_SPREAD + "; the interval is what {groups} groups leave open"
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
TOO_FEW_TO_SEPARATE = (
    "test set, {samples} data samples and {runs} training runs, too few to separate sampling from training noise"
)
SAMPLES_AND_RUNS = "test set, {samples} data samples and {runs} training runs"
RUNS_OF_EACH = "test set and {runs} of each"
RUNS_AGAINST = "test set and {one} against {other}"
SCATTER_ASSUMED = "test set and an assumed scatter of runs"
RUNS_OF_ONE = "test set and {runs}"

# What an evaluation cannot show
DETECTABLE = (
    "The smallest true difference that this evaluation would have found, with a chance of {power}, is {size}; "
    "smaller ones can hide in the noise."
)
NOT_DETECTABLE = (
    "No true difference within the scale would have been found by this evaluation with a chance of {power}: it needs "
    "more test items, or more seeds."
)
UNSEEN = (
    "The {runs} runs differ by no more than the test items explain, so their own noise is estimated as 0; so few runs "
    "cannot rule out that it adds up to ± {size}."
)

# Learning curves
REFUSED = "No learning curve: {why}."
ONE_SIZE = "there is one size, {size:,}. Add another, such as {other}"
GAIN = "{times} the data, {size} examples: {gain} over the largest size tried, {largest:,}."
TIMES = {2.0: "twice", 3.0: "three times", 5.0: "five times", 10.0: "ten times"}
NOT_REACHED = "Examples for {target:g}: not within {limit} ({chance} sure)."
REACHED_FIRST = "Examples for {target:g}: reached by the smallest size tried, {smallest:,}."
REQUIRED = "Examples for {target:g}: {size} ({low} to {high}){beyond}."
REQUIRED_AT_LEAST = "Examples for {target:g}: {size} (at least {low}, perhaps never){beyond}."
PERHAPS_NEVER = "Examples for {target:g}: at least {low}, perhaps never."
BEYOND = ", beyond the largest size tried"
NOT_REPEATED = "There is one run per size, so how much runs differ is assumed, not measured."


def one_group(items: int) -> str:
    """Why items of a single group have no interval."""
    return ONE_ITEM if items == 1 else ONE_GROUP.format(items=items)


def smallest_p(groups: int, smallest: float) -> str:
    """Why a sign-flip test of so few groups cannot become significant."""
    differ = "differs" if groups == 1 else "differ"
    return SMALLEST_P.format(groups_differ=f"{plural(groups, 'group')} {differ}", smallest=smallest)


def sources_in_interval(data_seeds: Sequence[int], separable: bool) -> str:
    """Which noise the interval of several runs holds; `separable`: whether this design tells sampling from training."""
    samples, runs = len(set(data_seeds)), len(data_seeds)
    one_each = SAMPLES if samples == runs else TOO_FEW_TO_SEPARATE
    template = ONE_SAMPLE if samples == 1 else SAMPLES_AND_RUNS if separable else one_each
    return template.format(samples=samples, runs=runs)


def runs_compared(counts: Sequence[int]) -> str:
    """Whose luck the interval of a difference holds; `counts`: the runs of each trained cell."""
    if len(counts) < 2:
        return RUNS_OF_ONE.format(runs=plural(counts[0], "run"))
    if counts[0] == counts[1]:
        return RUNS_OF_EACH.format(runs=plural(counts[0], "run"))
    return RUNS_AGAINST.format(one=plural(counts[0], "run"), other=counts[1])


def one_size(size: int) -> str:
    """Why a single size makes no curve, with a size to add."""
    return ONE_SIZE.format(size=size, other=round_count(2 * size))


def describe_detectable(size: float | None, power: float = 0.8) -> str:
    """The smallest difference that an evaluation finds with this chance; None: none within the scale."""
    if size is None:
        return NOT_DETECTABLE.format(power=percent(power))
    return DETECTABLE.format(power=percent(power), size=f"{size:.{decimal_places(size)}f}")


def describe_unseen(size: float, runs: int) -> str:
    """How much noise the runs may have although they show none; `size`: its standard error."""
    return UNSEEN.format(runs=runs, size=f"{2 * size:.{decimal_places(2 * size)}f}")


def describe_curve(curve: "LearningCurve", target: float | None = None) -> list[str]:
    """What more data buys, and the size for a target: one sentence each."""
    if curve.refusal:
        return [REFUSED.format(why=curve.refusal)]
    sentences = [describe_gain(curve, factor) for factor in (2.0, 10.0)]
    if target is not None:
        sentences.append(describe_size(curve, target))
    return sentences if curve.repeated else [*sentences, NOT_REPEATED]


def describe_gain(curve: "LearningCurve", factor: float) -> str:
    """`Ten times the data, 30,000 examples: +4.1 (1.9 to 6.0) over the largest size tried, 3,000.`"""
    times, largest, gain = TIMES.get(factor, f"{factor:g} times"), curve.sizes[-1], curve.gain(factor)
    return GAIN.format(
        times=times.capitalize(),
        size=round_count(factor * largest),
        gain=with_range(gain.estimate, gain.low, gain.high, sign=True),
        largest=largest,
    )


def describe_size(curve: "LearningCurve", target: float) -> str:
    """`Examples for 70: 2,300 (1,400 to 5,100), beyond the largest size tried.`"""
    need = curve.size_for(target)
    if need.low is None:
        return NOT_REACHED.format(target=target, limit=round_count(need.limit), chance=percent(1 - need.chance))
    if need.estimate is None:
        return PERHAPS_NEVER.format(target=target, low=round_count(need.low))
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
