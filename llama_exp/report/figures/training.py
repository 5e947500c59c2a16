"""Losses during training, and the time that each stage took."""

from collections.abc import Iterable

from matplotlib.figure import Figure

from llama_exp.formatting import format_duration
from llama_exp.report.compare import RunGroup, group_runs
from llama_exp.report.figures.style import INK, MUTED, STAGES, WIDE, colour, styled, time_unit
from llama_exp.report.labels import STAGE_NAMES, key_value, seconds_by_stage
from llama_exp.report.load import RunRecord, TrainingCurve
from llama_exp.report.loss_note import Points

ACROSS, ROWS, BARS, POINTS = 8, 8, 40, 160
VISIBLE = 0.004  # of the longest bar: less is no wider than a hair


@styled
def draw_losses(group: RunGroup, curves: dict) -> list:
    """Small multiples: a tile per size and rank; pale = training, strong = validation; every seed has its own lines."""
    tiles: dict[tuple, list[TrainingCurve]] = {}
    for run in sorted(group.runs, key=lambda r: (r.rank, r.examples or 0)):
        curve = curves.get(run.folder)
        if curve and (curve.train or curve.validation):
            tiles.setdefault((run.rank, run.examples), []).append(curve)
    if not tiles:
        return []
    sizes, ranks = (sorted({key[i] or 0 for key in tiles}) for i in (1, 0))
    every = [c for group in tiles.values() for c in group]
    limits = loss_limits([c.train for c in every], [c.validation for c in every])
    across = min(len(sizes), ACROSS)
    spots = list(tiles)
    if len(sizes) <= ACROSS:  # a row per rank, a column per size; what was not run leaves a hole
        spots = [(rank, size or None) for rank in ranks for size in sizes]
    figures = []
    for start in range(0, len(spots), across * ROWS):
        shown = spots[start : start + across * ROWS]
        down, wide = -(-len(shown) // across), 1.75 if across < 6 else 1.5
        figure = Figure(figsize=(max(wide * across, 3.6), 1.5 * down + 0.75), layout="constrained")
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes in grid:
            axes.set_visible(False)
        for axes, spot in zip(grid, shown, strict=False):
            if spot in tiles:
                axes.set_visible(True)
                _tile(axes, tiles[spot], colour(spot[0]))
                axes.set_title(tile_title(*spot), fontsize=8 if across < 6 else 7)
                axes.set_ylim(limits)
        figure.supxlabel("optimizer step", fontsize=9, color=MUTED)
        figure.supylabel("loss (lower is better)", fontsize=9, color=MUTED)
        figures.append(figure)
    return figures


def _tile(axes, curves: list[TrainingCurve], ink: str) -> None:
    for curve in curves:
        x, y = thinned(curve.train)
        axes.plot(x, y, color=ink, alpha=0.4, linewidth=1)
        x, y = thinned(curve.validation)
        axes.plot(x, y, color=ink, linewidth=1.8, marker="o", markersize=3.2)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.set_xlim(left=0)


def loss_limits(training: Iterable[Points], validation: Iterable[Points]) -> tuple[float, float]:
    """All of validation, and training after its first steps: the fall from the start must not press the rest flat."""
    train = sorted(y for curve in training for y in thinned(curve)[1])
    points = [y for curve in validation for _, y in curve] + train[: max(1, round(0.9 * len(train)))]
    low, high = min(points), max(points)
    return low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)


def thinned(points: Points) -> tuple[list[float], list[float]]:
    """At most POINTS points, each the mean of its stretch: enough for a tile an inch wide."""
    width = -(-len(points) // POINTS) or 1
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [sum(x for x, _ in g) / len(g) for g in groups], [sum(y for _, y in g) / len(g) for g in groups]


def stage_times(runs: Iterable[RunRecord]) -> list[tuple[str, dict[str, float]]]:
    """(name, seconds by stage) of every cell, the mean over its seeds, longest first."""
    groups: dict[str, list[dict[str, float]]] = {}
    runs = list(runs)
    found = group_runs(runs)
    named = [(r, tile_title(r.rank, r.examples), group_name(group, found)) for group in found for r in group.runs]
    named += [(r, "untuned", f"{r.dataset} {r.model}" if len(found) > 1 else "") for r in runs if r.rank == 0]
    for run, name, group in named:
        seconds = seconds_by_stage(run)
        if sum(seconds.values()) > 0:
            groups.setdefault(name + (f", {group}" if group else ""), []).append(seconds)
    means = {n: {s: sum(one.get(s, 0) for one in g) / len(g) for s in STAGES} for n, g in groups.items()}
    return sorted(means.items(), key=lambda bar: -sum(bar[1].values()))


def tile_title(rank: int | None, examples: int | None) -> str:
    return f"{'unknown' if examples is None else format(examples, ',')} examples, rank {rank}"


def group_name(group: RunGroup, among: list[RunGroup]) -> str:
    """What sets a group apart from the others: dataset and model where there are several, and its training keys."""
    parts = [group.dataset] if len({one.dataset for one in among}) > 1 else []
    parts += [group.model] if len({one.model for one in among}) > 1 else []
    return ", ".join(parts + [key_value(k, v) for k, v in group.keys.items()])


@styled
def draw_times(shown: list[tuple[str, dict[str, float]]], width: float = WIDE):
    """A bar per cell, a colour per stage; the legend has the stages that can be seen."""
    shown = shown[:BARS]
    figure = Figure(figsize=(width, 0.25 * len(shown) + (1.1 if width >= WIDE else 1.3)), layout="constrained")
    axes = figure.subplots()
    longest = max(sum(stages.values()) for _, stages in shown)
    size, unit = time_unit(longest)
    left = [0.0] * len(shown)
    for stage, ink in STAGES.items():
        lengths = [stages[stage] / size for _, stages in shown]
        if sum(lengths):
            label = STAGE_NAMES[stage] if max(lengths) >= VISIBLE * longest / size else "_"  # "_": not in the legend
            axes.barh(range(len(shown)), lengths, left=left, color=ink, height=0.72, label=label)
            left = [a + b for a, b in zip(left, lengths, strict=True)]
    for i, (_, stages) in enumerate(shown):
        total = format_duration(sum(stages.values()))
        axes.text(left[i] + 0.008 * longest / size, i, total, va="center", fontsize=8.5, color=MUTED)
    axes.set_yticks(range(len(shown)), [name[:44] for name, _ in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, (1.14 if width >= WIDE else 1.35) * longest / size)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlabel(unit)
    figure.legend(
        loc="outside upper left", ncols=len(STAGES) if width >= WIDE else 3, frameon=False, fontsize=9, handlelength=1
    )
    return figure
