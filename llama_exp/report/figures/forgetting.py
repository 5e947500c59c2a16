"""Scores against what tuning did to the loss on other data."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from llama_exp.report.cells import Cell, Comparison
from llama_exp.report.figures.scores import score_limits, score_title
from llama_exp.report.figures.style import INK, MUTED, WIDE, colour, marker, styled
from llama_exp.report.labels import forgotten_dataset


@styled
def draw_forgetting(cells: Sequence[Cell], untuned: Cell | None, c: Comparison, width: float = WIDE):
    """A mark a cell: further up is a better score, further right has forgotten more. Bars are 95 % intervals."""
    figure = Figure(figsize=(width, 3.9 if width >= WIDE else 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=1)
    for cell in cells:
        if forgot := cell.forgot:
            ink, x, y = colour(cell.rank), forgot.change, cell.score(c.metric)
            axes.hlines(y, forgot.low, forgot.high, color=ink, linewidth=1.2, alpha=0.55)
            if interval := cell.interval(c.metric):
                axes.vlines(x, interval.low, interval.high, color=ink, linewidth=1.2, alpha=0.55)
            axes.plot([x], [y], color=ink, marker=marker(cell.rank), markersize=7, zorder=4)
            name = f"{cell.size:,}"
            axes.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=8.5, color=INK)
    for rank in sorted({cell.rank for cell in cells}):
        axes.plot([], [], color=colour(rank), marker=marker(rank), linestyle="none", label=f"rank {rank}")
    if untuned and untuned.mean(c.metric) is not None:
        axes.plot([0], [untuned.score(c.metric)], color=MUTED, marker="x", linestyle="none", label="untuned model")
    axes.set_xlabel(f"change of the loss on {forgotten_dataset(c)} (right: forgot)")
    axes.set_ylim(score_limits(c, curves=False))
    axes.set_title(score_title(c), pad=12)
    spot = {"loc": "outside right upper"} if width >= WIDE else {"loc": "outside lower left", "ncols": 2}
    figure.legend(**spot, frameon=False, fontsize=9, handlelength=1.6)
    return figure
