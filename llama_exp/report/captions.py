"""A sentence or two under each figure and table: what it shows, and how to read it.

The wording is in templates/captions.jinja.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from llama_exp.formatting import format_count, format_duration, format_money, format_score, percent
from llama_exp.report import costs
from llama_exp.report.cells import Cell, Comparison, Panel, overlap
from llama_exp.report.costs import Prices
from llama_exp.report.findings import samples_shrunk
from llama_exp.report.labels import (
    STAGE_NAMES,
    cell_name,
    counted,
    forgotten_dataset,
    provenance,
    size_of,
    with_interval,
)
from llama_exp.report.load import RunRecord, TrainingCurve
from llama_exp.report.templating import Sentences
from llama_exp.sanitize import as_dict, as_float

if TYPE_CHECKING:
    from llama_exp.statistics.learning_curve import LearningCurve

SAY = Sentences("captions")


def scores_caption(panel: Panel, c: Comparison) -> str:
    """What a panel of scores shows: first the effect of more data, then that of rank."""
    cells = [s for s in panel.cells if s.examples and s.mean(c.metric) is not None]
    if not cells:
        return SAY.only_untuned()
    effects = filter(None, (_data_effect(panel, cells, c), _rank_effect(cells, c)))
    return " ".join(effects) or SAY.one_cell(size=size_of(cells[0]), rank=cells[0].rank)


def _data_effect(panel: Panel, cells: list[Cell], c: Comparison) -> str:
    """Of the line that holds the best cell, else of the longest."""
    best = next((cell.key for _, cell in c.ranked()), None)
    lines = [[s for s in cells if s.rank == rank] for rank in panel.ranks()]
    lines = [line for line in lines if len(line) > 1]
    if not lines:
        return ""
    line = min(lines, key=lambda x: (best is not None and best not in {s.key for s in x}, -len(x)))
    first, last = min(line, key=lambda s: s.size), max(line, key=lambda s: s.size)
    a, b = first.score(c.metric), last.score(c.metric)
    return SAY.data_effect(
        rank=last.rank,
        first_size=f"{first.examples:,}",
        first=with_interval(c, first),
        last_size=size_of(last),
        last=with_interval(c, last),
        helped=b < a if c.lower_is_better else b > a,
        verdict=difference_verdict(c, first, last),
    )


def _rank_effect(cells: list[Cell], c: Comparison) -> str:
    """At the largest size that several ranks were trained on."""
    by_size = {n: [s for s in cells if s.size == n] for n in {s.size for s in cells}}
    size = max((n for n, group in by_size.items() if len(group) > 1), default=None)
    if size is None:
        return ""
    group = sorted(by_size[size], key=lambda s: s.score(c.metric), reverse=not c.lower_is_better)
    top, bottom = group[0], group[-1]
    return SAY.rank_effect(
        size=f"{size:,}",
        top=top.rank,
        top_score=with_interval(c, top),
        bottom=bottom.rank,
        bottom_score=with_interval(c, bottom),
        verdict=difference_verdict(c, top, bottom),
    )


def difference_verdict(c: Comparison, a: Cell, b: Cell) -> str:
    """ "significant" or "tied" where one of them is the best and they were compared item by item; else whether their
    intervals "overlap" or lie "apart"; "" without intervals."""
    if c.ranking and c.ranking.best in (a.key, b.key):
        other = b.key if c.ranking.best == a.key else a.key
        if other in c.ranking.against:
            return "tied" if other in c.ranking.tied else "significant"
    left, right = a.interval(c.metric), b.interval(c.metric)
    if not (left and right):
        return ""
    return "overlap" if overlap(left, right) else "apart"


def scores_notes(panel: Panel, c: Comparison, runs: list[RunRecord]) -> list[str]:
    """How to read a panel of scores, and what else differs within it."""
    cells = [s for s in panel.cells if s.mean(c.metric) is not None]
    members = {one.run.folder for s in cells for one in s.runs}
    differing = provenance(r for r in runs if r.folder in members).items()
    without_size = sum(not s.examples for s in cells)
    notes = [
        _bars(panel, cells, c),
        SAY.filled_marks() if c.ranking and c.ranking.worse else "",
        SAY.fitted_curves() if any(not curve.refusal for curve in panel.curves.values()) else "",
        *(
            SAY.follows_rank(key=key, values=[f"{value} at rank {rank}" for rank, value in sorted(by_rank.items())])
            for key, by_rank in panel.follows_rank.items()
        ),
        *(SAY.runs_differ(what=what, values=counted(values)) for what, values in differing if len(values) > 1),
        samples_shrunk(cells),
        SAY.without_size(cells=without_size) if without_size else "",
    ]
    return [note for note in notes if note]


def _bars(panel: Panel, cells: list[Cell], c: Comparison) -> str:
    several = any(s.seeds(c.metric) > 1 for s in cells)
    if not any(s.interval(c.metric) for s in cells):
        return SAY.no_bars(several=several)
    training = any(s.known.get(c.metric) and s.known[c.metric].shares for s in cells)
    band = bool(panel.baseline and panel.baseline.interval(c.metric))
    return SAY.bars(band=band, training=training, one_seed=not training and not several, several=several)


def forgetting_caption(c: Comparison) -> str:
    items = max(cell.forgot.items for _, cell in c.cells() if cell.forgot)
    return SAY.forgetting(dataset=forgotten_dataset(c), items=f"{items:,}")


def cost_caption(c: Comparison, prices: Prices) -> str:
    """Which cells are on the line of the best scores for their cost."""
    front = [one for one in costs.front(c, prices) if one[1].rank]
    trained = sum(s.rank > 0 for _, s, _ in costs.priced(c, prices))
    points = [
        SAY.cost_point(
            score=format_score(s.mean(c.metric), c.describe().decimals),
            cost=costs.format_cost(x, c, prices),
            cell=cell_name(p, s, c),
        )
        for p, s, x in front
    ]
    axis = "money" if costs.axis(c, prices) == "money" else "training time"
    return SAY.cost(axis=axis, points=points, off=trained - len(front))


def cost_notes(c: Comparison) -> list[str]:
    """How to read the marks, and that the clock counts other work too, where that shows."""
    runs = [one.run for _, s in c.cells() if s.rank for one in s.runs]
    speeds = [speed for run in runs if (speed := run.summary.tokens_per_second or 0) > 0]
    uneven = bool(speeds) and max(speeds) > 1.5 * min(speeds)
    notes = [SAY.cost_marks()]
    if c.ranking and c.ranking.worse:
        notes.append(SAY.filled_marks())
    if uneven or any(run.summary.device == "cpu" for run in runs):
        slowest, fastest = (format_count(end(speeds)) if uneven else "" for end in (min, max))
        notes.append(SAY.wall_clock(slowest=slowest, fastest=fastest))
    return notes


def costs_explained(c: Comparison, prices: Prices) -> str:
    """What the table of costs counts, and why some of it is unknown."""
    found = [costs.cost(s, prices) for _, s in c.cells() if s.rank]
    price = prices.price_per_gpu_hour
    return SAY.costs_explained(
        money_unknown=any(one.money is None for one in found),
        price="" if price is None else format_money(price, prices.currency),
        energy_unknown=any(one.energy is None for one in found),
        no_energy=all(one.energy is None for one in found),
    )


def curve_sentences(curve: "LearningCurve", target: float | None, relative: "LearningCurve | None" = None) -> list[str]:
    """What a fitted curve says about more data, or why it says nothing.

    `relative`: the curve without the luck that all cells share, by which the answer tells gains: one number a page.
    """
    from llama_exp.statistics import messages  # numpy

    said = messages.describe_curve(curve, target)
    if curve.refusal or relative is None or relative.refusal:
        return said
    return [*(messages.describe_gain(relative, factor) for factor in (2.0, 10.0)), *said[2:]]


def target_score(c: Comparison, prices: Prices) -> float | None:
    """The score that more data might reach: the requested one, else the next multiple of ten above the best."""
    best = c.best()
    if c.metric in prices.targets:
        return prices.targets[c.metric]
    if not best or c.lower_is_better or best[1].score(c.metric) >= 90:
        return None
    return 10.0 * (best[1].score(c.metric) // 10 + 1)


def time_caption(bars: list[tuple[str, dict[str, float]]], shown: int) -> str:
    """Which stage took most of the time."""
    totals: dict[str, float] = {}
    for _, stages in bars:
        for stage, seconds in stages.items():
            totals[stage] = totals.get(stage, 0) + seconds
    whole = sum(totals.values())
    first, *others = sorted((stage for stage in totals if totals[stage] > 0), key=totals.__getitem__, reverse=True)
    shares = [f"{STAGE_NAMES.get(s, s)} {percent(totals[s] / whole)}" for s in others if totals[s] >= 0.01 * whole]
    return SAY.time_spent(
        first=STAGE_NAMES.get(first, first).capitalize(),
        share=percent(totals[first] / whole),
        whole=format_duration(whole),
        others=shares + ["all else under 1 % each"] * (len(shares) < len(others)),
        shown=shown,
        bars=len(bars),
    )


def losses_caption(curves: dict[str, TrainingCurve]) -> str:
    """How many runs ended with a validation loss that is more than 2 % worse than their best."""
    measured = {name: [y for _, y in curve.validation] for name, curve in curves.items() if len(curve.validation) > 1}
    rises = {name: losses[-1] - min(losses) for name, losses in measured.items() if losses[-1] > 1.02 * min(losses)}
    worst = max(rises, key=rises.__getitem__, default="")
    return SAY.losses(
        measured=len(measured),
        rose=len(rises),
        worst=worst,
        low=f"{min(measured[worst]):.2f}" if worst else "",
        last=f"{measured[worst][-1]:.2f}" if worst else "",
    )


def dropped_explained(runs: Iterable[RunRecord]) -> str:
    """The most examples that any run lost before training, and the most answers that were cut off."""
    counts = [found for run in runs if (found := as_dict(run.summary.counts, "train"))]

    def most(value) -> int:
        return int(max(map(value, counts), default=0))

    return SAY.dropped(
        examples=max(most(lambda c: (as_float(c.get("sampled")) or 0) - (as_float(c.get("encoded")) or 0)), 0),
        prompts=most(lambda c: as_float(c.get("answers_lost")) or 0),
    )
