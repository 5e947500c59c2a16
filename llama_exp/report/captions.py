"""A sentence or two under each figure: what it shows, in words that need no statistics."""

from typing import TYPE_CHECKING

from llama_exp.formatting import format_count, format_duration, format_money, format_score, join_list, plural
from llama_exp.report.cells import LOWER_IS_BETTER, Cell, Comparison, Panel, overlap
from llama_exp.report.costs import Prices, axis, front, priced
from llama_exp.report.labels import cell_name, every, size_of, with_span
from llama_exp.report.load import RunRecord, TrainingCurve

if TYPE_CHECKING:
    from llama_exp.statistics import Curve as LearningCurve

STAGE_WORDS = {
    "import": "Starting up",
    "load": "Loading the model",
    "data": "Preparing data",
    "train": "Training",
    "save": "Saving",
    "evaluate": "Evaluation",
}


def caption(panel: Panel, c: Comparison) -> str:
    """What a panel of scores shows: first what more data did, then what rank did."""
    placed = [s for s in panel.cells if s.examples and s.mean(c.metric) is not None]
    if not placed:
        return "Only the untuned model has been scored here."
    said = _data_effect(panel, placed, c) + _rank_effect(placed, c)
    return " ".join(said) or f"One cell so far: {size_of(placed[0])} at rank {placed[0].rank}."


def _data_effect(panel: Panel, placed: list[Cell], c: Comparison) -> list[str]:
    lines = [[s for s in placed if s.rank == r] for r in panel.ranks()]
    best = c.best()
    lines = sorted(
        (x for x in lines if len(x) > 1), key=lambda x: (bool(best) and best[1].key not in {s.key for s in x}, -len(x))
    )
    if not lines:
        return []
    first, last = min(lines[0], key=lambda s: s.examples), max(lines[0], key=lambda s: s.examples)
    a, b = first.mean(c.metric), last.mean(c.metric)
    better = (b < a) if c.metric in LOWER_IS_BETTER else (b > a)
    verdict = "more data helped" if better else "more data did not help"
    if told_apart(c, first, last) is False:
        left, right = first.interval(c.metric), last.interval(c.metric)
        among = "among so many comparisons, " if left and right and not overlap(left, right) else ""
        verdict = f"{among}a difference that chance could make"
    return [
        f"From {first.examples:,} to {size_of(last)}, rank {last.rank} goes from {with_span(c.metric, first)} "
        f"to {with_span(c.metric, last)}: {verdict}."
    ]


def _rank_effect(placed: list[Cell], c: Comparison) -> list[str]:
    by_size = {n: [s for s in placed if s.examples == n] for n in {s.examples for s in placed}}
    wide = max((n for n, group in by_size.items() if len(group) > 1), default=None)
    if wide is None:
        return []
    group = sorted(by_size[wide], key=lambda s: s.mean(c.metric), reverse=c.metric not in LOWER_IS_BETTER)
    top, bottom = group[0], group[-1]
    apart = told_apart(c, top, bottom)
    verdict = {True: ", further apart than chance explains", False: ", too close to call", None: ""}[apart]
    return [
        f"With {wide:,} examples, rank {top.rank} is ahead at {with_span(c.metric, top)} and rank "
        f"{bottom.rank} last at {with_span(c.metric, bottom)}{verdict}."
    ]


def told_apart(c: Comparison, a: Cell, b: Cell) -> bool | None:
    """Whether two cells differ by more than chance: item by item where one is the best, else by their intervals."""
    standing = c.standing
    if standing and standing.best in (a.key, b.key):
        other = b.key if standing.best == a.key else a.key
        if other in standing.against:
            return other in standing.worse
    left, right = a.interval(c.metric), b.interval(c.metric)
    return None if not (left and right) else not overlap(left, right)


def cost_caption(c: Comparison, prices: Prices) -> str:
    """How to read the line, and which cells lie on it."""
    on, known = front(c, prices), priced(c, prices)
    trained = [one for one in on if one[1].rank]
    spent = "money" if axis(c, prices) == "money" else "training time"
    names = join_list(
        (
            f"{format_score(c.metric, s.mean(c.metric))} for {_spent(x, c, prices)} ({cell_name(p, s, c)})"
            for p, s, x in trained
        ),
        6,
    )
    if not trained:
        return f"Nothing that was trained scores above the untuned model, whatever {spent} went into it."
    off = sum(s.rank > 0 for _, s, _ in known) - len(trained)
    rest = (
        f" For {'the one other' if off == 1 else f'each of the other {off}'}, something that takes no more {spent} scores "
        "at least as well."
        if off > 0
        else ""
    )
    chance = " A step that is smaller than the vertical bars may be chance." if len(trained) > 1 else ""
    return f"The line is the best score that each {spent} bought here: {names}.{rest}{chance}"


def cost_notes(c: Comparison) -> tuple[str, ...]:
    """How to read the marks."""
    notes = ["A mark is a cell: its colour the rank, the number beside it the training examples (on the line only)."]
    if c.standing and c.standing.worse:
        notes.append("Filled marks cannot be told from the best; open ones are shown to be worse.")
    return tuple(notes + [said for said in (_busy(c),) if said])


def _busy(c: Comparison) -> str:
    """What the clock also counts: whatever else the machine did."""
    runs = [one.run for _, s in c.cells() if s.rank for one in s.scored]
    speeds = [speed for speed in (_speed(run) for run in runs) if speed]
    uneven = bool(speeds) and max(speeds) > 1.5 * min(speeds)
    if not uneven and not any(run.summary.get("device") == "cpu" for run in runs):
        return ""
    said = "Times are by the clock: whatever else the machine did while a run trained is in them."
    if uneven:
        said += (
            f" These runs trained at {format_count(min(speeds))} to {format_count(max(speeds))} tokens a second: "
            "their tokens compare better than their times."
        )
    return said


def _speed(run: RunRecord) -> float | None:
    value = run.summary.get("tokens_per_second")
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else None


def _spent(x: float, c: Comparison, prices: Prices) -> str:
    return format_money(x, prices.currency) if axis(c, prices) == "money" else format_duration(x)


def curve_words(curve: "LearningCurve", target: float | None) -> list[str]:
    """What a fitted curve says of more data, or why it says nothing."""
    from llama_exp.statistics.words import describe_curve

    return describe_curve(curve, 10.0, target)


def target_of(c: Comparison, prices: Prices) -> float | None:
    """The score that more data might reach: the one asked for, else the next ten above the best."""
    best = c.best()
    if c.metric in prices.targets:
        return prices.targets[c.metric]
    if not best or c.metric in LOWER_IS_BETTER or best[1].mean(c.metric) >= 90:
        return None
    return 10.0 * (best[1].mean(c.metric) // 10 + 1)


def time_caption(bars: list[tuple[str, dict[str, float]]], shown: int) -> str:
    """Which stage took the most of the whole, and what that leaves to save."""
    totals: dict[str, float] = {}
    for _, stages in bars:
        for stage, seconds in stages.items():
            totals[stage] = totals.get(stage, 0) + seconds
    whole_time = sum(totals.values())
    first, *others = sorted((stage for stage in totals if totals[stage] > 0), key=totals.get, reverse=True)
    share = f"{_percent(totals[first] / whole_time)} of {format_duration(whole_time)} in all bars together"
    told = [s for s in others if totals[s] >= 0.01 * whole_time]
    rest = [f"{STAGE_WORDS.get(s, s).lower()} {_percent(totals[s] / whole_time)}" for s in told]
    rest = join_list(rest + ["all else under 1 % each"] * (len(told) < len(others)), 6)
    said = f"{STAGE_WORDS.get(first, first)} took the most: {share}{f'; {rest}' if rest else ''}. A bar is the mean over its seeds."
    return said + (f" The {shown} longest of {len(bars)} are shown." if len(bars) > shown else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def losses_caption(curves: dict[str, TrainingCurve]) -> str:
    """How many runs ended with a worse validation loss than they once had, by more than 2 % of it."""
    measured = {name: [y for _, y in curve.validation] for name, curve in curves.items() if len(curve.validation) > 1}
    rises = {name: losses[-1] - min(losses) for name, losses in measured.items() if losses[-1] > 1.02 * min(losses)}
    if not measured:
        return "No validation loss was measured."
    if not rises:
        return f"In {every(len(measured), 'run')} the validation loss ended at its best or within 2 % of it."
    worst = max(rises, key=rises.get)
    return (
        f"In {len(rises)} of {plural(len(measured), 'run')} the validation loss rose again before the end, "
        f"most in {worst}: from {min(measured[worst]):.2f} to {measured[worst][-1]:.2f}."
    )
