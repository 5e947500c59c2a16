"""Scores against sample size, with the fitted learning curves."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from llama_exp.report.cells import Cell, Comparison, Panel
from llama_exp.report.figures.style import HOVER, MUTED, PAPER, WIDE, colour, marker, styled
from llama_exp.report.labels import cell_name, panel_name, with_confidence

AHEAD = 4  # curves are drawn to so many times the largest size: as far as their coverage was measured


@styled
def draw_scores(panel: Panel, comparison: Comparison, width: float = WIDE):
    """Score against sample size: a line per rank through the means, a dot per seed, whiskers for the test set."""
    metric, name = comparison.metric, panel_name(panel, comparison)
    figure = Figure(figsize=(width, 3.9), layout="constrained")
    axes = figure.subplots()
    cells = [s for s in panel.cells if s.examples and s.mean(metric) is not None]
    sizes = sorted({s.size for s in cells})
    ranks = sorted({s.rank for s in cells})
    labels, step = [], _sideways(sizes, len(ranks))
    reach = 0
    for i, rank in enumerate(ranks):
        line = sorted((s for s in cells if s.rank == rank), key=lambda s: s.size)
        shift = step ** (i - (len(ranks) - 1) / 2)  # side by side, so that whiskers show
        curve = panel.curves.get(rank)
        fitted = curve if curve and not curve.refusal else None
        end = _points(axes, panel, line, comparison, shift, joined=fitted is None)
        if fitted:
            end, reach = _learning_curve(axes, fitted, colour(rank), shift), max(reach, fitted.sizes[-1] * AHEAD)
        labels.append((end, f"rank {rank}", colour(rank)))
    if panel.baseline and panel.baseline.mean(metric) is not None:
        level, interval = panel.baseline.score(metric), panel.baseline.interval(metric)
        if interval:
            axes.axhspan(interval.low, interval.high, color=MUTED, alpha=0.16, linewidth=0, zorder=1)
        axes.axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.6, zorder=2)
        labels.append((level, "untuned model", MUTED))
    dropped = max((s.dropped for s in cells if s.shrunk), default=0)
    _size_axis(axes, sizes, {s.size for s in cells if s.whole}, reach, dropped, width)
    axes.set_ylim(score_limits(comparison))
    axes.set_title(score_title(comparison) + (f" — {name}" if name else ""), pad=12)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _margin_labels(axes, labels)
    return figure


def _points(axes, panel: Panel, line: list[Cell], c: Comparison, shift: float, joined: bool) -> float:
    """A rank's cells: filled where they share the first place, open where they are shown to be worse."""
    rank = line[0].rank
    x = [s.size * shift for s in line]
    y = [s.score(c.metric) for s in line]
    if joined:
        axes.plot(x, y, color=colour(rank), linewidth=2, zorder=4)
    worse = set(c.ranking.worse) if c.ranking else set()
    for size, height, cell in zip(x, y, line, strict=True):
        hover = HOVER + _tooltip(panel, cell, c)
        _uncertainty(axes, size, cell, c.metric, colour(rank), hover)
        axes.plot(
            [size],
            [height],
            color=colour(rank),
            marker=marker(rank),
            markersize=7,
            markeredgewidth=1.6,
            zorder=5,
            linestyle="none",
            markerfacecolor=PAPER if cell.key in worse else colour(rank),
            gid=hover,
        )
    return y[-1]


def _tooltip(panel: Panel, cell: Cell, c: Comparison) -> str:
    """`F1 58.3 (95 % CI 52.2 to 64.3), rank 16 on 300 examples: squad/tiny-300-r16-seed0`."""
    runs = [one.run.name for one in cell.runs]
    names = ", ".join(runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
    return f"{c.describe().label} {with_confidence(c, cell)}, {cell_name(panel, cell, c)}: {names}"


def _learning_curve(axes, curve, ink: str, shift: float) -> float:
    """The fitted law with its band, dashed beyond the largest size; returns where it ends."""
    first, last = curve.sizes[0], curve.sizes[-1]
    sizes = [first * (last * AHEAD / first) ** (i / 60) for i in range(61)]
    sizes = sorted({*sizes, float(last)})
    bands = curve.predict_many(sizes)
    x = [size * shift for size in sizes]
    fill, edge = to_rgba(ink, 0.13), to_rgba(ink, 0.5)  # edges: which band ends where, also where two overlap
    low, high = [b.low for b in bands], [b.high for b in bands]
    axes.fill_between(x, low, high, facecolor=fill, edgecolor=edge, linewidth=0.7, zorder=1)
    seen = sizes.index(float(last)) + 1
    axes.plot(x[:seen], [b.estimate for b in bands[:seen]], color=ink, linewidth=2, zorder=3)
    axes.plot(
        x[seen - 1 :],
        [b.estimate for b in bands[seen - 1 :]],
        color=ink,
        linewidth=1.4,
        linestyle=(0, (2, 2)),
        zorder=3,
    )
    return bands[-1].estimate


def _sideways(sizes: Sequence[int], ranks: int) -> float:
    """The factor between neighbouring ranks at one size: enough to part them, never so much that two sizes mix."""
    wanted = max((sizes[-1] / sizes[0]) ** 0.016, 1.03) if sizes else 1.0
    nearest = min((b / a for a, b in pairwise(sizes)), default=2.0)
    return min(wanted, nearest ** (0.7 / max(ranks, 1)))


def score_title(comparison: Comparison) -> str:
    score = comparison.describe()
    return f"{score.label}, {score.better} is better"


def score_limits(comparison: Comparison, curves: bool = True) -> tuple[float, float]:
    """The same for all panels of a comparison, so that heights can be compared; from 0 unless that hides everything.

    `curves`: with room for their bands, whose ends must be readable.
    """
    metric, ends = comparison.metric, list[float]()
    for _, cell in comparison.cells():
        interval = cell.interval(metric)
        ends += cell.scores(metric) + ([interval.low, interval.high] if interval else [])
    bands = [
        band
        for panel in comparison.panels
        for curve in panel.curves.values()
        if curves and not curve.refusal
        for band in curve.predict_many([curve.sizes[0], curve.sizes[-1] * AHEAD])
    ]
    if not all(isfinite(limit) for limit in comparison.describe().limits):  # no end keeps a band from pressing all flat
        most = 2 * (max(ends) - min(ends))
        ends += [min(max(end, min(ends) - most), max(ends) + most) for b in bands for end in (b.low, b.high)]
    else:
        ends += [end for b in bands for end in (b.low, b.high)]
    low, high = min(ends), max(ends)
    near = comparison.lower_is_better or (low > 0.45 * high and len(comparison.cells()) > 1)
    room = 0.06 * ((high - low if near else high) or 1)
    return (low - room if near else min(0, low)), high + room


def _uncertainty(axes, x: float, cell: Cell, metric: str, ink: str, hover: str) -> None:
    interval, seeds = cell.interval(metric), cell.scores(metric)
    if interval:
        axes.vlines(x, interval.low, interval.high, color=ink, linewidth=1.3, alpha=0.75, zorder=3, gid=hover)
    if len(seeds) > 1:
        axes.plot(
            [x] * len(seeds),
            seeds,
            linestyle="none",
            marker="o",
            markersize=3.2,
            markerfacecolor=PAPER,
            markeredgecolor=ink,
            markeredgewidth=0.9,
            zorder=3.5,
        )


def _size_axis(
    axes, sizes: Sequence[int], whole: set[int], reach: float = 0, dropped: float = 0, width: float = WIDE
) -> None:
    """A log axis whose ticks are the sizes that were tried, as far as they can be read side by side; and `reach`.

    `dropped`: the share of a sample that did not reach training, where it is to be shown.
    """
    axes.set_xscale("log")
    if not sizes:
        axes.set_xticks([])
        axes.set_xlim(1, 10)
        return
    shown = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if shown[-1] / size > (sizes[-1] / sizes[0]) ** (0.07 * WIDE / width):
            shown.append(size)
    named: dict[float, str] = {s: f"{s:,}" + ("\n(all)" if s in whole else "") for s in shown}
    named |= {reach: f"{reach:,}\n(not tried)"} if reach > sizes[-1] else {}
    axes.set_xticks(list(named), list(named.values()))
    axes.set_xticks([], minor=True)
    room = max((sizes[-1] / sizes[0]) ** 0.06, 1.15) if len(sizes) > 1 else 3
    axes.set_xlim(sizes[0] / room, max(sizes[-1], reach) * room)
    fewer = f" sampled, up to {100 * dropped:.0f} % of them dropped\n" if dropped else " "
    scale = "(log scale: equal steps multiply)" if width >= WIDE else "(log scale)"
    axes.set_xlabel(f"training examples{fewer}{scale}")


def _margin_labels(axes, labels: list[tuple[float, str, str]]) -> None:
    """Names at the right end, pushed apart where lines end close together, with a hair line back to their line."""
    low, high = axes.get_ylim()
    labels = sorted(labels)
    heights = [(y - low) / (high - low) for y, _, _ in labels]
    for at, height, (_, text, ink) in zip(apart(heights, 0.066), heights, labels, strict=True):
        hair = {
            "arrowstyle": "-",
            "color": ink,
            "linewidth": 0.8,
            "alpha": 0.7,
            "shrinkA": 2,
            "shrinkB": 0,
            "relpos": (0, 0.5),
        }
        axes.annotate(
            text,
            xy=(1, height),
            xytext=(1.04, at),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=ink,
            va="center",
            fontweight="normal" if ink == MUTED else "bold",
            arrowprops=hair,
            annotation_clip=False,
        )


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """The ascending `heights`, moved as little as it takes to lie `gap` apart: crowds spread around their middle."""
    crowds: list[list[float]] = []  # [middle, members]
    for height in heights:
        crowds.append([height, 1])
        while len(crowds) > 1:
            (below, n), (above, m) = crowds[-2:]
            if above - below >= gap * (n + m) / 2:
                break
            crowds[-2:] = [[(below * n + above * m) / (n + m), n + m]]
    return [middle + gap * (i - (n - 1) / 2) for middle, n in crowds for i in range(int(n))]
