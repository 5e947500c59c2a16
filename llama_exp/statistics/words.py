"""Results in plain words: how a number is written, and one sentence for each kind of result.

Nothing here computes. Two figures of uncertainty are kept and the estimate is cut to the same place: 71.2 ± 1.6.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparisons import Difference, Tie
    from .curves import Curve
    from .intervals import Interval
    from .variance import Components


def decimals(half_width: float) -> int:
    """Places after the point so that the uncertainty shows two figures (1.6, 0.016, 16)."""
    if not half_width > 0:
        return 1
    return min(max(1 - math.floor(math.log10(half_width) + 1e-9), 0), 6)


def plus_minus(estimate: float | None, low: float | None, high: float | None, sign: bool = False) -> str:
    """`71.2 ± 1.6`; `98.9 (95.1 to 99.7)` where the sides differ by more than a quarter; `71.2 (no interval)`."""
    plus = "+" if sign else ""
    if estimate is None:
        return "undefined"
    if low is None or high is None:
        return f"{estimate:{plus}.4g} (no interval)"
    down, up = estimate - low, high - estimate
    places = decimals((high - low) / 2)
    if min(down, up) > 0 and max(down, up) <= 1.25 * min(down, up):
        return f"{estimate:{plus}z.{places}f} ± {(high - low) / 2:.{places}f}"
    return f"{estimate:{plus}z.{places}f} ({span(low, high)})"


def span(low: float, high: float) -> str:
    """`1.9 to 6.0`; z: a zero has no minus."""
    places = decimals((high - low) / 2)
    return f"{low:z.{places}f} to {high:z.{places}f}"


def with_span(estimate: float, low: float, high: float, sign: bool = False) -> str:
    """`+4.1 (1.9 to 6.0)`."""
    return f"{estimate:{'+' if sign else ''}z.{decimals((high - low) / 2)}f} ({span(low, high)})"


def p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def number(count: float) -> str:
    """A size to two or three figures: 2,300, not 2,312.7."""
    if count < 100:
        return f"{count:.0f}"
    step = 10 ** (math.floor(math.log10(count)) - 1)
    return f"{round(count / step) * step:,.0f}"


def percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def count_of(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def describe_interval(result: "Interval", metric: str = "score", group: str = "group") -> str:
    """`f1 71.2 ± 1.6: 95 % interval over 10,570 items from 48 articles.`"""
    if result.low is None:
        return f"{metric} {result}: no interval, because {result.note}."
    note = f" Note: {result.note}." if result.note else ""
    source = f"{count_of(result.items, 'item')} from {count_of(result.clusters, group)}"
    return f"{metric} {result}: {percent(result.confidence)} interval over {source}.{note}"


def describe_difference(result: "Difference", first: str = "A", second: str = "B") -> str:
    """Who is better, by how much, and whether that can be told from chance."""
    if result.p_value is None:
        return f"{first} and {second} cannot be compared: {result.note}."
    ahead, behind = (first, second) if result.difference >= 0 else (second, first)
    size = plus_minus(*_turned(result))
    p = p_words(result.p_value)
    seen = f"{count_of(result.items, 'item')} in {count_of(result.clusters, 'group')}"
    note = f" In the interval: {result.note}." if result.note.startswith("test set") else ""
    if result.p_value < 1 - result.confidence:
        return f"{ahead} scores higher than {behind} by {size} ({p}; the same {seen}).{note}"
    return (
        f"{first} and {second} cannot be told apart: the difference is {result} ({p}; the same {seen}). "
        f"That does not show that they are equal.{note}"
    )


def _turned(result: "Difference") -> tuple[float, float | None, float | None]:
    if result.low is None:
        return abs(result.difference), None, None
    if result.difference >= 0:
        return result.difference, result.low, result.high
    return -result.difference, -result.high, -result.low


def describe_tie(result: "Tie") -> str:
    """The best cell, what it is tied with, and what it beats."""
    tied = [name for name in result.tied if name != result.best]
    if not result.worse and not tied:
        return f"{result.best} is the only cell."
    if not tied:
        return (
            f"{result.best} is best, and better than {'each of the others' if len(result.worse) > 1 else 'the other'}."
        )
    beats = f" It is better than {', '.join(result.worse)}." if result.worse else " Nothing here is shown to be worse."
    return f"{result.best} scores highest, but cannot be told from {', '.join(tied)}.{beats}"


def describe_detectable(size: float | None, power: float = 0.8) -> str:
    """What this evaluation could have seen."""
    if size is None:
        return "With fewer than two groups no difference, however large, could have been shown."
    return (
        f"The smallest true difference that this evaluation would have found, with a chance of {percent(power)}, "
        f"is {size:.{decimals(size)}f}; smaller ones can hide in the noise."
    )


def describe_components(result: "Components") -> str:
    """The cell's interval and where its uncertainty comes from."""
    if result.total.low is None:
        return f"{result.total}: no interval, because {result.total.note}."
    note = f"{result.note[:1].upper()}{result.note[1:]}."
    if not result.shares:
        return f"{result.total}. {note}"
    shares = ", ".join(f"{name} {percent(share)}" for name, share in result.shares)
    luck = f" {describe_unseen(result.unseen, result.runs)}" if result.unseen else ""
    return f"{result.total}. Of its uncertainty (variance): {shares}. {note}{luck}"


def describe_unseen(size: float, runs: int) -> str:
    """A noise that was not seen is not known to be none."""
    return (
        f"The {runs} runs differ by no more than the test items explain, so luck of the runs shows as 0; so few runs "
        f"cannot rule out that it adds up to ± {2 * size:.{decimals(2 * size)}f}."
    )


def describe_curve(curve: "Curve", factor: float = 10.0, target: float | None = None) -> list[str]:
    """What more data buys, the size for a target, and whether the curve can be believed: one sentence each."""
    if curve.refusal:
        return [f"No learning curve: {curve.refusal}."]
    warnings = [line for line in (_describe_fit(curve), describe_check(curve)) if line]
    if curve.misfit:
        return warnings  # what a wrong law would promise is not printed
    lines = [describe_gain(curve, factor)]
    if target is not None:
        lines.append(describe_size(curve, target))
    lines.append(_describe_plateau(curve))
    return lines + warnings if curve.trusted else warnings + lines  # what must be read first comes first


def describe_gain(curve: "Curve", factor: float) -> str:
    """`Ten times the data buys +4.1 (1.9 to 6.0): ...`"""
    gain = curve.gain(factor)
    times = {2.0: "Twice", 3.0: "Three times", 4.0: "Four times", 10.0: "Ten times"}.get(factor, f"{factor:g} times")
    if curve.leaves_scale([factor * curve.sizes[-1]])[0]:
        return (
            f"The curve would leave the scale ({curve.bounds[0]:g} to {curve.bounds[1]:g}) before {times.lower()} the data, "
            f"n = {number(factor * curve.sizes[-1])}, so it must bend earlier, and these points do not show where: what so "
            "much data buys cannot be told. Add a larger size."
        )
    return (
        f"{times} the data buys {with_span(gain.estimate, gain.low, gain.high, sign=True)} over the largest size "
        f"tried, n = {curve.sizes[-1]:,}, if the curve goes on as it did."
    )


def describe_size(curve: "Curve", target: float) -> str:
    """`n for 70: 2,300 (1,400 to 5,100), beyond the largest n tried`"""
    need = curve.size_for(target)
    if need.low is None:
        return f"n for {target:g}: not within {number(need.limit)} examples by this curve; {need.note}."
    if need.estimate is None:
        return f"n for {target:g}: at least {number(need.low)}, perhaps never; {need.note}."
    if need.estimate <= curve.sizes[0]:
        return f"n for {target:g}: reached by the smallest size tried, n = {curve.sizes[0]:,}."
    low, beyond = number(need.low), ", beyond the largest n tried" if need.estimate > curve.sizes[-1] else ""
    range_ = f"at least {low}, perhaps never" if need.high is None else f"{low} to {number(need.high)}"
    return f"n for {target:g}: {number(need.estimate)} ({range_}){beyond}."


def _describe_plateau(curve: "Curve") -> str:
    plateau = curve.plateau()
    if plateau.low is None or plateau.high is None:
        return f"Where the curve ends cannot be told: {plateau.note}."
    return f"The curve flattens out at {with_span(plateau.estimate, plateau.low, plateau.high)}."


def _describe_fit(curve: "Curve") -> str:
    if curve.misfit_p is None:
        return "Whether the law fits cannot be tested: there is one run per size."
    if curve.misfit:
        p = p_words(curve.misfit_p)
        return f"The points do not follow a - b n^(-c) ({p}): what more data buys cannot be told."
    return ""


def describe_check(curve: "Curve") -> str:
    """The fit without the largest size, predicting that size."""
    check = curve.check
    if check is None:
        return ""
    measured = f"{check.measured:.{decimals((check.high - check.low) / 2)}f}"
    verdict = "as predicted" if check.agrees else "outside what it predicted: do not trust this curve beyond its points"
    return (
        f"Fitted without n = {check.size:,}, the curve predicts "
        f"{with_span(check.predicted, check.low, check.high)} there; measured {measured}, {verdict}."
    )
