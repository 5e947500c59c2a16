"""What tuning did to the loss on data that the runs were not tuned on: each cell against the untuned model.

The difference is paired by item, with groups as units, and holds the luck of runs, like every comparison of cells.
"""

from dataclasses import replace
from typing import Any

from llama_exp.report.analyse import CellItems, Reader, cell_items, contender
from llama_exp.report.cells import Cell, Comparison, Forgetting, Panel, ScoredRun
from llama_exp.sanitize import clean
from llama_exp.statistics.ranking import rank_cells


def with_forgetting(c: Comparison, read: Reader) -> Comparison:
    """The comparison with what each cell forgot, where it and its untuned model were measured on the same items."""

    def of_panel(panel: Panel) -> Panel:
        untuned = _items(panel.baseline, read) if panel.baseline else None
        return replace(panel, cells=tuple(_with_change(s, untuned, read) for s in panel.cells)) if untuned else panel

    return replace(c, panels=tuple(map(of_panel, c.panels)))


def _items(cell: Cell, read: Reader) -> CellItems | None:
    """The losses on the other data, item by item; None where a run has none."""
    runs = [ScoredRun(one.run, one.forgetting) for one in cell.runs if one.forgetting]
    found = cell_items(replace(cell, runs=tuple(runs)), "loss", read) if len(runs) == len(cell.runs) else None
    return found if isinstance(found, CellItems) else None


def _read_as(items: CellItems) -> dict[str, Any]:
    stored = items.runs[0].evaluation.results.evaluation
    return {key: value for key, value in stored.items() if key.startswith("dataset.") or key == "max_length"}


def _with_change(cell: Cell, untuned: CellItems, read: Reader) -> Cell:
    tuned = _items(cell, read)
    if not tuned or (tuned.ids(), tuned.groups()) != (untuned.ids(), untuned.groups()):
        return cell
    if _read_as(tuned) != _read_as(untuned):
        return cell
    reference = contender(untuned, "loss")
    difference, _ = rank_cells([contender(tuned, "loss"), reference], lower_is_better=True).against[reference.key]
    if difference.low is None or difference.high is None:
        return cell
    evaluation = tuned.runs[0].evaluation
    label = clean(evaluation.results.evaluation.get("dataset.label") or evaluation.dataset, 40)
    before = untuned.runs[0].evaluation.scores["loss"]
    found = Forgetting(label, difference.items, before, difference.difference, difference.low, difference.high)
    return replace(cell, forgot=found)
