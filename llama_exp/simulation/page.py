"""The readable page of a simulation, or of two over the same openings, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_exp.runs.files import atomic_write
from llama_exp.sanitize import visible
from llama_exp.simulation.conversations import ENDINGS, Conversation

SHOWN = 200  # conversations on the page; the file holds all
SAME = "the same in every conversation"  # no spread: an interval of no width would claim that it is so everywhere
SCORES = {
    "turns": "turns, the opening included",
    "closing": "share that reached a closing",
    "words": "words that models said",
    "distinct_1": "different words in the share of all",
    "distinct_2": "different word pairs in the share of all",
    "self_repetition": "share of a turn's word pairs that its speaker had used before",
    "real_loss_client": "loss on the client's real turns, nats a token",
    "real_loss_agent": "loss on the agent's real turns, nats a token",
}


def write_page(
    path: Path, held: Sequence[tuple[dict[str, Any], list[Conversation]]], differences: dict | None = None
) -> None:
    """`held`: (simulation.json, conversations), one or two; `differences`: comparison.json's, for two."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    rows = list(zip(*(found for _, found in held), strict=True))
    names = [name for name in SCORES if any(name in results["scores"] for results, _ in held)]
    page = template.render(
        held=[results for results, _ in held],
        rows=rows[:SHOWN],
        count=len(rows),
        scores=[
            (name, SCORES[name], [cell(results, name) for results, _ in held], difference(differences, name, len(rows)))
            for name in names
        ],
        endings=ENDINGS,
        compared=differences is not None,
    )
    with atomic_write(path) as file:
        file.write(page)


def cell(results: dict[str, Any], name: str) -> str:
    """A mean with its interval."""
    if name not in results["scores"]:
        return "none"
    found = results["intervals"][name]
    low, high = found.get("low"), found.get("high")
    told = number(results["scores"][name])
    if low is not None and high is not None:
        told += f" ({number(low)} to {number(high)})"
    return told + of_fewer(found["items"], results["conversations"])


def difference(differences: dict | None, name: str, count: int) -> str:
    found = (differences or {}).get(name)
    if found is None:
        return ""
    fewer = of_fewer(found["items"], count)
    if found["low"] == found["high"] == 0:
        return SAME + fewer
    told = f"{found['difference']:+.2f}"
    if found["low"] is not None:
        told += f" ({found['low']:+.2f} to {found['high']:+.2f})"
    return f"{told}, p {p_text(found['p_adjusted'])}{fewer}"


def of_fewer(items: int, count: int) -> str:
    """` (n = 13)`, where a score is not defined in all conversations."""
    return f" (n = {items})" if items < count else ""


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
