"""One run's curves in its own folder, as a picture and a page, written whenever a training ends or breaks
(drawing.py: in this process, or in one beside it).

losses.png, losses.html    training and validation loss, learning rate, gradient norm, tokens/s; and what they show
"""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from llama_exp import metrics
from llama_exp.report.figures.style import INK, MUTED, NARROW, RANKS, page_colours, png, styled, svg
from llama_exp.report.figures.training import loss_limits
from llama_exp.report.loss_note import Points, best_point, kept, note, points
from llama_exp.report.templating import load_template
from llama_exp.runs.files import atomic_write
from llama_exp.runs.metrics import read_metrics

BESIDE = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens/s"}
TRAINING = RANKS[1]  # validation has the first colour


def write(folder: Path, ended: str = "", keeps_best: str | None = None) -> str | None:
    """Draw metrics.csv; returns the note on the losses, None where no step was finished.

    ended       how the run ended
    keeps_best  early stopping: the column by which the best adapter was kept
    """
    rows = read_metrics(folder)
    scores = [key for key in (rows[0] if rows else {}) if "/" in str(key)]  # of validation_scores
    curves = {key: points(rows, key) for key in ("loss", "validation_loss", *BESIDE, *scores)}
    beside = BESIDE | {key: f"{metrics.describe(key).label}, validation" for key in scores}
    if not curves["loss"]:
        return None
    text = note(curves["validation_loss"], curves["loss"])
    with atomic_write(folder / "losses.png", "wb") as file:
        file.write(png(draw(curves)))
    page = load_template("loss_page.html.jinja").render(
        name=f"{folder.parent.name}/{folder.name}",
        note=text,
        ended=" ".join(
            [ended, kept(curves.get(keeps_best, []), curves["loss"][-1][0], keeps_best)] if keeps_best else [ended]
        ),
        wide=svg(draw_losses(curves, 9.6), 1, text),
        narrow=svg(draw_losses(curves, NARROW), 2, text),
        beside=[svg(draw_beside(curves[key], beside[key]), 3 + i, beside[key]) for i, key in enumerate(beside)],
        colours=page_colours(),
    )
    with atomic_write(folder / "losses.html") as file:
        file.write(page)
    return text


def smoothed(losses: Points) -> list[tuple[float, float]]:
    """The mean over a tenth of the steps around each one; [] where too few to smooth."""
    half = len(losses) // 20
    if half < 1:
        return []
    windows = [losses[max(at - half, 0) : at + half + 1] for at in range(len(losses))]
    return [(step, sum(y for _, y in w) / len(w)) for (step, _), w in zip(losses, windows, strict=True)]


@styled
def draw(curves: dict[str, Points]):
    """One picture of everything: the losses, large; below them, small, what else was logged at each step."""
    # w_pad: room for the first digit of long tick labels
    figure = Figure(figsize=(7.2, 5.2), layout=ConstrainedLayoutEngine(w_pad=0.1))
    grid = figure.add_gridspec(2, len(BESIDE), height_ratios=(2.4, 1))
    _losses(figure.add_subplot(grid[0, :]), curves)
    for column, (key, name) in enumerate(BESIDE.items()):
        _beside(figure.add_subplot(grid[1, column]), curves[key], name, fontsize=9)
    return figure


@styled
def draw_losses(curves: dict[str, Points], width: float):
    """The losses alone, so many inches wide: the page lays its panels out by the width of the screen."""
    figure = Figure(figsize=(width, 3.4), layout=ConstrainedLayoutEngine(w_pad=0.1))
    _losses(figure.subplots(), curves, unit=" in nats a label token" if width > NARROW else "")
    return figure


@styled
def draw_beside(points: Points, name: str):
    """A small panel of its own: the learning rate, the gradient norm, the speed."""
    figure = Figure(figsize=(3.2, 1.9), layout=ConstrainedLayoutEngine(w_pad=0.1))
    _beside(figure.subplots(), points, name, fontsize=10)
    return figure


def _losses(axes, curves: dict[str, Points], unit: str = " in nats a label token") -> None:
    smooth = smoothed(curves["loss"])
    label = "training, each step" if smooth else "training"
    axes.plot(*zip(*curves["loss"], strict=True), color=TRAINING, alpha=0.8, linewidth=0.8, label=label)
    if smooth:
        axes.plot(*zip(*smooth, strict=True), color=TRAINING, linewidth=2, label="training, smoothed")
    if validation := curves["validation_loss"]:
        step, best = best_point(validation)
        axes.plot(
            *zip(*validation, strict=True), color=RANKS[0], linewidth=2, marker="o", markersize=4, label="validation"
        )
        axes.plot(
            step,
            best,
            color=INK,
            linestyle="",
            marker="o",
            markersize=9,
            fillstyle="none",
            label=f"best, {best:.3f} at step {step:,.0f}",
        )
    low, high = loss_limits([curves["loss"]], [curves["validation_loss"]])
    axes.set_ylim(low, high)
    above = max(y for _, y in curves["loss"]) > high
    axes.set_title(f"loss{unit}" + (" (the first steps begin above)" if above else ""))
    axes.legend(frameon=False, fontsize=9)
    axes.set_xlabel("optimizer step")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)


def _beside(axes, points: Points, name: str, fontsize: float) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), color=MUTED, linewidth=1.2)
    axes.set_title(name, fontsize=fontsize)
    axes.tick_params(labelsize=fontsize - 1)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=3, integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
