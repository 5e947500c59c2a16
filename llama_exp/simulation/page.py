"""The page to read a simulation on, or two over the same openings, side by side. page.html holds its sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llama_exp.formatting import format_p_value
from llama_exp.report.templating import TEMPLATES
from llama_exp.runs.files import atomic_write
from llama_exp.sanitize import visible
from llama_exp.simulation.conversations import ENDINGS
from llama_exp.simulation.scores import SCORES

if TYPE_CHECKING:
    from llama_exp.simulation.results import Simulation

SHOWN = 200  # conversations on the page; the file holds all
SAME = "the same in every conversation"  # no spread: an interval of no width would claim that it is so everywhere


def write_page(
    path: Path, simulations: "Sequence[Simulation]", differences: dict[str, dict[str, Any]] | None = None
) -> None:
    """`differences`: those of comparison.json, for two simulations."""
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "number": format_number, "p_value": format_p_value}
    rows = list(zip(*(simulation.conversations for simulation in simulations), strict=True))
    page = environment.get_template("page.html").render(
        simulations=[simulation.results for simulation in simulations],
        rows=rows[:SHOWN],
        count=len(rows),
        scores={name: text for name, text in SCORES.items() if any(name in s.results["scores"] for s in simulations)},
        differences=differences,
        endings=ENDINGS,
        same=SAME,
        if_fewer=if_fewer,
    )
    with atomic_write(path) as file:
        file.write(page)


def if_fewer(items: int, count: int) -> str:
    """` (n = 13)` for a score that is undefined in some conversations."""
    return f" (n = {items})" if items < count else ""


def format_number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
