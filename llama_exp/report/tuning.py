"""Learning rates and epochs of a sweep: chosen by validation for each rank and size, shown beside what was not chosen.

A rank that is compared at a rate that suits another one looks worse than it is. So panels that differ in these keys
alone become one, in which each cell has the values that validation finds best for it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from llama_exp.formatting import format_score
from llama_exp.metrics import likelihood
from llama_exp.report.cells import Cell, Comparison, Panel
from llama_exp.report.labels import cell_name, key_value

TUNED = ("optimizer.lr", "trainer.max_epochs")


def choose_settings(panels: list[Panel], metric: str, lower_is_better: bool) -> list[Panel]:
    """Panels that differ in TUNED keys alone, as one panel: of each rank and size the cell that validation finds best.

    By validation scores where all have them, else by validation loss; where neither is known the panels stay apart, as
    a choice by the scores that are reported would flatter them.
    """
    alike: dict[str, list[Panel]] = {}
    for panel in panels:
        alike.setdefault(str({k: v for k, v in panel.keys.items() if k not in TUNED}), []).append(panel)
    found = []
    for group in alike.values():
        cells = [replace(s, tuned=_chosen_keys(p)) for p in group for s in p.cells]
        by = _known_of_all(cells, metric) if len(group) > 1 else ""

        def merit(cell: Cell, by: str = by) -> tuple[float, float]:
            loss = -(cell.validation("loss") or 0.0)
            if by == "validation loss":
                return -(cell.validation_loss() or 0.0), loss
            return (-1 if lower_is_better else 1) * (cell.validation(metric) or 0.0), loss

        found += [_one_panel(group, cells, by, merit)] if by else group
    return found


def _known_of_all(cells: list[Cell], metric: str) -> str:
    """What can choose among cells, because it is known of all; "" where nothing is."""
    if all(cell.validation(metric) is not None for cell in cells):
        return "validation scores"
    return "validation loss" if all(cell.validation_loss() is not None for cell in cells) else ""


def _on_shared_seeds(cells: list[Cell]) -> list[Cell]:
    """The cells with the runs alone whose seeds all have; as they are where there is none: one lucky run must not beat
    the mean of five."""
    seeds = [{(one.run.data_seed, one.run.seed) for one in cell.runs} for cell in cells]
    shared = set.intersection(*seeds)
    if not shared:
        return cells
    return [
        replace(cell, runs=tuple(one for one in cell.runs if (one.run.data_seed, one.run.seed) in shared))
        for cell in cells
    ]


def _chosen_keys(panel: Panel) -> dict[str, Any]:
    return {key: panel.keys[key] for key in TUNED if key in panel.keys}


def _one_panel(group: list[Panel], cells: list[Cell], by: str, merit: Callable[[Cell], tuple]) -> Panel:
    by_place: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        by_place.setdefault((cell.rank, cell.size), []).append(cell)
    chosen = []
    for _, candidates in sorted(by_place.items()):
        merits = [merit(cell) for cell in _on_shared_seeds(candidates)]
        best = candidates[merits.index(max(merits))]
        chosen.append(replace(best, others=tuple(one for one in candidates if one is not best)))
    first = group[0]
    keys = {key: value for key, value in first.keys.items() if key not in TUNED}
    follows: dict[str, dict[int, Any]] = {}
    for panel in group:
        for key, by_rank in panel.follows_rank.items():
            follows.setdefault(key, {}).update(by_rank)
    tuned = tuple(key for key in TUNED if len({str(panel.keys.get(key)) for panel in group}) > 1)
    return Panel(first.model, keys, follows, tuple(chosen), first.baseline, tuned, by)


@dataclass(frozen=True, slots=True)
class Entry:
    """One rate of a cell. share: where its score lies between the worst (0) and the best (1) of the table."""

    text: str
    share: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class SettingsTable:
    """What validation chose by: a row per rank and size, a column per value; None where a value was not tried."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry | None, ...]], ...]
    score: str  # what the entries are
    lower_is_better: bool


def settings_table(panel: Panel, c: Comparison) -> SettingsTable | None:
    if not panel.tuned:
        return None
    by_loss = panel.tuned_by == "validation loss"
    score = c.describe("loss" if by_loss else "")
    cells = [same for cell in panel.cells for same in (cell, *cell.others)]
    values = sorted({_values(cell, panel) for cell in cells}, key=_in_order)
    found = {cell.key: cell.validation_loss() if by_loss else cell.validation(c.metric) for cell in cells}
    known = [value for value in found.values() if value is not None]
    worst, best = (max(known), min(known)) if score.lower_is_better else (min(known), max(known))
    rows = []
    for cell in panel.cells:
        tried = {_values(same, panel): same for same in (cell, *cell.others)}
        entries = []
        for value in values:
            number = found[tried[value].key] if value in tried else None
            share = 1.0 if number is None or best == worst else (number - worst) / (best - worst)
            text = format_score(number, score.decimals)
            entries.append(None if number is None else Entry(text, round(share, 3), tried[value] is cell))
        rows.append((cell_name(panel, replace(cell, tuned={}), c, beside=panel), tuple(entries)))
    heads = tuple(", ".join(key_value(k, v) for k, v in zip(panel.tuned, value, strict=True)) for value in values)
    label = likelihood.LOSS.label if by_loss else score.label
    return SettingsTable(heads, tuple(rows), label, score.lower_is_better)


def _values(cell: Cell, panel: Panel) -> tuple[Any, ...]:
    return tuple(cell.tuned.get(key) for key in panel.tuned)


def _in_order(values: Iterable[Any]) -> tuple:
    """Numbers by size, and what is none behind them."""
    return tuple((0, value, "") if isinstance(value, int | float) else (1, 0, str(value)) for value in values)


def settings_at_edge(panel: Panel, rank: int, examples: int | None) -> list[tuple[str, Any, bool]]:
    """(key, value, is the highest) of what was chosen at the edge of what was tried, for the cell of this rank that is
    nearest to `examples`: beyond the edge may be better."""
    cell = nearest_cell(panel, rank, examples)
    if cell is None:
        return []
    found = []
    for key in panel.tuned:
        tried = {value for same in (cell, *cell.others) if isinstance(value := same.tuned.get(key), int | float)}
        if len(tried) > 1 and (mine := cell.tuned.get(key)) in (min(tried), max(tried)):
            found.append((key, mine, mine == max(tried)))
    return found


def nearest_cell(panel: Panel, rank: int, examples: int | None) -> Cell | None:
    """The cell of a rank whose size is nearest to `examples`, by ratio."""
    cells = [cell for cell in panel.cells if cell.rank == rank]
    wanted = examples or max((cell.size for cell in cells), default=0)
    return min(cells, key=lambda cell: abs(math.log(max(cell.size, 1) / max(wanted, 1))), default=None)
