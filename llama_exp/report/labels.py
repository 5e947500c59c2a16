"""Short names for what is shown, in the terminal and on the page: scores, sizes, cells, panels, comparisons."""

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml

from llama_exp.config.compose import CONF
from llama_exp.formatting import (
    decimal_places,
    format_decimal,
    format_range,
    format_with_interval,
    join_list,
    low_to_high,
    plural,
)
from llama_exp.metrics import METRICS, load
from llama_exp.report.cells import Cell, Comparison, Panel
from llama_exp.report.load import RunRecord
from llama_exp.runs.results import Results
from llama_exp.sanitize import clean

STAGE_NAMES = {
    "import": "start-up",
    "load": "model loading",
    "data": "data",
    "train": "training",
    "save": "saving",
    "evaluate": "evaluation",
}


def with_interval(c: Comparison, cell: Cell, metric: str = "") -> str:
    """`71.2 ± 1.6`; the metric is by default the one that is ranked by."""
    metric = metric or c.metric
    return format_with_interval(cell.mean(metric), cell.interval(metric), c.describe(metric).decimals)


def with_confidence(c: Comparison, cell: Cell) -> str:
    """`71.2 (95 % CI 69.6 to 72.8)`: for a headline, where no symbol has been explained yet."""
    interval = cell.interval(c.metric)
    if not interval or interval.high - interval.low < 1e-9:
        return with_interval(c, cell)
    score = format_decimal(cell.mean(c.metric), decimal_places((interval.high - interval.low) / 2))
    return f"{score} (95 % CI {low_to_high(interval.low, interval.high)})"


def size_of(cell: Cell) -> str:
    if cell.examples is None:
        return "all examples"
    return f"all {cell.examples:,} examples" if cell.whole else plural(cell.examples, "example")


def in_training(cell: Cell) -> str:
    """`29`, or `27 to 31` where runs differ: how many of its examples reached training."""
    return format_range(cell.encoded) or "–"


def measured_items(comparison: Comparison) -> str:
    """`13`, or `13 to 15`: how many items have a loss, where that is not all of them; else ""."""
    found = {n for one in comparison.runs() if (n := one.evaluation.measured) is not None}
    return "" if found == {comparison.items} else format_range(found)


def metric_settings(comparison: Comparison) -> list[tuple[str, str]]:
    """(metric, `minilm, layer 6, not rescaled`) of the metrics whose numbers depend on how they were computed."""
    found: dict[str, list[str]] = {}
    for family in sorted(METRICS.keys() & {metric.split("/")[0] for metric in comparison.metrics}):
        metric = load(family)
        if metric.describe_facts is None:
            continue
        for one in comparison.runs():
            if any(name in one.evaluation.scores for name in metric.scores):
                facts = metric.describe_facts(one.evaluation.results.facts.get(family, {}))
                found.setdefault(metric.label, []).append(facts)
    return [(label, "; ".join(dict.fromkeys(facts))) for label, facts in found.items()]


def key_value(key: str, value: Any) -> str:
    """`lr 0.005` for optimizer.lr."""
    leaf = key.rpartition(".")[2]
    if (family := key.partition(".")[0]) in METRICS:
        return f"{load(family).label}'s {leaf} {value}"
    name = key if leaf in ("path", "name", "revision", "test") else leaf
    return f"{name} {'none' if value in (None, 'None') else value}"


def key_name(key: str) -> str:
    """`learning rate` for optimizer.lr."""
    return {"optimizer.lr": "learning rate", "trainer.max_epochs": "number of epochs"}.get(key, key)


def forgotten_dataset(comparison: Comparison) -> str:
    """What the runs were not tuned on and their loss was measured on; "" where it was not."""
    return next((s.forgot.dataset for _, s in comparison.cells() if s.forgot), "")


def validation_items(comparison: Comparison) -> int:
    """How many validation Examples chose among its cells."""
    return max((one.validation.items or 0 for one in comparison.runs() if one.validation), default=0)


def panel_name(panel: Panel, comparison: Comparison) -> str:
    """What sets this panel apart: the model where there are several, and the training keys that differ."""
    several = len({p.model for p in comparison.panels}) > 1
    return ", ".join([f"model {panel.model}"] * several + [key_value(k, v) for k, v in panel.keys.items()])


def cell_name(panel: Panel, cell: Cell, comparison: Comparison, beside: Panel | None = None) -> str:
    """`rank 8 on 1,000 examples with lr 0.005`; its panel is not named `beside` another cell of that panel."""
    name = panel_name(panel, comparison)
    if cell.rank == 0:
        return "the untuned model" + (f" {panel.model}" if name.startswith("model ") else "")
    settings = ", ".join(key_value(key, value) for key, value in cell.tuned.items())
    name = ", ".join(filter(None, (name if panel is not beside else "", settings)))
    return f"rank {cell.rank} on {size_of(cell)}" + (f" with {name}" if name else "")


def dataset_name(c: Comparison) -> str:
    """The evaluated dataset as its config labels it; in an evaluation that did not store the label, as conf/ does."""
    return clean(_evaluation_keys(c).get("dataset.label") or _preset(c.dataset).get("label") or c.dataset, 80)


def _item_name(c: Comparison) -> str:
    return clean(_evaluation_keys(c).get("dataset.item") or _preset(c.dataset).get("item") or "item", 40)


@functools.cache
def _preset(dataset: str) -> dict[str, Any]:
    """conf/dataset/NAME.yaml of a dataset of this package, {} for others."""
    path = next((path for path in (CONF / "dataset").glob("*.yaml") if path.stem == dataset), None)
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path else {}


def title(comparison: Comparison) -> str:
    """`SQuAD (synthetic)`; with the training set where it is another one."""
    name = dataset_name(comparison)
    if comparison.trained_on != comparison.dataset:
        name += f" after training on {_preset(comparison.trained_on).get('label') or comparison.trained_on}"
    shown_elsewhere = ("source", "path", "eval_sample")  # where rows come from; how many items, in `split_of`
    keys = {k: v for k, v in comparison.keys.items() if k.rpartition(".")[2] not in shown_elsewhere}
    extra = list(filter(None, [_source(comparison), *(key_value(k, v) for k, v in keys.items())]))
    return name + (f" ({', '.join(extra)})" if extra else "")


def _source(comparison: Comparison) -> str:
    """Where the items came from, if not from the hub: a made-up set must not be taken for the real one."""
    keys = _evaluation_keys(comparison)
    if keys.get("dataset.path"):
        return f"rows from {clean(keys['dataset.path']).rstrip('/').rpartition('/')[2]}"
    return "synthetic" if keys.get("dataset.source") == "synthetic" else ""


def split_of(comparison: Comparison) -> str:
    """`test split, a sample of 300 questions`; `test split, all 10,570 questions`."""
    items = plural(comparison.items, _item_name(comparison)) if comparison.items else ""
    keys = _evaluation_keys(comparison)
    if items and "eval_sample" in keys:
        items = f"a sample of {items}" if keys["eval_sample"] not in (None, "None") else f"all {items}"
    return f"{comparison.split or 'unnamed'} split" + (f", {items}" if items else "")


def _evaluation_keys(comparison: Comparison) -> dict[str, Any]:
    """How the items were chosen and prompted, as stored with the first evaluation."""
    return next((one.evaluation.results.evaluation for one in comparison.runs()), {})


def seconds_by_stage(run: RunRecord) -> dict[str, float]:
    """An evaluation that came after the run counts as its last stage."""
    seconds = {stage: spent for stage, spent in run.summary.seconds.items() if spent >= 0}
    if not seconds.get("evaluate"):
        seconds["evaluate"] = sum(max(e.results.seconds or 0, 0) for e in run.evaluations)
    return seconds


def provenance(runs: Iterable[RunRecord]) -> dict[str, Counter]:
    """Commit, device and versions, each with how many runs have which value."""
    found: dict[str, Counter] = {}
    for run in runs:
        results = run.evaluations[0].results if run.evaluations else Results()
        facts = {
            "commit": run.summary.commit or results.commit or "not recorded",
            "device": run.summary.device,
            "quantisation": run.summary.quantisation,
            **(run.summary.versions or results.versions),
        }
        for key, value in facts.items():
            if value is not None:
                found.setdefault(key, Counter())[clean(value, 80)] += 1
    return found


def counted(values: Counter) -> str:
    """`cuda (3 runs) and cpu (1 run)`; one value alone without its count."""
    if len(values) == 1:
        return next(iter(values))
    return join_list((f"{value} ({plural(n, 'run')})" for value, n in values.most_common()), 8)
