"""The forecasts of a sweep and their sum."""

from collections.abc import Sequence

from rich.text import Text

from llama_exp.console import make_console, make_table
from llama_exp.formatting import format_count, format_duration, format_large, format_memory, format_money, plural
from llama_exp.preflight.forecast import CellForecast
from llama_exp.preflight.inspection import say
from llama_exp.report import costs


def print_forecasts(cells: Sequence[CellForecast]) -> None:
    """A row per cell, and what all of them take, one after another."""
    currency = costs.load().currency
    common = set.intersection(*(set(cell.name.split()) for cell in cells)) if len(cells) > 1 else set()
    table = make_table(f"{plural(len(cells), 'cell')} before training")
    table.add_column("cell")
    for heading in ("Examples", "steps", "tokens", "memory", "training", "cost"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("how")
    for cell in cells:
        table.add_row(
            Text(" ".join(word for word in cell.name.split() if word not in common) or cell.name),
            format_count(cell.examples),
            format_count(cell.steps),
            format_large(cell.tokens),
            format_memory(cell.memory),
            format_duration(cell.seconds),
            "–" if cell.seconds is None else format_money(cell.cost, currency),
            Text(cell.status),
        )
    make_console().print(table)
    say(summarize_forecasts(cells, currency), "bold")
    if any(cell.cost is None for cell in cells if cell.seconds is not None):
        say("Cost is unknown: it takes a GPU, and its price per hour in conf/report.yaml (price_per_gpu_hour).")


def summarize_forecasts(cells: Sequence[CellForecast], currency: str) -> str:
    """`2 cells to train: about 3 min 20 s; at most 1.5 GiB of 4.0 GiB; 0.40 EUR. 1 cell refused.`"""
    planned = [cell for cell in cells if cell.seconds is not None]
    parts = ["Nothing to train"]
    if planned:
        largest = max(planned, key=lambda cell: cell.memory)
        parts = [
            f"{plural(len(planned), 'cell')} to train: about {format_duration(sum(cell.seconds for cell in planned))}",
            f"at most {format_memory(largest.memory)} of {format_memory(largest.memory_limit)}",
        ]
        if all(cell.cost is not None for cell in planned):
            parts.append(format_money(sum(cell.cost for cell in planned), currency))
    refused = sum(cell.status.startswith("refused") for cell in cells)
    return "; ".join(parts) + (f". {plural(refused, 'cell')} refused." if refused else ".")
