"""How the figures look, and how they become files: one drawing for light, dark and paper.

The colours of the SVG become CSS variables, so that the page decides what ink and paper are.
"""

import io
import math
import re
import warnings
from collections.abc import Callable
from functools import wraps
from html import escape

from matplotlib import rc_context

# After Okabe and Ito (2008): distinct with any kind of colour vision; darkened where a letter would be too pale.
# In the order of the ranks 1, 2, 4 … 128, those that are often drawn together (1, 4, 16, 64) furthest apart.
RANKS = ("#0072b2", "#a16600", "#008465", "#5b5fc7", "#be5200", "#7a5c3e", "#b04e85", "#4b7488")
MARKERS = "os^Dv<>P"
STAGES = {
    "import": "#d3d7dc",
    "load": "#b4bac2",
    "data": "#949ca6",
    "train": "#46639c",
    "save": "#767e89",
    "evaluate": "#c49a4a",
}
INK, MUTED, GRID, PAPER = "#1c2024", "#5f666e", "#e2e5e8", "#fefefe"
CSS = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{c: f"--rank{i}" for i, c in enumerate(RANKS)},
    **{c: f"--{s}" for s, c in STAGES.items()},
}
PAGE_COLOURS = ("--ink", "--muted", "--grid", "--paper")  # the page's own, set in templates/page_style.jinja
WIDE, NARROW = 6.4, 4.0  # inches: a figure on a screen, and on a phone, where a shrunk one could not be read
HOVER = "hover: "  # a mark whose gid begins so has the rest as its tooltip
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "llama_exp",
}


def rank_index(rank: int) -> int:
    """The index of a rank in RANKS and MARKERS, by itself alone: it looks the same in every report.

    Powers of two follow each other; another rank takes the look of one that is far from it.
    """
    if rank < 1:
        return 0
    double = round(math.log2(rank))
    return (double if 2**double == rank else double + 4) % len(RANKS)


def colour(rank: int) -> str:
    return RANKS[rank_index(rank)]


def marker(rank: int) -> str:
    return MARKERS[rank_index(rank)]


def page_colours() -> dict[str, str]:
    """{"--rank0": "#0072b2", …}: the colours of the figures that a page has no name of its own for."""
    return {name: ink for ink, name in CSS.items() if name not in PAGE_COLOURS}


def time_unit(longest: float) -> tuple[int, str]:
    """(seconds in it, name) of the unit that suits an axis up to `longest` seconds."""
    return (3600, "hours") if longest > 7200 else (60, "minutes") if longest > 180 else (1, "seconds")


def styled(draw: Callable) -> Callable:
    @wraps(draw)
    def wrapper(*args, **kwargs):
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def png(figure) -> bytes:
    """The figure on white, for slides and messages."""
    buffer = io.BytesIO()
    _save(figure, buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def _save(figure, buffer, **how) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks: boxes, no noise
        figure.savefig(buffer, **how)
    figure.set_layout_engine("none")  # laid out once: the second file gets the same layout in half the time


def svg(figure, number: int | str, label: str) -> str:
    """The figure as inline SVG: its own ids, the page's fonts, colours from CSS variables, tooltips without scripts."""
    buffer = io.StringIO()
    with rc_context(STYLE):
        _save(
            figure,
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Type": None, "Format": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>f{number}-", text)
    text = re.sub(rf'<g id="f{number}-{HOVER}([^"]*)">', r"<g><title>\1</title>", text)
    for colour, variable in CSS.items():
        text = text.replace(colour, f"var({variable})")
    text = text.replace("'DejaVu Sans'", "var(--font)").replace("DejaVu Sans", "var(--font)")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
