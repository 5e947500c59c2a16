"""The report's pictures: scores against sample size, losses, and where the time went.

Each function returns a matplotlib Figure; `png` and `svg` turn it into a file. Matplotlib is imported inside, so that the
table does not wait for it. The SVG's colours become CSS variables: one drawing serves light, dark and paper.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps

from llama_exp.results import Curve, Run
from llama_exp.settings import LOWER_IS_BETTER, Comparison, Family, Panel, Setting, families
from llama_exp.words import duration, key_value, panel_name, seconds_of

# After Okabe and Ito (2008): told apart with any kind of colour vision; darkened where a letter would be too pale.
RANKS = ("#0072b2", "#d55e00", "#00876a", "#b8558c", "#a66a00", "#3a8fc7", "#7a5c3e", "#5b5fc7")
MARKERS = "os^Dv<>P"
STAGES = {"import": "#d3d7dc", "load": "#b4bac2", "data": "#949ca6", "train": "#46639c", "save": "#767e89",
          "evaluate": "#c49a4a"}  # fmt: skip
INK, MUTED, GRID, PAPER = "#1c2024", "#5f666e", "#e2e5e8", "#fefefe"
CSS = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper",
       **{c: f"--rank{i}" for i, c in enumerate(RANKS)}, **{c: f"--{s}" for s, c in STAGES.items()}}  # fmt: skip
STYLE = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10, "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.edgecolor": MUTED, "axes.labelcolor": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True,
    "axes.facecolor": "none", "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titlecolor": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "svg.fonttype": "none", "svg.hashsalt": "llama_exp",
}  # fmt: skip
TILES, BARS, POINTS = 40, 40, 160


def styled(draw: Callable) -> Callable:
    @wraps(draw)
    def wrapper(*args, **kwargs):
        from matplotlib import rc_context

        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def colours(runs: Iterable[Run]) -> dict[int, int]:
    """rank -> its place in the palette: a rank looks the same in every figure."""
    return {rank: i % len(RANKS) for i, rank in enumerate(sorted({r.rank for r in runs if r.rank}))}


@styled
def scores(panel: Panel, comparison: Comparison, place: dict[int, int]):
    """Score against sample size: a line per rank through the means, a dot per seed, whiskers for the test set."""
    from matplotlib.figure import Figure

    metric, name = comparison.metric, panel_name(panel, comparison)
    figure = Figure(figsize=(7.4, 4.1), layout="constrained")
    axes = figure.subplots()
    settings = [s for s in panel.settings if s.examples and s.mean(metric) is not None]
    sizes = sorted({s.examples for s in settings})
    ranks = sorted({s.rank for s in settings})
    labels = []
    for i, rank in enumerate(ranks):
        line = sorted((s for s in settings if s.rank == rank), key=lambda s: s.examples)
        colour, marker = RANKS[place[rank]], MARKERS[place[rank]]
        x = [s.examples * 1.035 ** (i - (len(ranks) - 1) / 2) for s in line]  # side by side, so that whiskers show
        y = [s.mean(metric) for s in line]
        axes.plot(x, y, color=colour, marker=marker, markersize=6.5, linewidth=2, zorder=4)
        for at, setting in zip(x, line, strict=True):
            _uncertainty(axes, at, setting, metric, colour)
        labels.append((y[-1], f"rank {rank}", colour))
    if panel.baseline and panel.baseline.mean(metric) is not None:
        level, interval = panel.baseline.mean(metric), panel.baseline.interval(metric)
        if interval:
            axes.axhspan(interval.low, interval.high, color=MUTED, alpha=0.16, linewidth=0, zorder=1)
        axes.axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=1.6, zorder=2)
        labels.append((level, "untuned model", MUTED))
    _size_axis(axes, sizes, {s.examples for s in settings if s.whole})
    if metric not in LOWER_IS_BETTER:
        low, high = axes.get_ylim()
        axes.set_ylim(0 if low < 0.45 * high else low, high)
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    axes.set_title(f"{metric}, {better} is better" + (f" — {name}" if name else ""), pad=12)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _margin_labels(axes, labels)
    return figure


def _uncertainty(axes, x: float, setting: Setting, metric: str, colour: str) -> None:
    interval, seeds = setting.interval(metric), setting.scores(metric)
    if interval:
        axes.vlines(x, interval.low, interval.high, color=colour, linewidth=1.3, alpha=0.75, zorder=3)
    if len(seeds) > 1:
        axes.plot([x] * len(seeds), seeds, linestyle="none", marker="o", markersize=3.6, markerfacecolor=PAPER,
                  markeredgecolor=colour, markeredgewidth=1, zorder=5)  # fmt: skip


def _size_axis(axes, sizes: Sequence[int], whole: set[int]) -> None:
    """A log axis whose ticks are the sizes that were tried, as far as they can be read side by side."""
    axes.set_xscale("log")
    if not sizes:
        axes.set_xticks([])
        axes.set_xlim(1, 10)
        return
    shown = [sizes[-1]]
    for size in reversed(sizes[:-1]):
        if shown[-1] / size > (sizes[-1] / sizes[0]) ** 0.07:
            shown.append(size)
    axes.set_xticks(shown, [f"{s:,}" + ("\n(all)" if s in whole else "") for s in shown])
    axes.set_xticks([], minor=True)
    room = max((sizes[-1] / sizes[0]) ** 0.06, 1.15) if len(sizes) > 1 else 3
    axes.set_xlim(sizes[0] / room, sizes[-1] * room)
    axes.set_xlabel("training examples (each step to the right multiplies)")


def _margin_labels(axes, labels: list[tuple[float, str, str]]) -> None:
    """Names at the right end, pushed apart where lines end close together, with a hair line back to their line."""
    if not labels:
        return
    low, high = axes.get_ylim()
    gap, top = 0.062, 1.03
    placed = []
    for y, text, colour in sorted(labels, reverse=True):
        at = min((y - low) / (high - low), top)
        top = at - gap
        placed.append([at, (y - low) / (high - low), text, colour])
    for lower, upper in zip(reversed(placed), list(reversed(placed))[1:], strict=False):  # push up what fell below
        lower[0] = max(lower[0], -0.02)
        upper[0] = max(upper[0], lower[0] + gap)
    for at, y, text, colour in placed:
        axes.annotate(text, xy=(1, y), xytext=(1.035, at), xycoords="axes fraction", textcoords="axes fraction",
                      color=colour, va="center", fontweight="bold" if colour != MUTED else "normal",
                      arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1,
                                  "shrinkB": 0})  # fmt: skip


@styled
def losses(family: Family, curves: dict, place: dict[int, int]) -> list:
    """Small multiples: a tile per size and rank; pale = training, strong = validation; every seed has its own lines."""
    from matplotlib.figure import Figure

    tiles: dict[tuple, list[Curve]] = {}
    for run in sorted(family.runs, key=lambda r: (r.rank, r.examples or 0)):
        curve = curves.get(run.folder)
        if curve and (curve.train or curve.validation):
            tiles.setdefault((run.rank, run.examples), []).append(curve)
    figures, keys = [], list(tiles)
    across = min(max(len({k[1] for k in keys}), 1), 5)
    limits = _loss_limits([c for group in tiles.values() for c in group]) if tiles else None
    for start in range(0, len(keys), TILES):
        shown = keys[start : start + TILES]
        down = -(-len(shown) // across)
        figure = Figure(figsize=(max(1.75 * across, 3.6), 1.55 * down + 0.75), layout="constrained")
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes, key in zip(grid, shown, strict=False):
            _tile(axes, tiles[key], RANKS[place[key[0]]])
            axes.set_title(f"{'?' if key[1] is None else format(key[1], ',')} ex., rank {key[0]}", fontsize=8.5)
            axes.set_ylim(limits)
        for axes in grid[len(shown) :]:
            axes.set_visible(False)
        figure.supxlabel("optimizer step", fontsize=9, color=MUTED)
        figure.supylabel("loss (lower is better)", fontsize=9, color=MUTED)
        figures.append(figure)
    return figures


def _tile(axes, curves: list[Curve], colour: str) -> None:
    for curve in curves:
        x, y = thinned(curve.train)
        axes.plot(x, y, color=colour, alpha=0.4, linewidth=1)
        x, y = thinned(curve.validation)
        axes.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=3.2)
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.set_xlim(left=0)


def _loss_limits(curves: list[Curve]) -> tuple[float, float]:
    """All of validation and nearly all of training: a first spike must not press the rest flat."""
    train = sorted(y for c in curves for y in thinned(c.train)[1])
    points = [y for c in curves for _, y in c.validation] + train[: max(1, round(0.98 * len(train)))]
    low, high = min(points), max(points)
    return low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)


def thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most POINTS points, each the mean of its stretch: enough for a tile an inch wide."""
    width = -(-len(points) // POINTS) or 1
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [sum(x for x, _ in g) / len(g) for g in groups], [sum(y for _, y in g) / len(g) for g in groups]


def bars(runs: Iterable[Run]) -> list[tuple[str, dict[str, float]]]:
    """(name, seconds by stage) of every setting, the mean over its seeds, longest first."""
    groups: dict[str, list[dict[str, float]]] = {}
    runs = list(runs)
    found = families(runs)
    named = [(r, f"{r.examples or '?'} ex., rank {r.rank}", family_name(f, found)) for f in found for r in f.runs]
    named += [(r, "untuned", f"{r.dataset} {r.model}" if len(found) > 1 else "") for r in runs if r.rank == 0]
    for run, name, family in named:
        seconds = seconds_of(run)
        if not seconds.get("evaluate"):
            spent = [e.details.get("seconds") for e in run.evaluations]
            seconds["evaluate"] = sum(s for s in spent if isinstance(s, (int, float)))
        if sum(seconds.values()) > 0:
            groups.setdefault(name + (f", {family}" if family else ""), []).append(seconds)
    means = [(name, {s: sum(g.get(s, 0) for g in group) / len(group) for s in STAGES}) for name, group in groups.items()]
    return sorted(means, key=lambda bar: -sum(bar[1].values()))


def family_name(family: Family, among: list[Family]) -> str:
    """What sets a family apart from the others: dataset and model where there are several, and its training keys."""
    said = [family.dataset] if len({f.dataset for f in among}) > 1 else []
    said += [family.model] if len({f.model for f in among}) > 1 else []
    return ", ".join(said + [key_value(k, v) for k, v in family.keys.items()])


@styled
def time_spent(shown: list[tuple[str, dict[str, float]]]):
    """A bar per setting, a colour per stage."""
    from matplotlib.figure import Figure

    shown = shown[:BARS]
    figure = Figure(figsize=(7.4, 0.27 * len(shown) + 1.15), layout="constrained")
    axes = figure.subplots()
    longest = max(sum(stages.values()) for _, stages in shown)
    unit, size = ("hours", 3600) if longest > 7200 else ("minutes", 60) if longest > 180 else ("seconds", 1)
    left = [0.0] * len(shown)
    for stage, colour in STAGES.items():
        width = [stages[stage] / size for _, stages in shown]
        if sum(width):
            axes.barh(range(len(shown)), width, left=left, color=colour, height=0.72, label=stage)
            left = [a + b for a, b in zip(left, width, strict=True)]
    for i, (_, stages) in enumerate(shown):
        axes.text(left[i] + 0.008 * longest / size, i, duration(sum(stages.values())), va="center", fontsize=8.5, color=MUTED)
    axes.set_yticks(range(len(shown)), [name[:44] for name, _ in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.14 * longest / size)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlabel(unit)
    figure.legend(loc="outside upper left", ncols=len(STAGES), frameon=False, fontsize=9, handlelength=1, columnspacing=1.2)
    return figure


def png(figure) -> bytes:
    """The figure on white, for slides and messages."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def svg(figure, number: int, label: str) -> str:
    """The figure as inline SVG: its own ids, the page's fonts, colours from CSS variables."""
    from html import escape

    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None,
                                                                         "Format": None})  # fmt: skip
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>f{number}-", text)
    for colour, variable in CSS.items():
        text = text.replace(colour, f"var({variable})")
    text = text.replace("'DejaVu Sans'", "var(--font)").replace("DejaVu Sans", "var(--font)")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
