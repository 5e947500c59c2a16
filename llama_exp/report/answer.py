"""The answer of a comparison: how much data and how much rank are enough, how sure that is, and what to run next.

answer_of(c, prices, root)   -> Answer       written to report/answer.json; its sentences head the page and the terminal

Sizes and ranks are weighed by the curves of the best cell's panel (statistics/learning_curve/advice.py). With a single
size there is no curve: then the ranks are weighed by their differences item by item.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.formatting import format_duration, format_money, format_score, percent, round_count, with_range
from llama_exp.report import costs
from llama_exp.report.cells import Cell, Comparison, Panel
from llama_exp.report.costs import Prices
from llama_exp.report.labels import dataset_name, key_name, key_value, panel_name, title
from llama_exp.report.load import RunRecord
from llama_exp.report.next_command import similar_run_command
from llama_exp.report.templating import Sentences
from llama_exp.report.tuning import nearest_cell, settings_at_edge
from llama_exp.sanitize import as_dict, as_int

if TYPE_CHECKING:
    from llama_exp.statistics.learning_curve import Band

SCHEMA = 1  # of answer.json; docs/answer.md
SAY = Sentences("answer")
FACTORS = (2.0, 10.0)  # times the largest size tried
FEW_GROUPS = 12  # of test items: with fewer, which they are decides the score
LITTLE = 0.02  # a next run that narrows less than this is not worth its price
CENTS = 0.01  # tolerance: this share of the scale, or of the best score where the scale has no ends


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, band: "Band") -> "Estimate":
        return cls(band.estimate, band.low, band.high)


@dataclass(frozen=True, slots=True)
class Recommended:
    """The cheapest cell that suffices.

    score      expected at this cell
    measured   its own mean score, where it was run
    tuned      {key: value} that validation chose for the nearest cell of this rank
    at_edge    the keys of these whose value is the lowest or highest tried: beyond it may be better
    tolerance  how far below the best of the grid it may lie
    sure       probability that it lies no further below
    """

    rank: int
    examples: int | None
    score: Estimate | None
    tolerance: float
    sure: float
    measured: float | None = None
    tuned: dict[str, Any] = dataclasses.field(default_factory=dict)
    at_edge: tuple[str, ...] = ()
    few_groups: bool = False  # of test items, so that its `sure` is not to be relied on

    @property
    def confident(self) -> bool:
        """Whether it is a recommendation, not a best guess."""
        from llama_exp.statistics.learning_curve.advice import SURE  # numpy

        return self.sure >= SURE and not self.few_groups

    @property
    def how_sure(self) -> str:
        """`93 %`: as it is printed."""
        return percent(self.sure) if self.sure < 0.995 else "over 99 %"


@dataclass(frozen=True, slots=True)
class Gain:
    """What `examples`, `factor` times the largest size tried, bring over that size at the recommended rank."""

    examples: int
    factor: float
    gain: Estimate


@dataclass(frozen=True, slots=True)
class RankCost:
    """What another rank changes at the recommended number of examples."""

    rank: int
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Next:
    """The run that tells most for its price.

    narrowing   of the interval of what twice the data buys; None: with one size there is none to narrow
    seconds     of training
    """

    command: str
    rank: int
    examples: int
    narrowing: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class SeedsNeeded:
    """Runs that each of two cells needs to find a true difference in 4 of 5 experiments; None: over 1,000."""

    difference: float
    seeds: int | None


@dataclass(frozen=True, slots=True)
class Luck:
    """How far single runs of one cell lie apart: a standard deviation, beyond the chance of the test items.

    samples    data seeds among the runs; with one, the luck of the sample is not in the spread
    as_scored  the standard deviation with that chance, which decides how many runs are needed
    setting    of several panels, what sets the cell's apart
    """

    rank: int
    examples: int | None
    runs: int
    samples: int
    spread: Estimate
    as_scored: float
    setting: str
    seeds_needed: tuple[SeedsNeeded, ...]


@dataclass(frozen=True, slots=True)
class Spent:
    """What the answer cost: training and evaluation of every run in it."""

    runs: int
    seconds: float
    money: float | None
    currency: str


@dataclass(frozen=True, slots=True)
class CellScore:
    """A point of the learning curve: a cell's mean score over `runs`, its 95 % interval, and what a run of it cost.

    seconds, money  of training; None where that is not known
    """

    rank: int
    examples: int | None
    runs: int
    score: float
    low: float | None
    high: float | None
    seconds: float | None
    money: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One object of report/answer.json. Fields without a value are null; unknown: why, in sentences.

    available  training examples that the data have, where that is known
    chosen_by  which split's scores chose the best cell
    setting  what sets the best panel apart, such as its learning rate: sizes and ranks are of that panel
    cells  the scores of that panel, by rank and size
    """

    dataset: str
    title: str
    split: str
    items: int | None
    metric: str
    lower_is_better: bool
    untuned: float | None
    recommended: Recommended | None
    chosen_by: str = ""
    setting: str = ""
    available: int | None = None
    more_data: tuple[Gain, ...] = ()
    other_ranks: tuple[RankCost, ...] = ()
    luck: Luck | None = None
    next: Next | None = None
    spent: Spent | None = None
    cells: tuple[CellScore, ...] = ()
    unknown: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def not_told_apart(self) -> list[int]:
        """Other ranks that may do as well."""
        return [one.rank for one in self.other_ranks if one.difference.low <= 0 <= one.difference.high]

    def available_for(self, gain: Gain) -> str:
        """`1,000`: how many examples the data have, where that is fewer than this gain needs; else ""."""
        return f"{self.available:,}" if self.available is not None and gain.examples > self.available else ""


def answer_of(c: Comparison, prices: Prices, root: Path) -> Answer | None:
    """The answer of a comparison; None where one cell was scored, and not three times."""
    best = c.best()
    if not best or (len(c.cells()) < 2 and not c.luck):
        return None
    panel = best[0]
    curves = {rank: curve for rank, curve in panel.relative.items() if not curve.refusal}
    tolerance = _tolerance(c, best[1])
    untuned = panel.baseline.mean(c.metric) if panel.baseline else None
    found: Recommended | None
    if len(c.cells()) < 2:
        found = None
    elif best[1].rank == 0 and not (c.ranking and c.ranking.better):
        found = Recommended(0, None, None, tolerance, 1.0)
    elif curves:
        found = _by_curves(panel, curves, tolerance, c)
    else:
        found = _by_rank(panel, best[1], tolerance, c)
    if found and (nearest := nearest_cell(panel, found.rank, found.examples)):
        edge = settings_at_edge(panel, found.rank, found.examples)
        few = c.groups is not None and c.groups < FEW_GROUPS
        tuned = nearest.tuned if nearest.others else {}  # of one value nothing was chosen
        found = dataclasses.replace(found, tuned=tuned, at_edge=tuple(key for key, _, _ in edge), few_groups=few)
    available = max((_available(one.run) or 0 for s in panel.cells for one in s.runs), default=0) or None
    answer = Answer(
        dataset=c.dataset,
        title=title(c),
        split=c.split,
        items=c.items,
        metric=c.metric,
        lower_is_better=c.lower_is_better,
        untuned=untuned,
        recommended=found,
        chosen_by="validation" if c.validated else c.split,
        setting=panel_name(panel, c) if len(c.panels) > 1 else "",
        available=available,
        more_data=_more_data(panel, found) if found else (),
        other_ranks=_other_ranks(curves, found) if found else (),
        luck=_luck(c, best[1]),
        next=_next(panel, curves, found, available, root) if found else None,
        spent=_spent(c, prices),
        cells=_cell_scores(panel, c.metric, prices),
        unknown=_unknown(panel, c, found) if found else (),
    )
    return dataclasses.replace(answer, sentences=tuple(_sentences(answer, c)))


def _cell_scores(panel: Panel, metric: str, prices: Prices) -> tuple[CellScore, ...]:
    found = []
    for cell in sorted(panel.cells, key=lambda cell: (cell.rank, cell.size)):
        if (score := cell.mean(metric)) is None:
            continue
        interval, cost = cell.interval(metric), costs.cost(cell, prices)
        low, high = (interval.low, interval.high) if interval else (None, None)
        size = cell.examples
        found.append(CellScore(cell.rank, size, cell.seeds(metric), score, low, high, cost.seconds, cost.money))
    return tuple(found)


def _luck(c: Comparison, best: Cell) -> Luck | None:
    """With the runs that differences of 1, 2 and 5 % of the scale need."""
    if not c.luck:
        return None
    panel, cell, found = c.luck
    spread = Estimate(found.spread, found.low, found.high)
    sizes = [factor * _tolerance(c, best) for factor in (1, 2, 5)]
    needed = tuple(SeedsNeeded(size, found.seeds_needed(size)) for size in sizes)
    setting = panel_name(panel, c) if len(c.panels) > 1 else ""
    as_scored = round(found.as_scored, 4)
    return Luck(cell.rank, cell.examples, found.runs, found.samples, spread, as_scored, setting, needed)


def _tolerance(c: Comparison, best: Cell) -> float:
    """1 % of the scale, or of the best score where the scale has no ends."""
    if bounds := c.describe().bounds:
        return CENTS * (bounds[1] - bounds[0])
    return CENTS * abs(best.mean(c.metric) or 0.0)


def _by_curves(panel: Panel, curves: dict, tolerance: float, c: Comparison) -> Recommended:
    from llama_exp.statistics.learning_curve.advice import recommend  # numpy

    choice = recommend(curves, tolerance, c.lower_is_better)
    score = Estimate.of(panel.curves[choice.rank].predict(choice.examples))
    measured = [s.mean(c.metric) for s in panel.cells if (s.rank, s.examples) == (choice.rank, choice.examples)]
    measured_here = next(iter(measured), None)
    return Recommended(choice.rank, choice.examples, score, tolerance, choice.sure, measured_here)


def _by_rank(panel: Panel, best: Cell, tolerance: float, c: Comparison) -> Recommended:
    """With one size: the lowest rank that is, as surely as wanted, within the tolerance of the best."""
    from llama_exp.statistics.learning_curve.advice import SURE  # numpy

    cells = sorted((s for s in panel.cells if s.examples == best.examples), key=lambda s: s.rank)
    sure = {s.key: _within(s, best, tolerance, c) for s in cells}
    chosen = next((s for s in cells if sure[s.key] >= SURE), best)
    interval, mean = chosen.interval(c.metric), chosen.mean(c.metric)
    score = Estimate(mean, interval.low, interval.high) if interval and mean is not None else None
    return Recommended(chosen.rank, chosen.examples, score, tolerance, sure[chosen.key])


def _within(cell: Cell, best: Cell, tolerance: float, c: Comparison) -> float:
    """The probability that a cell lies no further than the tolerance below the best, by the normal distribution.

    Of the best itself: the lowest of those that another one is no further above it. 0 where nothing is known.
    """
    from scipy.special import ndtr

    known = {key: one for key, (one, _) in c.ranking.against.items()} if c.ranking else {}
    sign = -1 if c.lower_is_better else 1
    if cell.key == best.key:
        found = [(tolerance + sign * one.difference, one.standard_error) for one in known.values()]
    else:
        found = [(tolerance - sign * o.difference, o.standard_error) for key, o in known.items() if key == cell.key]
    return min((float(ndtr(room / error)) if error else 0.0 for room, error in found), default=0.0)


def _more_data(panel: Panel, found: Recommended) -> tuple[Gain, ...]:
    curve = panel.relative.get(found.rank)
    if not curve or curve.refusal:
        return ()
    return tuple(Gain(int(curve.sizes[-1] * times), times, Estimate.of(curve.gain(times))) for times in FACTORS)


def _other_ranks(curves: dict, found: Recommended) -> tuple[RankCost, ...]:
    if found.rank not in curves or found.examples is None:
        return ()
    from llama_exp.statistics.learning_curve.advice import rank_difference  # numpy

    others = [rank for rank in sorted(curves) if rank != found.rank]
    bands = [rank_difference(curves, rank, found.rank, found.examples) for rank in others]
    return tuple(RankCost(rank, Estimate.of(band)) for rank, band in zip(others, bands, strict=True))


def _next(panel: Panel, curves: dict, found: Recommended, available: int | None, root: Path) -> Next | None:
    """The run that narrows most for its price; with one size, twice that size."""
    cells = [s for s in panel.cells if s.examples and s.rank]
    if not cells:
        return None
    rank = found.rank or max(s.rank for s in cells)
    mine = [s for s in cells if s.rank == rank] or cells
    if rank not in curves:
        largest = max(s.examples or 0 for s in mine)
        size = min(2 * largest, available or 2 * largest)
        return None if size == largest else _next_run(mine, rank, size, None, root)
    from llama_exp.statistics.learning_curve.advice import next_runs  # numpy

    runs = [one for one in next_runs(curves[rank], rank, available) if one.narrowing > LITTLE]
    if not runs:
        return None
    times = {one.examples: _seconds(cells, one.examples) or 1.0 for one in runs}
    worth = [one for one in runs if one.narrowing >= runs[0].narrowing / 2]
    best = max(worth, key=lambda one: one.narrowing / times[one.examples])
    return _next_run(mine, rank, best.examples, best.narrowing, root)


def _next_run(cells: list[Cell], rank: int, size: int, narrowing: float | None, root: Path) -> Next:
    like = max((one for s in cells for one in s.runs), key=lambda one: one.run.examples or 0)
    same = [one.run for s in cells if s.examples == size for one in s.runs]
    changes = {"sample": size, "lora.r": rank}
    if same:  # the largest size once more
        changes |= {key: max(getattr(run, key) for run in same) + 1 for key in ("seed", "data_seed")}
    return Next(similar_run_command(like, changes, root), rank, size, narrowing, _seconds(cells, size))


def _available(run: RunRecord) -> int | None:
    return as_int(as_dict(run.summary.counts, "train").get("available"))


def _seconds(cells: Iterable[Cell], size: int) -> float | None:
    """Training time of a run of so many examples: a straight line through the runs there are, never below 0."""
    import numpy as np

    runs = [one.run for s in cells for one in s.runs if one.run.examples and costs.seconds(one.run)]
    if not runs:
        return None
    n, t = (np.array(values, float) for values in zip(*((r.examples, costs.seconds(r)) for r in runs), strict=True))
    slope = float(np.polyfit(n, t, 1)[0]) if len(set(n)) > 1 else float((t / n).mean())
    return float(max(t.mean() + max(slope, 0.0) * (size - n.mean()), t.min() / 2))


def _spent(c: Comparison, prices: Prices) -> Spent:
    runs = {one.run.folder: one for one in c.runs() if c.metric in one.evaluation.scores}
    trained = sum(costs.seconds(one.run) or 0.0 for one in runs.values())
    evaluations = [e for one in runs.values() for e in (one.evaluation, one.validation, one.forgetting) if e]
    scored = sum(e.results.seconds or 0.0 for e in evaluations)
    money = [costs.money(one.run, prices) for one in runs.values() if one.run.rank]
    known = sum(one for one in money if one is not None) if money and None not in money else None
    return Spent(len(runs), round(trained + scored, 1), known, prices.currency)


def _unknown(panel: Panel, c: Comparison, found_cell: Recommended) -> tuple[str, ...]:
    found = [
        SAY.at_edge(setting=key_value(key, value), name=key_name(key), highest=highest, key=key)
        for key, value, highest in settings_at_edge(panel, found_cell.rank, found_cell.examples)
    ]
    if c.groups is not None and c.groups < FEW_GROUPS:
        found.append(SAY.few_groups(groups=c.groups, items=c.items))
    if not (c.ranking and c.ranking.repeated) and all(s.seeds(c.metric) == 1 for s in panel.cells):
        found.append(SAY.one_seed())
    if panel.curves and all(curve.refusal for curve in panel.curves.values()):
        found.append(SAY.one_size(sizes=_more_sizes(panel)))
    return tuple(found)


def _more_sizes(panel: Panel) -> str:
    """`120,240,null`: sizes to try where there is one."""
    largest = max(4, *(s.size for s in panel.cells))
    last = "null" if any(s.whole for s in panel.cells) else str(largest)
    return ",".join([*(str(int(float(f"{largest / part:.1e}"))) for part in (4, 2) if largest // part), last])


def _sentences(a: Answer, c: Comparison) -> list[str]:
    """The first is the answer, the others what it rests on."""
    found, label = a.recommended, c.describe().label
    if found is None:
        return [*_luck_sentences(a, c), *_spent_sentences(a)]
    if found.rank == 0:
        score = format_score(a.untuned, c.describe().decimals)
        first = SAY.untuned(metric=label, score=score, dataset=dataset_name(c), tied=bool(c.ranking and c.ranking.tied))
        return [first, *_luck_sentences(a, c), *a.unknown, *_spent_sentences(a)]
    score = "" if found.score is None else with_range(found.score.value, found.score.low, found.score.high)
    lines = [
        SAY.recommended(
            rank=found.rank,
            examples=None if found.examples is None else f"{found.examples:,}",
            metric=label,
            score=score,
            tolerance=f"{found.tolerance:.2g}",
            points=bool(c.describe().bounds),
            sure=found.how_sure,
            setting=a.setting,
            settings=len(c.panels),
            tuned=", ".join(key_value(key, value) for key, value in found.tuned.items()),
            tuned_by=best[0].tuned_by if (best := c.best()) else "",
            measured="" if found.measured is None else format_score(found.measured, c.describe().decimals),
            confident=found.confident,
        )
    ]
    if a.more_data:
        lines.append(SAY.more_data(rank=found.rank, metric=label, **_gains(a)))
    if a.other_ranks:
        lines.append(SAY.other_ranks(ranks=[(one.rank, _signed(one.difference)) for one in a.other_ranks]))
    lines += [*_luck_sentences(a, c), *a.unknown]
    if a.next:
        lines.append(
            SAY.next_run(
                command=a.next.command,
                narrowing="" if a.next.narrowing is None else percent(a.next.narrowing),
                seconds="" if a.next.seconds is None else format_duration(a.next.seconds),
            )
        )
    return lines + _spent_sentences(a)


def _gains(a: Answer) -> dict:
    """What the sentence about more data says: the gains, what twice the data does for sure, and what there is."""
    gains = [(f"{g.factor:g}", round_count(g.examples), _signed(g.gain)) for g in a.more_data]
    twice = a.more_data[0].gain
    low, high = sorted((-twice.low, -twice.high) if a.lower_is_better else (twice.low, twice.high))
    little = a.recommended.tolerance if a.recommended else 0.0
    verdict = "little" if -little < low and high < little else "helps" if low > 0 else "harms" if high < 0 else "open"
    return {"gains": gains, "verdict": verdict, "available": a.available_for(a.more_data[0])}


def _luck_sentences(a: Answer, c: Comparison) -> list[str]:
    if not (luck := a.luck):
        return []
    needed = [
        (f"{one.difference:.2g}", f"about {one.seeds:,}" if one.seeds else "over 1,000") for one in luck.seeds_needed
    ]
    return [
        SAY.luck(
            metric=c.describe().label,
            rank=luck.rank,
            examples=f"{luck.examples:,}" if luck.examples else "all",
            runs=luck.runs,
            samples=luck.samples,
            setting=luck.setting,
            spread=with_range(luck.spread.value, luck.spread.low, luck.spread.high),
            needed=needed,
        )
    ]


def _spent_sentences(a: Answer) -> list[str]:
    if not a.spent:
        return []
    money = "" if a.spent.money is None else format_money(a.spent.money, a.spent.currency)
    return [SAY.spent(runs=a.spent.runs, time=format_duration(a.spent.seconds), money=money)]


def _signed(one: Estimate) -> str:
    return with_range(one.value, one.low, one.high, sign=True)
