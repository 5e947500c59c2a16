"""Numbers and names in words: how scores, sizes, times and cells are said, in the terminal and on the page."""

from collections.abc import Iterable
from typing import Any

from llama_exp.formatting import format_range, format_score, format_with_interval, join_list, plural
from llama_exp.report.cells import Cell, Comparison, Panel, ScoredRun
from llama_exp.report.load import RunRecord, StoredInterval
from llama_exp.sanitize import as_dict, clean


def span(metric: str, interval: StoredInterval | None) -> str:
    return f"{format_score(metric, interval.low)} to {format_score(metric, interval.high)}" if interval else ""


def with_span(metric: str, cell: Cell) -> str:
    return format_with_interval(cell.mean(metric), cell.interval(metric), metric)


def with_confidence(metric: str, cell: Cell) -> str:
    """`71.2 (likely 69.6 to 72.8)`: for a headline, where no symbol has been explained yet."""
    interval, said = cell.interval(metric), with_span(metric, cell)
    if not interval or interval.high - interval.low < 1e-9:
        return said
    from llama_exp.statistics.words import decimals

    places = decimals((interval.high - interval.low) / 2)
    return f"{cell.mean(metric):z.{places}f} (likely {interval.low:z.{places}f} to {interval.high:z.{places}f})"


def size_of(cell: Cell) -> str:
    if cell.examples is None:
        return "all examples"
    return f"all {cell.examples:,} examples" if cell.whole else plural(cell.examples, "example")


def in_training(cell: Cell) -> str:
    """`29`, or `27 to 31` where runs differ: how many of its examples reached training."""
    return format_range(cell.encoded) or "–"


def dropped(cells: Iterable[Cell]) -> str:
    """Which sample sizes mislead, because much of them did not reach training; "" where none does."""
    shrunk = sorted((s for s in cells if s.shrunk), key=lambda s: (s.examples, s.rank))
    if not shrunk:
        return ""
    each = dict.fromkeys(f"{in_training(s)} of {s.examples:,}" for s in shrunk)
    return (
        f"Sizes are those of the samples. What reached training is less: {join_list(each, 8)} examples; the responses of the "
        "others are empty or do not fit in max_length."
    )


def measured(comparison: Comparison) -> str:
    """`13`, or `13 to 15`: how many items have a loss, where that is not all of them; else ""."""
    found = {n for one in scored_in(comparison) if (n := one.evaluation.measured) is not None}
    return "" if found == {comparison.items} else format_range(found)


def encoders(comparison: Comparison) -> str:
    """What BERTScore was made with: an encoder, its layer, and whether bert-score's baseline spread the numbers out."""
    said = []
    for one in scored_in(comparison):
        facts = as_dict(one.evaluation.details, "facts", "bertscore")
        if any(name.startswith("bertscore/") for name in one.evaluation.scores):
            rescaled = {True: f"rescaled by its baseline ({clean(facts.get('language'))})", False: "not rescaled"}
            said.append(
                f"{clean(facts['model'])}, layer {clean(facts.get('layer', 'not recorded'))}, "
                f"{rescaled.get(facts.get('rescaled'), 'rescaling not recorded')}"
                if "model" in facts
                else "not recorded"
            )
    return "; ".join(dict.fromkeys(said))


def key_value(key: str, value: Any) -> str:
    leaf = key.rpartition(".")[2]
    if key.startswith("bertscore."):
        return f"BERTScore's {leaf} {value}"
    return f"{key if leaf in ('path', 'name', 'revision', 'test') else leaf} {'none' if value in (None, 'None') else value}"


def panel_name(panel: Panel, comparison: Comparison) -> str:
    """What sets this panel apart: the model where there are several, and the training keys that differ."""
    several = len({p.model for p in comparison.panels}) > 1
    words = ([f"model {panel.model}"] if several else []) + [key_value(k, v) for k, v in panel.keys.items()]
    return ", ".join(words)


def title(comparison: Comparison) -> str:
    """squad (rows made by rule); with the training set where it is another one."""
    name = (
        comparison.dataset
        if comparison.trained_on == comparison.dataset
        else (f"{comparison.dataset} after training on {comparison.trained_on}")
    )
    said_elsewhere = ("source", "path", "eval_sample")  # where rows come from; how many items, in `split_of`
    told = {k: v for k, v in comparison.keys.items() if k.rpartition(".")[2] not in said_elsewhere}
    extra = ", ".join(
        [source_of(comparison)] * bool(source_of(comparison)) + [key_value(k, v) for k, v in told.items()]
    )
    return name + (f" ({extra})" if extra else "")


def source_of(comparison: Comparison) -> str:
    """Where the questions came from, if not from the hub: a made-up set must not be taken for the real one."""
    asked = asked_of(comparison)
    if asked.get("dataset.path"):
        return f"rows from {clean(str(asked['dataset.path'])).rstrip('/').rpartition('/')[2]}"
    return "rows made by rule" if asked.get("dataset.source") == "synthetic" else ""


def asked_of(comparison: Comparison) -> dict[str, Any]:
    """How the items were chosen and asked, as stored with the first evaluation."""
    scored = scored_in(comparison)
    return as_dict(scored[0].evaluation.details, "evaluation") if scored else {}


def scored_in(comparison: Comparison) -> list[ScoredRun]:
    """Every run's evaluation in it, those of the untuned models among them."""
    return [s for p in comparison.panels for cell in [*p.cells, *filter(None, [p.baseline])] for s in cell.scored]


def split_of(comparison: Comparison) -> str:
    """test split, a sample of 300 items; test split, all 10,570 items."""
    items = f"{comparison.items:,} items" if comparison.items else ""
    asked = asked_of(comparison)
    if items and "eval_sample" in asked:
        items = f"a sample of {items}" if asked["eval_sample"] not in (None, "None") else f"all {items}"
    return f"{comparison.split or 'unnamed'} split" + (f", {items}" if items else "")


def cell_phrase(panel: Panel, cell: Cell, comparison: Comparison) -> str:
    name = panel_name(panel, comparison)
    if cell.rank == 0:
        return "the untuned model" + (f" {panel.model}" if name.startswith("model ") else "")
    return f"{size_of(cell)} at rank {cell.rank}" + (f" ({name})" if name else "")


def rival(panel: Panel, cell: Cell, comparison: Comparison) -> str:
    """As `cell_phrase`, rank first, for a list; its panel is named only where it is not the best's own."""
    name = panel_name(panel, comparison) if panel is not comparison.best()[0] else ""
    if cell.rank == 0:
        return cell_phrase(panel, cell, comparison)
    return f"rank {cell.rank} on {size_of(cell)}" + (f" with {name}" if name else "")


def cell_name(panel: Panel, cell: Cell, comparison: Comparison) -> str:
    """A cell in the fewest words that tell it from the others: `rank 8 on 1,000 examples`."""
    name = panel_name(panel, comparison)
    if cell.rank == 0:
        return cell_phrase(panel, cell, comparison)
    return f"rank {cell.rank} on {size_of(cell)}" + (f" with {name}" if name else "")


def every(count: int, noun: str) -> str:
    return f"the one {noun}" if count == 1 else f"all {count:,} {noun}s"


def seconds_of(run: RunRecord) -> dict[str, float]:
    """Seconds by stage. An evaluation that came after the run counts as its last stage."""
    seconds = {k: v for k, v in as_dict(run.summary, "seconds").items() if isinstance(v, (int, float)) and v >= 0}
    if not seconds.get("evaluate"):
        spent = [e.details.get("seconds") for e in run.evaluations]
        seconds["evaluate"] = sum(s for s in spent if isinstance(s, (int, float)) and s >= 0)
    return seconds
