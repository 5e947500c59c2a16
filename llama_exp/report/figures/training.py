"""Pictures of how the runs went: losses while training, and where the time went.

Each function returns a matplotlib Figure, which `drawing` turns into a file. Matplotlib is imported inside, so that the
table does not wait for it.
"""

from collections.abc import Iterable, Sequence

from llama_exp.formatting import format_duration
from llama_exp.report.families import RunGroup, group_runs
from llama_exp.report.figures.style import INK, MUTED, STAGES, colour, styled
from llama_exp.report.labels import key_value, seconds_of
from llama_exp.report.load import RunRecord, TrainingCurve

STAGE_NAMES = {
    "import": "start-up",
    "load": "model",
    "data": "data",
    "train": "training",
    "save": "saving",
    "evaluate": "evaluation",
}
ACROSS, ROWS, BARS, POINTS = 8, 8, 40, 160
Points = Sequence[tuple[float, float]]  # (step, value)


@styled
def losses(family: RunGroup, curves: dict) -> list:
    """Small multiples: a tile per size and rank; pale = training, strong = validation; every seed has its own lines."""
    from matplotlib.figure import Figure

    tiles: dict[tuple, list[TrainingCurve]] = {}
    for run in sorted(family.runs, key=lambda r: (r.rank, r.examples or 0)):
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
                axes.set_title(cell_title(*spot), fontsize=8 if across < 6 else 7)
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


def bars(runs: Iterable[RunRecord]) -> list[tuple[str, dict[str, float]]]:
    """(name, seconds by stage) of every cell, the mean over its seeds, longest first."""
    groups: dict[str, list[dict[str, float]]] = {}
    runs = list(runs)
    found = group_runs(runs)
    named = [(r, cell_title(r.rank, r.examples), family_name(f, found)) for f in found for r in f.runs]
    named += [(r, "untuned", f"{r.dataset} {r.model}" if len(found) > 1 else "") for r in runs if r.rank == 0]
    for run, name, family in named:
        seconds = seconds_of(run)
        if sum(seconds.values()) > 0:
            groups.setdefault(name + (f", {family}" if family else ""), []).append(seconds)
    means = {n: {s: sum(g.get(s, 0) for g in group) / len(group) for s in STAGES} for n, group in groups.items()}
    return sorted(means.items(), key=lambda bar: -sum(bar[1].values()))


def cell_title(rank: int, examples: int | None) -> str:
    return f"{'unknown' if examples is None else format(examples, ',')} examples, rank {rank}"


def family_name(family: RunGroup, among: list[RunGroup]) -> str:
    """What sets a family apart from the others: dataset and model where there are several, and its training keys."""
    said = [family.dataset] if len({f.dataset for f in among}) > 1 else []
    said += [family.model] if len({f.model for f in among}) > 1 else []
    return ", ".join(said + [key_value(k, v) for k, v in family.keys.items()])


@styled
def time_spent(shown: list[tuple[str, dict[str, float]]]):
    """A bar per cell, a colour per stage."""
    from matplotlib.figure import Figure

    shown = shown[:BARS]
    figure = Figure(figsize=(6.8, 0.25 * len(shown) + 1.1), layout="constrained")
    axes = figure.subplots()
    longest = max(sum(stages.values()) for _, stages in shown)
    unit, size = ("hours", 3600) if longest > 7200 else ("minutes", 60) if longest > 180 else ("seconds", 1)
    left = [0.0] * len(shown)
    for stage, ink in STAGES.items():
        width = [stages[stage] / size for _, stages in shown]
        if sum(width):
            axes.barh(range(len(shown)), width, left=left, color=ink, height=0.72, label=STAGE_NAMES[stage])
            left = [a + b for a, b in zip(left, width, strict=True)]
    for i, (_, stages) in enumerate(shown):
        total = format_duration(sum(stages.values()))
        axes.text(left[i] + 0.008 * longest / size, i, total, va="center", fontsize=8.5, color=MUTED)
    axes.set_yticks(range(len(shown)), [name[:44] for name, _ in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.14 * longest / size)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.set_xlabel(unit)
    figure.legend(loc="outside upper left", ncols=len(STAGES), frameon=False, fontsize=9, handlelength=1)
    return figure
