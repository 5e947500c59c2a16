"""How a training ended, in a line, and its loss page."""

import contextlib
from collections.abc import Callable

from llama_exp.config.schema import Config
from llama_exp.formatting import plural
from llama_exp.report.drawing import Page
from llama_exp.report.loss_note import note, points
from llama_exp.runs.run import Run
from llama_exp.runs.summary import Summary

Submit = Callable[[Page], str | None]  # LossPages.submit


def describe(config: Config, summary: Summary, rows: list[dict[str, str]]) -> tuple[str, str]:
    """("finished: 40 steps in 12 s, loss 1.234, validation loss 1.345", what early stopping kept) of a run that ended
    well."""
    step, loss = summary.steps or 0, summary.loss.get("train")
    message = f"{summary.status}: {plural(step, 'step')} in {summary.seconds.get('train', 0):.0f} s"
    message += f", loss {loss:.3f}" if loss is not None else ""
    validation = points(rows, "validation_loss")
    if validation and config.early_stopping:
        at, value = min(validation, key=lambda point: point[1])
        ended = "stopped" if summary.status == "stopped early" else "ended"
        return message, f"; keeps step {at:,.0f}, validation loss {value:.3f}; {ended} at {step:,}"
    if validation:
        at, value = validation[-1]
        message += f", validation loss {value:.3f}" + (f" at step {at:,.0f}" if at != step else "")
    return message, ""


def page_of(run: Run, message: str) -> Page:
    """The loss page of a run that ended well; message: of `describe`."""
    ended = f"{message[:1].upper()}{message[1:]}."
    return Page(str(run.folder), ended, run.config.monitor if run.config.early_stopping else None)


def draw_losses(page: Page, rows: list[dict[str, str]], draw: Submit, announce: bool = True) -> None:
    """Have losses.png and losses.html drawn, and print what they show. A figure never costs a run."""
    losses = points(rows, "loss")
    if losses and (where := draw(page)) and announce:
        print(f"{note(points(rows, 'validation_loss'), losses)} {where}", flush=True)


def draw_missing(run: Run, draw: Submit) -> None:
    """The page that a finished run lacks: the command that trained it was killed before it was drawn."""
    summary = run.summary
    if summary is None or page_of(run, "").path.exists() or not (rows := run.metrics()):
        return
    with contextlib.suppress(Exception):  # a summary.json that somebody has edited: it is a figure only
        draw_losses(page_of(run, describe(run.config, summary, rows)[0]), rows, draw, announce=False)
