"""Draws every figure of a report: a PNG file each, and the same as SVG for the page."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from llama_exp.report import captions, costs
from llama_exp.report.cells import Comparison
from llama_exp.report.compare import group_runs
from llama_exp.report.costs import Prices
from llama_exp.report.figures import style, training
from llama_exp.report.figures.costs import draw_costs
from llama_exp.report.figures.forgetting import draw_forgetting
from llama_exp.report.figures.scores import draw_scores
from llama_exp.report.labels import panel_name, title
from llama_exp.report.load import RunRecord, UnreadFile, load_curve
from llama_exp.report.next_command import untuned_command
from llama_exp.report.page import Picture, Pictures
from llama_exp.runs.files import atomic_write


@dataclass(frozen=True, slots=True)
class _Folder:
    """Where the PNG files go, and their names so far."""

    path: Path
    files: list[str] = field(default_factory=list)

    def save_both(self, file_name: str, draw: Callable[[float], Figure], caption: str, **about) -> Picture:
        """A figure that is drawn twice for the page: for a screen, and for a phone."""
        picture = self.save(file_name, draw(style.WIDE), caption, **about)
        return replace(picture, narrow=style.svg(draw(style.NARROW), f"{len(self.files)}n", caption))

    def save(self, file_name: str, figure: Figure, caption: str, **about) -> Picture:
        stem = re.sub(r"[^A-Za-z0-9._]+", "-", file_name)[:80].strip("-.")
        while f"{stem}.png" in self.files:
            stem += "-2"
        self.files.append(f"{stem}.png")
        with atomic_write(self.path / f"{stem}.png", "wb") as file:
            file.write(style.png(figure))
        return Picture(style.svg(figure, len(self.files), caption), caption=caption, **about)

    def remove_old(self) -> None:
        for old in self.path.glob("*.png"):
            if old.name not in self.files and re.match(r"(score-|cost-|forgetting-|loss-|seconds)", old.name):
                old.unlink()


def draw_figures(
    home: Path, compared: list[Comparison], runs: list[RunRecord], prices: Prices
) -> tuple[Pictures, list[UnreadFile]]:
    """All figures of a report in `home`, and the metrics.csv files that could not be read."""
    folder = _Folder(home)
    drawn = {i: _score_pictures(folder, c, runs) for i, c in enumerate(compared) if c.best()}
    spent = {i: picture for i, c in enumerate(compared) if (picture := _cost_picture(folder, c, prices))}
    forgotten = {i: picture for i, c in enumerate(compared) if (picture := _forgetting_picture(folder, c))}
    losses, unread = _loss_pictures(folder, runs)
    time, bars = None, training.stage_times(runs)
    if bars:
        caption = captions.time_caption(bars, training.BARS)
        time = folder.save_both("seconds", lambda width: training.draw_times(bars, width), caption)
    folder.remove_old()
    return Pictures(drawn, spent, forgotten, losses, time, tuple(folder.files)), unread


def _score_pictures(folder: _Folder, c: Comparison, runs: list[RunRecord]) -> list[Picture]:
    found = []
    for panel in c.panels:
        if panel.cells:
            name, notes = panel_name(panel, c), captions.scores_notes(panel, c, runs)
            file, caption = f"score-{title(c)}-{c.metric}-{name}", captions.scores_caption(panel, c)
            command = "" if panel.baseline else untuned_command(panel.cells[0].runs[0], folder.path.parent)
            about = {"name": name, "notes": notes, "command": command}
            found.append(folder.save_both(file, partial(draw_scores, panel, c), caption, **about))
    return found


def _cost_picture(folder: _Folder, c: Comparison, prices: Prices) -> Picture | None:
    priced = costs.priced(c, prices)
    if sum(cell.rank > 0 for _, cell, _ in priced) < 2:
        return None
    front = {cell.key for _, cell, _ in costs.front(c, prices)}
    unit = prices.currency if costs.axis(c, prices) == "money" else "seconds"
    draw, notes = partial(draw_costs, priced, front, c, unit), captions.cost_notes(c)
    return folder.save_both(f"cost-{title(c)}-{c.metric}", draw, captions.cost_caption(c, prices), notes=notes)


def _forgetting_picture(folder: _Folder, c: Comparison) -> Picture | None:
    cells = [cell for _, cell in c.cells() if cell.forgot]
    if not cells:
        return None
    untuned = next((cell for _, cell in c.cells() if cell.rank == 0), None)
    caption = captions.forgetting_caption(c)
    return folder.save_both(f"forgetting-{title(c)}", partial(draw_forgetting, cells, untuned, c), caption)


def _loss_pictures(folder: _Folder, runs: list[RunRecord]) -> tuple[list[Picture], list[UnreadFile]]:
    curves, unread, pictures = {}, [], []
    for run in runs:
        curves[run.folder], problems = load_curve(run)
        unread += problems
    groups = group_runs(runs)
    for group in groups:
        name = training.group_name(group, groups)
        stem = f"loss-{name}" if name else f"loss-{group.dataset}-{group.model}"
        caption = captions.losses_caption({run.name: curves[run.folder] for run in group.runs})
        pictures += [
            folder.save(stem, figure, caption, name=name, width=figure.get_figwidth() * 5)
            for figure in training.draw_losses(group, curves)
        ]
    return pictures, unread
