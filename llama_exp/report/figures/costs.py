"""Scores against what training cost."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llama_exp.report.cells import Cell, Comparison, Panel
from llama_exp.report.figures.scores import score_limits, score_title
from llama_exp.report.figures.style import INK, MUTED, PAPER, WIDE, colour, marker, styled, time_unit


@styled
def draw_costs(
    points: Sequence[tuple[Panel, Cell, float]], front: set, comparison: Comparison, unit: str, width: float = WIDE
):
    """Score against what training cost; the line joins what nothing cheaper equals. `points`: (panel, cell, cost)."""
    metric = comparison.metric
    figure = Figure(figsize=(width, 3.9 if width >= WIDE else 4.2), layout="constrained")
    axes = figure.subplots()
    trained = sorted(((s, x) for _, s, x in points if s.rank and x > 0), key=lambda one: one[1])
    size = 1
    if unit == "seconds":
        size, name = time_unit(max(x for _, x in trained))
        unit = f"{name} of training"
    trained = [(cell, x / size) for cell, x in trained]
    _cost_points(axes, trained, front, comparison)
    for rank in sorted({s.rank for s, _ in trained}):
        axes.plot([], [], color=colour(rank), marker=marker(rank), linestyle="none", label=f"rank {rank}")
    if untuned := [s for _, s, _ in points if not s.rank]:
        axes.axhline(
            untuned[0].score(metric), color=MUTED, linestyle=(0, (5, 3)), linewidth=1.6, label="untuned model, free"
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    _cost_ticks(axes, [x for _, x in trained])
    axes.set_xlabel(f"{unit} (log scale: equal steps multiply)" if width >= WIDE else f"{unit} (log scale)")
    axes.set_ylim(score_limits(comparison, curves=False))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(score_title(comparison), pad=12)
    spot = {"loc": "outside right upper"} if width >= WIDE else {"loc": "outside lower left", "ncols": 2}
    figure.legend(**spot, frameon=False, fontsize=9, handlelength=1.6)
    return figure


def _cost_points(axes, trained: Sequence[tuple[Cell, float]], front: set, c: Comparison) -> None:
    """A dot a cell, cheapest first: those of the front joined by steps and named by their size."""
    steps = [(x, s.mean(c.metric)) for s, x in trained if s.key in front]
    axes.plot(
        *zip(*steps, strict=True),
        color=MUTED,
        linewidth=1.2,
        linestyle=":",
        zorder=2,
        drawstyle="steps-post",
        gid="front",
    )
    low, high = score_limits(c, curves=False)
    worse = set(c.ranking.worse) if c.ranking else set()
    before = None  # the last one named
    for cell, x in trained:
        ink, y, interval = colour(cell.rank), cell.mean(c.metric), cell.interval(c.metric)
        if interval:
            axes.vlines(x, interval.low, interval.high, color=ink, linewidth=1.2, alpha=0.55, zorder=3)
        axes.plot(
            [x],
            [y],
            color=ink,
            marker=marker(cell.rank),
            markersize=7,
            markeredgewidth=1.6,
            markerfacecolor=PAPER if cell.key in worse else ink,
            zorder=4,
        )
        if cell.key in front:
            near = before and x < 1.3 * before[0] and abs(y - before[1]) < 0.1 * (high - low)
            axes.annotate(
                f"{cell.examples:,}",
                (x, y),
                xytext=(6, -11) if near else (-5, 6),
                ha="left" if near else "right",
                textcoords="offset points",
                fontsize=8.5,
                color=INK,
            )
            before = x, y


def _cost_ticks(axes, values: Sequence[float]) -> None:
    """1, 2, 5, 10 … as far as the costs go; finer where fewer than three of these would be shown."""
    low, high = min(values) / 1.35, max(values) * 1.35
    ticks = [lead * 10.0**power for power in range(-6, 9) for lead in (1, 2, 5)]
    shown = [t for t in ticks if low <= t <= high]
    if len(shown) < 3:
        shown = [t for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
    axes.set_xticks(shown)
    axes.set_xlim(low, high)
