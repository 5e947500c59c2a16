"""Draws every figure of a report: a PNG file each, and the same as SVG for the page."""

import re
from pathlib import Path

from llama_exp.report import captions, costs, labels
from llama_exp.report.cells import Comparison
from llama_exp.report.costs import Prices
from llama_exp.report.families import group_runs
from llama_exp.report.figures import scores, style, training
from llama_exp.report.load import RunRecord, UnreadFile, load_curve
from llama_exp.report.page import Picture, Pictures, panel_notes
from llama_exp.runs.files import atomic_write


def draw_figures(
    home: Path, compared: list[Comparison], runs: list[RunRecord], prices: Prices
) -> tuple[Pictures, list[UnreadFile]]:
    """All figures, as PNG files in `home` and as SVG for the page."""

    files: dict[str, None] = {}

    def picture(file_name: str, figure, label: str, **kept) -> Picture:
        stem = re.sub(r"[^A-Za-z0-9._]+", "-", file_name)[:80].strip("-.")
        while f"{stem}.png" in files:
            stem += "-2"
        files[f"{stem}.png"] = None
        with atomic_write(home / f"{stem}.png", "wb") as file:
            file.write(style.png(figure))
        return Picture(style.svg(figure, len(files), label), **kept)

    drawn: dict[int, list[Picture]] = {}
    spent: dict[int, Picture] = {}
    for i, c in enumerate(compared):
        for panel in c.panels:
            if c.best() and panel.cells:
                name, caption = labels.panel_name(panel, c), captions.caption(panel, c)
                drawn.setdefault(i, []).append(
                    picture(
                        f"score-{labels.title(c)}-{c.metric}-{name}",
                        scores.scores(panel, c),
                        caption,
                        name=name,
                        caption=caption,
                        notes=panel_notes(panel, c, runs, home.parent),
                    )
                )
        if sum(s.rank > 0 for _, s, _ in costs.priced(c, prices)) > 1:
            caption = captions.cost_caption(c, prices)
            front = {s.key for _, s, _ in costs.front(c, prices)}
            unit = prices.currency if costs.axis(c, prices) == "money" else "seconds"
            spent[i] = picture(
                f"cost-{labels.title(c)}-{c.metric}",
                scores.costs(costs.priced(c, prices), front, c, unit),
                caption,
                caption=caption,
                notes=captions.cost_notes(c),
            )
    curves, unread = {}, []
    for run in runs:
        curves[run.folder], problems = load_curve(run)
        unread += problems
    losses, groups = [], group_runs(runs)
    for family in groups:
        name = training.family_name(family, groups)
        stem = f"loss-{name}" if name else f"loss-{family.dataset}-{family.model}"
        caption = captions.losses_caption({r.name: curves[r.folder] for r in family.runs})
        losses += [
            picture(stem, figure, caption, name=name, caption=caption, width=figure.get_figwidth() * 5)
            for figure in training.losses(family, curves)
        ]
    time, bars = None, training.bars(runs)
    if bars:
        caption = captions.time_caption(bars, training.BARS)
        time = picture("seconds", training.time_spent(bars), caption, caption=caption)
    for old in home.glob("*.png"):
        if old.name not in files and re.match(r"(score-|cost-|loss-|seconds)", old.name):
            old.unlink()
    return Pictures(drawn, spent, losses, time, tuple(files)), unread
