"""What a comparison's numbers are worth, computed from the items: intervals over all seeds, who is tied, curves.

    Comparison from compare.py  +  Items of its evaluations  ->  the same Comparison, weighed

Scipy is imported here, and this module only once there is something to compare.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llama_exp.metrics import likelihood
from llama_exp.report.cells import Cell, Comparison, ExactTest, Panel, ScoredRun
from llama_exp.report.items import EvaluationItems, sums_by_group
from llama_exp.report.labels import cell_name
from llama_exp.report.load import EvaluationRecord, StoredInterval
from llama_exp.statistics.comparisons import shared_ids
from llama_exp.statistics.exact import first_against_second
from llama_exp.statistics.learning_curve import LearningCurve, Series
from llama_exp.statistics.learning_curve.fit import fit_points
from llama_exp.statistics.ranking import Contender, rank_cells
from llama_exp.statistics.run_luck import RunLuck, run_luck
from llama_exp.statistics.single_runs import SCENARIOS, relative_scatter
from llama_exp.statistics.variance import RunSums, variance_components

Reader = Callable[[EvaluationRecord], EvaluationItems | str]
Curves = dict[int, LearningCurve]  # by rank


@dataclass(frozen=True, slots=True)
class CellItems:
    """A cell's runs, item by item, in the order of the sorted ids: one Items per run, the same ids in all."""

    cell: Cell
    runs: tuple[ScoredRun, ...]
    items: tuple[EvaluationItems, ...]
    order: tuple[tuple[int, ...], ...]  # per run, the places of the sorted ids in its file

    def ids(self) -> list[str]:
        return [self.items[0].ids[i] for i in self.order[0]]

    def groups(self) -> list[str]:
        return [self.items[0].groups[i] for i in self.order[0]]

    def values(self, run: int, metric: str) -> np.ndarray:
        return self.items[run].values(metric)[list(self.order[run])]

    def weights(self, metric: str) -> np.ndarray:
        return self.items[0].weights(metric)[list(self.order[0])]

    def table(self, metric: str) -> RunSums:
        return sums_by_group(self.items, metric, self.order)

    def seeds(self) -> tuple[tuple[int, int], ...]:
        return tuple((s.run.data_seed, s.run.seed) for s in self.runs)


def analyse(c: Comparison, read: Reader) -> Comparison:
    """The comparison with everything that its items tell."""
    answered: dict = {}
    for _, cell in c.cells():
        answered[cell.key] = cell_items(cell, c.metric, read)
    known = {key: _intervals(one, c) for key, one in answered.items() if isinstance(one, CellItems)}

    def informed(cell: Cell) -> Cell:
        return replace(cell, known=known[cell.key]) if cell.key in known else cell

    def analysed(panel: Panel) -> Panel:
        curves, relative = _curves(panel, c, answered)
        baseline = informed(panel.baseline) if panel.baseline else None
        cells = tuple(map(informed, panel.cells))
        return replace(panel, cells=cells, baseline=baseline, curves=curves, relative=relative)

    panels = tuple(map(analysed, c.panels))
    c = replace(c, panels=panels)
    return _with_ranking(replace(c, luck=_luck(c, answered)), answered)


def cell_items(cell: Cell, metric: str, read: Reader) -> CellItems | str:
    """The cell's items, or the reason why they cannot be used."""
    scored = [s for s in cell.runs if metric in s.evaluation.scores]
    runs = [(s.run.data_seed, s.run.seed) for s in scored]
    if len(set(runs)) < len(runs):
        return "two of its runs have the same seeds"
    found: list[EvaluationItems] = []
    for its in scored:
        answers = read(its.evaluation)
        if isinstance(answers, str):
            return answers
        if not answers.can(metric):
            return f"{metric} is not stored item by item"
        found.append(answers)
    orders = [sorted(range(len(one.ids)), key=one.ids.__getitem__) for one in found]
    first = [(found[0].ids[i], found[0].groups[i]) for i in orders[0]]
    for one, order, its in zip(found[1:], orders[1:], scored[1:], strict=True):
        if [(one.ids[i], one.groups[i]) for i in order] != first:
            return _other_items(found[0], scored[0].evaluation.folder, one, its.evaluation.folder)
    return CellItems(cell, tuple(scored), tuple(found), tuple(map(tuple, orders)))


def contender(one: CellItems, metric: str) -> Contender:
    relative = float(relative_scatter(np.array(one.cell.size or 1000)))
    return Contender(one.cell.key, one.table(metric), one.seeds(), one.cell.rank == 0, relative)


def _other_items(a: EvaluationItems, one, b: EvaluationItems, other) -> str:
    """Which ids differ."""
    try:
        shared_ids({str(one): dict.fromkeys(a.ids, 0.0), str(other): dict.fromkeys(b.ids, 0.0)})
    except ValueError as error:
        return str(error)
    return "the same items have other groups"


def _intervals(one: CellItems, c: Comparison) -> dict[str, StoredInterval]:
    """{metric: interval}: of one run the stored one, of several with the noise of training and sampling in it."""
    found = {}
    for metric in c.metrics:
        stored = one.cell.interval(metric)
        if len(one.items) == 1:
            about = "test set only" + ("; one training seed" if one.cell.rank else "")
            if stored:
                found[metric] = replace(stored, note="; ".join(filter(None, (about, stored.note.replace(about, "")))))
        elif all(
            metric in s.evaluation.scores and items.can(metric) for s, items in zip(one.runs, one.items, strict=True)
        ):
            interval = _interval_of_runs(one, metric, c.describe(metric).limits)
            if interval:
                found[metric] = interval
    return found


def _interval_of_runs(one: CellItems, metric: str, bounds: tuple[float, float]) -> StoredInterval | None:
    table, draws = one.table(metric), [data_seed for data_seed, _ in one.seeds()]
    if metric in likelihood.SCORES:  # the table is of losses
        bounds = likelihood.LOSS.limits
    parts = variance_components(table, draws, bounds=bounds)
    total = parts.total
    if total.estimate is None or total.low is None or total.high is None:
        return None
    low, high = total.low, total.high
    if metric == "perplexity":  # of the mean of the runs' perplexities: the interval of the loss, moved to that mean
        centre = one.cell.score(metric) / math.exp(total.estimate)
        low, high = (max(centre * math.exp(end), 1.0) for end in (low, high))
    shares = tuple((part.name, part.share, part.low, part.high) for part in parts.parts)
    return StoredInterval(low, high, total.method, total.note, shares, parts.unseen)


def _luck(c: Comparison, answered: dict[Path, CellItems | str]) -> tuple[Panel, Cell, RunLuck] | None:
    """How far runs lie apart, of the cell that has most of them; of equals, one of the best panel."""
    best = c.best()
    trained = [(p, answered[s.key]) for p, s in c.cells() if s.rank]
    known = [(p, one) for p, one in trained if isinstance(one, CellItems)]
    if c.metric == "perplexity" or not known or not best:  # items have losses: their scatter is in other units
        return None
    panel, most = max(known, key=lambda pair: (len(pair[1].runs), pair[0] is best[0]))
    found = run_luck(most.table(c.metric), [data_seed for data_seed, _ in most.seeds()])
    return (panel, most.cell, found) if found else None


def _curves(panel: Panel, c: Comparison, answered: dict) -> tuple[Curves, Curves]:
    """What more data bought, rank by rank, from the items where all runs have them; else from the runs' scores.

    Two fits: with all noise, and on these test items.
    """
    series = {rank: found for rank in panel.ranks() if (found := _series(panel, rank, c, answered))}
    points = {rank: one.points for rank, one in series.items()}
    here = {rank: one.on_these_items() for rank, one in points.items()}
    bounds, rises = c.describe().limits, not c.lower_is_better
    return fit_points(points, bounds, rises=rises), fit_points(here, bounds, rises=rises)


def _series(panel: Panel, rank: int, c: Comparison, answered: dict) -> Series | None:
    """The runs of one rank, with their scores item by item where these are comparable."""
    metric = c.metric
    line = [s for s in panel.cells if s.rank == rank and s.examples and s.mean(metric) is not None]
    if not line:
        return None
    items = [one for s in line if isinstance(one := answered.get(s.key), CellItems)]
    paired = len(items) == len(line) and all(one.ids() == items[0].ids() for one in items)
    runs: list[tuple[int, int, Any]]
    groups: dict[str, str] | None
    if metric not in likelihood.SCORES and paired:
        runs = [
            (i.cell.size, data_seed, dict(zip(i.ids(), i.values(r, metric), strict=True)))
            for i in items
            for r, (data_seed, _) in enumerate(i.seeds())
        ]
        groups = dict(zip(items[0].ids(), items[0].groups(), strict=True))
    else:
        runs = [
            (s.size, one.run.data_seed, one.evaluation.scores[metric])
            for s in line
            for one in s.runs
            if metric in one.evaluation.scores
        ]
        groups = None
    sizes, draws, scores = zip(*runs, strict=True)
    return Series(sizes, scores, groups, draws)


def _with_ranking(c: Comparison, answered: dict) -> Comparison:
    """With the ranking of all cells that answered the best one's items; the others are named with the reason."""
    ranked = c.ranked()
    if len(ranked) < 2:
        return c
    first = answered[ranked[0][1].key]
    if not isinstance(first, CellItems):
        return replace(c, unpaired=f"Not compared item by item: {first}.")
    contenders, refused = [], []
    for panel, cell in ranked:
        one = answered[cell.key]
        if not isinstance(one, CellItems):
            refused.append((cell_name(panel, cell, c), cell.key, one))
        elif (one.ids(), one.groups()) != (first.ids(), first.groups()):
            why = _other_items(first.items[0], cell_name(*ranked[0], c), one.items[0], cell_name(panel, cell, c))
            refused.append((cell_name(panel, cell, c), cell.key, why))
        else:
            contenders.append(contender(one, c.metric))
    names = "; ".join(f"{name} ({why})" for name, _, why in refused[:4])
    more = f" and {len(refused) - 4} more" if len(refused) > 4 else ""
    unpaired = f"Not compared item by item: {names}{more}." if refused else ""
    if len(contenders) < 2:
        return replace(c, unpaired=unpaired)
    limits = c.describe("loss" if c.metric == "perplexity" else "").limits
    scatters = None if c.metric == "perplexity" else _scatters(c)
    ranking = rank_cells(contenders, limits, scatters, not c.validated, c.lower_is_better)
    return replace(
        c,
        ranking=replace(ranking, refused=tuple((k, w) for _, k, w in refused)),
        unpaired=unpaired,
        exact=_exact_test([answered[one.key] for one in contenders], c),
    )


def _scatters(c: Comparison) -> np.ndarray | None:
    """How much runs scatter by the learning curves: equally likely standard deviations; None without a curve."""
    curves = [curve for panel in c.panels for curve in panel.relative.values() if not curve.repeated]
    draws = [curve.draws.scatters for curve in curves if curve.draws]
    return np.quantile(np.concatenate(draws), (np.arange(SCENARIOS) + 0.5) / SCENARIOS) if draws else None


def _exact_test(ranked: list[CellItems], c: Comparison) -> ExactTest | None:
    """The first of `ranked` against the second, on the first metric that is right or wrong on every item.

    None where there is no such metric, or where one of the two has several runs: to this test a lucky seed is skill.
    """
    if len(ranked) < 2 or any(len(one.items) > 1 for one in ranked[:2]):
        return None
    single = [one for one in ranked if len(one.items) == 1]
    for metric in (name for name in c.metrics if c.describe(name).binary):
        if any(metric not in one.items[0].scores for one in single):
            continue
        right = [one.values(0, metric) for one in single]
        if not all(np.isin(row, (0, 100)).all() for row in right):
            continue
        ids = single[0].ids()
        rows = [dict(zip(ids, row.tolist(), strict=True)) for row in right]
        test = first_against_second(rows, dict(zip(ids, single[0].groups(), strict=True)))
        shares = float(right[0].mean()), float(right[1].mean())
        return ExactTest(metric, single[1].cell.key, *shares, test.p_value, test.comparisons, test.note)
    return None
