"""One run's curves in its own folder, as a picture and a page: written whenever a run ends, well or not.

losses.png, losses.html    training and validation loss, learning rate, gradient norm, tokens/s; and what they say
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from llama_exp.report.figures.style import CSS, INK, MUTED, RANKS, png, styled, svg
from llama_exp.report.figures.training import Points, loss_limits
from llama_exp.runs.files import atomic_write
from llama_exp.runs.run import read_metrics

BESIDE = {"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens/s"}
RISE, FALL = 0.02, 0.01  # shares of the loss: less is the noise of a validation sample
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark"><title>{name}</title><style>
:root {{ {colours}; --font: system-ui, "DejaVu Sans", sans-serif; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8eaed; --muted: #a2a9b1; --grid: #33383e; --paper: #15181b;
                                               --rank0: #62b5ea; }} }}
body {{ margin: 0 auto; padding: 1.5rem 1rem; max-width: 50rem; background: var(--paper); color: var(--ink);
       font: 1rem/1.5 var(--font); }}
h1 {{ font-size: 1rem; color: var(--muted); overflow-wrap: anywhere; }} .scroll {{ overflow-x: auto; }}
svg {{ display: block; width: 100%; min-width: 30rem; height: auto; }}
.note {{ font-size: 1.2rem; font-weight: 600; line-height: 1.35; }} .small {{ color: var(--muted); font-size: .875rem; }}
</style></head><body><h1>{name}</h1><p class="note">{note}</p><p>{ended}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Curves">{figure}</div>
<p class="small">The pale line is the loss of each training step, the strong one with dots the loss on validation Examples,
which are not trained on; nats a label token, lower is better. All numbers: metrics.csv.</p></body></html>
"""


def write(folder: Path, ended: str = "") -> str | None:
    """Draw metrics.csv; returns the note in plain words, None where no step was finished. `ended`: how the run ended."""
    rows = read_metrics(folder)
    curves = {key: points(rows, key) for key in ("loss", "validation_loss", *BESIDE)}
    if not curves["loss"]:
        return None
    words = note(curves["validation_loss"], curves["loss"])
    figure = draw(curves)
    with atomic_write(folder / "losses.png", "wb") as file:
        file.write(png(figure))
    colours = "; ".join(f"{variable}: {colour}" for colour, variable in CSS.items())
    name = f"{folder.parent.name}/{folder.name}"
    page = PAGE.format(
        name=escape(name), note=escape(words), ended=escape(ended), colours=colours, figure=svg(figure, 1, words)
    )
    with atomic_write(folder / "losses.html") as file:
        file.write(page)
    return words


def points(rows: Sequence[dict[str, str]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that hold a value; a line cut short by a kill holds none."""
    found = []
    for row in rows:
        try:
            found.append((float(row["step"]), float(row[key])))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def note(validation: Points, training: Points = ()) -> str:
    """Whether more steps would help, as far as the validation loss tells, and whether the training loss went its way."""
    if len(validation) < 2:
        return "Validation loss was measured less than twice: whether more steps would help is not known."
    best_step, best = min(validation, key=lambda point: point[1])
    last_step, last = validation[-1]
    if last > (1 + RISE) * best:
        if rose(training, best_step):
            return (
                f"Validation turns up from step {best_step:,.0f} on ({best:.3f}; {last:.3f} at the end), and the training "
                "loss with it: that is no overfitting. A lower optimizer.lr or a longer warmup may do better."
            )
        return (
            f"Validation turns up: overfitting from step {best_step:,.0f} on. It was best there ({best:.3f}) and is "
            f"{last:.3f} at the end; fewer steps or more data would do better."
        )
    earlier = [point for point in validation if point[0] <= last_step * 2 / 3] or validation[:1]
    step, before = earlier[-1]
    if before > (1 + FALL) * last:
        return (
            f"Validation has not flattened yet: from step {step:,.0f} to {last_step:,.0f} it still fell from {before:.3f} to "
            f"{last:.3f}. More steps or more data may do better."
        )
    return f"Validation has flattened at {last:.3f}: since step {step:,.0f} it fell by less than {FALL:.0%}."


def rose(training: Points, step: float) -> bool:
    """Whether the mean training loss after a step is above that of the stretch of equal length before it."""
    after = [loss for at, loss in training if at > step]
    before = [loss for at, loss in training if at <= step][-len(after) :]
    return bool(after and before) and sum(after) / len(after) > (1 + RISE) * sum(before) / len(before)


@styled
def draw(curves: dict[str, Points]):
    """The losses, large; below them, small, what else was logged at each step."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)  # room for the first digit of long tick labels
    grid = figure.add_gridspec(2, len(BESIDE), height_ratios=(2.4, 1))
    axes = figure.add_subplot(grid[0, :])
    axes.plot(*zip(*curves["loss"], strict=True), color=RANKS[0], alpha=0.7, linewidth=1, label="training")
    if curves["validation_loss"]:
        x, y = zip(*curves["validation_loss"], strict=True)
        best = min(range(len(y)), key=lambda place: y[place])
        axes.plot(x, y, color=RANKS[0], linewidth=2, marker="o", markersize=4, label="validation")
        axes.plot(
            x[best],
            y[best],
            color=INK,
            linestyle="",
            marker="o",
            markersize=9,
            fillstyle="none",
            label=f"best, {y[best]:.3f} at step {x[best]:,.0f}",
        )
    low, high = loss_limits([curves["loss"]], [curves["validation_loss"]])
    axes.set_ylim(low, high)
    above = max(y for _, y in curves["loss"]) > high
    axes.set_title("loss (nats a label token" + ("; the first steps begin above)" if above else ")"))
    axes.legend(frameon=False, fontsize=9)
    axes.set_xlabel("optimizer step")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    for place, (key, name) in enumerate(BESIDE.items()):
        small = figure.add_subplot(grid[1, place])
        if curves[key]:
            small.plot(*zip(*curves[key], strict=True), color=MUTED, linewidth=1.2)
        small.set_title(name, fontsize=9)
        small.tick_params(labelsize=8)
        small.set_xlim(left=0)
        small.locator_params(axis="x", nbins=3, integer=True)
        small.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    return figure
