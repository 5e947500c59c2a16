"""Tables of strings: scores and what does not differ from the best, costs, learning curves; and of all runs, what was
dropped, what differs between them, versions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_exp.formatting import (
    format_count,
    format_duration,
    format_energy,
    format_large,
    format_memory,
    format_money,
    format_p_value,
    format_score,
    format_with_interval,
    join_list,
    with_range,
)
from llama_exp.metrics import likelihood
from llama_exp.report import captions, costs
from llama_exp.report.cells import Cell, Comparison, Panel
from llama_exp.report.compare import AXES
from llama_exp.report.costs import Prices
from llama_exp.report.labels import (
    cell_name,
    counted,
    forgotten_dataset,
    in_training,
    measured_items,
    panel_name,
    provenance,
    with_interval,
)
from llama_exp.report.load import RunRecord, StoredInterval, UnreadFile
from llama_exp.sanitize import as_dict, as_float, clean

AGAINST_BEST = "against the best"
NO_DIFFERENCE = "no significant difference"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: str = ""  # "number", "code" (to be typed), "run" (its name), or a text


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows of strings. `best` is the row to mark, `tied` those without a significant difference from it."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    best: int | None = None
    tied: frozenset[int] = frozenset()


def columns(*names: str) -> tuple[Column, ...]:
    """The last letter of a name is the column's kind: # a number, ` to be typed, / the name of a run."""
    return tuple(Column(n.rstrip("#`/"), {"#": "number", "`": "code", "/": "run"}.get(n[-1], "")) for n in names)


def scores_table(c: Comparison, wide: bool = True) -> TextTable:
    """A row per cell; the untuned model first, then by rank and size. `wide`: every metric, and no costs."""
    pairs = ordered_cells(c)
    metrics = _shown_metrics(c, wide)
    heads = _score_heads(c, metrics)
    ranked = len(pairs) > 1 and c.rivals() is not None
    made: dict[str, list[str]] = {}  # column -> its cells, from left to right
    if any(panel_name(p, c) for p in c.panels):
        made["cell"] = [panel_name(p, c) if s.rank else f"model {p.model}" for p, s in pairs]
    made["examples#"] = ["untuned" if s.rank == 0 else _size(s) for _, s in pairs]
    if any(s.shrunk for _, s in pairs):
        made["in training#"] = [in_training(s) for _, s in pairs]
    made["rank#"] = [str(s.rank) for _, s in pairs]
    for key in dict.fromkeys(key for p in c.panels for key in p.tuned):
        made[f"{key.rpartition('.')[2]}#"] = [str(s.tuned.get(key, "–")) for _, s in pairs]
    if any(s.seeds(c.metric) > 1 for _, s in pairs):
        made["runs#"] = [str(s.seeds(c.metric)) for _, s in pairs]
    if c.validated:
        validation = [format_score(s.validation(c.metric), c.describe().decimals) for _, s in pairs]
        made[f"{heads[0]}, validation#"] = validation
    made[f"{heads[0]}#"] = [with_interval(c, s) for _, s in pairs]
    if ranked:
        made[AGAINST_BEST] = [against_best(s, c, wide) for _, s in pairs]
    if any(s.clean(c.metric) for _, s in pairs):
        made[f"{heads[0]}, clean items#"] = [_clean_score(s, c) for _, s in pairs]
    if name := forgotten_dataset(c):
        made[f"loss on {name}, change#"] = [_forgot(s) for _, s in pairs]
    for metric, head in zip(metrics[1:], heads[1:], strict=True):
        made[f"{head}#"] = [with_interval(c, s, metric) for _, s in pairs]
    if not wide:
        found = [costs.cost(s, Prices()) for _, s in pairs]
        made["trainable#"] = [format_large(one.trainable) for one in found]
        made["tokens#"] = [format_large(one.tokens) for one in found]
        made["training#"] = [format_duration(one.seconds) for one in found]
        made["memory#"] = [format_memory(one.memory) for one in found]
    return _marked(c, pairs, columns(*made), list(zip(*made.values(), strict=True)))


def ordered_cells(c: Comparison, tuned: bool = False) -> list[tuple[Panel, Cell]]:
    """The cells in the order of the tables: the untuned model first, then by rank and size."""
    pairs = [(p, s) for p, s in c.cells() if s.rank or not tuned]
    return sorted(pairs, key=lambda ps: (ps[1].rank > 0, panel_name(ps[0], c), ps[1].rank, ps[1].examples or 0))


def _marked(c: Comparison, pairs: list[tuple[Panel, Cell]], heads: tuple[Column, ...], rows: list) -> TextTable:
    """The table with its best row and those without a significant difference from it."""
    best, tied = c.best(), {s.key for _, s in c.rivals() or ()}
    first = next((i for i, (_, s) in enumerate(pairs) if best and s is best[1]), None)
    return TextTable(heads, rows, first, frozenset(i for i, (_, s) in enumerate(pairs) if s.key in tied))


def _size(cell: Cell) -> str:
    return ("all " if cell.whole else "") + format_count(cell.examples)


def _family(metric: str) -> str:
    return metric.split("/")[0] if "/" in metric else ""


def _shown_metrics(c: Comparison, wide: bool) -> list[str]:
    """The ranked metric first; a narrow table shows every score of one family, or of several two and the first of each
    other family; and the loss."""
    metrics = [c.metric, *(m for m in c.metrics if m != c.metric)]
    if wide:
        return metrics
    one_family = len({_family(m) for m in metrics} - {""}) == 1
    families = [_family(m) for m in metrics]
    return [
        m
        for i, m in enumerate(metrics)
        if i < 2 or m == "loss" or (m != "perplexity" and (one_family or families[i] not in families[:i]))
    ]


def _score_heads(c: Comparison, metrics: list[str]) -> list[str]:
    """Names of the score columns, as people know them; of how many items, where some have no loss."""
    measured = measured_items(c)
    return [
        f"{score_head(c, m)} ({measured} items)" if m in likelihood.SCORES and measured else score_head(c, m)
        for m in metrics
    ]


def score_head(c: Comparison, metric: str = "") -> str:
    """`F1`: the label of a score, with its metric where another score has the same label.

    A score that declares no label goes by its name; where all are of one metric, by the last part of it.
    """
    metric = metric or c.metric
    names = {m: c.describe(m).label for m in dict.fromkeys((metric, c.metric, *c.metrics))}
    if names[metric] != metric:
        return names[metric] if Counter(names.values())[names[metric]] == 1 else f"{names[metric]} ({_family(metric)})"
    one_family = len({_family(m) for m in names} - {""}) == 1
    return metric.removeprefix(f"{_family(metric)}/") if one_family and metric != c.metric else metric


def runs_table(c: Comparison) -> TextTable:
    """Which runs a cell is made of: a table of its own, as their names are long."""
    cells = [(p, same) for p, s in ordered_cells(c) for same in (s, *s.others)]
    rows = [(cell_name(p, s, c), join_list((one.run.name for one in s.runs), 8)) for p, s in cells]
    return TextTable(columns("cell", "runs/"), rows)


def against_best(cell: Cell, c: Comparison, wide: bool) -> str:
    """`best`, `worse by 5.6 ± 2.1`, or `no significant difference: 1.9 ± 4.3`; short in a narrow table."""
    ranking = c.ranking
    if cell.key == c.ranked()[0][1].key:
        return "best"
    known = ranking.against.get(cell.key) if ranking else None
    if ranking is None or known is None:
        refused = ranking and cell.key in dict(ranking.refused)
        tied = cell.key in {r.key for _, r in c.rivals() or ()}
        return "not compared" if refused else "intervals overlap" if tied else "worse"
    tied = cell.key in ranking.tied
    verdict = "better" if cell.key in ranking.better else "worse"
    if not wide:
        return "tied" if tied else verdict
    gap = known[0]
    if gap.low is None or gap.high is None:
        return NO_DIFFERENCE if tied else verdict
    if tied and (gap.low > 0 or gap.high < 0):  # the interval is of this pair alone, p counts all pairs
        return f"{NO_DIFFERENCE} ({format_p_value(known[1])})"
    if tied:
        return f"{NO_DIFFERENCE}: {_difference(gap.difference, gap.low, gap.high)}"
    turned = gap.difference < 0  # of a score that is better when lower
    ends = (-gap.high, -gap.low) if turned else (gap.low, gap.high)
    return f"{verdict} by {_difference(abs(gap.difference), *ends)}"


def _forgot(cell: Cell) -> str:
    if cell.forgot is None:
        return "–"
    return with_range(cell.forgot.change, cell.forgot.low, cell.forgot.high, sign=True)


def _difference(difference: float, low: float, high: float) -> str:
    return format_with_interval(difference, StoredInterval(low + 0.0, high + 0.0))  # + 0.0: no minus before a zero


def _clean_score(cell: Cell, c: Comparison) -> str:
    found = cell.clean(c.metric)
    return format_with_interval(found[0], found[1], c.describe().decimals) if found else "–"


def cost_table(c: Comparison, prices: Prices) -> TextTable:
    """What training one run of each cell took; unknown where it was not recorded."""
    pairs = ordered_cells(c, tuned=True)
    named = any(panel_name(p, c) for p, _ in pairs)
    heads = columns(
        *["cell"] * named,
        *("examples#", "rank#", f"{score_head(c)}#", "training time#", "tokens#", "peak memory#"),
        *("trainable parameters#", "energy#", "money#"),
    )
    rows = []
    for p, s in pairs:
        cost = costs.cost(s, prices)
        recorded = (
            format_duration(cost.seconds),
            format_large(cost.tokens),
            format_memory(cost.memory),
            format_large(cost.trainable),
        )
        rows.append(
            (
                *[panel_name(p, c)] * named,
                *(_size(s), str(s.rank), with_interval(c, s)),
                *("unknown" if value == "–" else value for value in recorded),
                *(format_energy(cost.energy), format_money(cost.money, prices.currency)),
            )
        )
    return without_unknown(_marked(c, pairs, heads, rows))


def without_unknown(table: TextTable) -> TextTable:
    """The table without the columns in which nothing is known."""
    known = [at for at in range(len(table.columns)) if {row[at] for row in table.rows} - {"unknown"}]
    return replace(
        table,
        columns=tuple(table.columns[at] for at in known),
        rows=[tuple(row[at] for at in known) for row in table.rows],
    )


def curve_table(c: Comparison, prices: Prices) -> TextTable | None:
    """What more data would bring, rank by rank, or why that cannot be estimated."""
    target, rows = captions.target_score(c, prices), []
    for panel in c.panels:
        for rank, curve in sorted(panel.curves.items()):
            name = ", ".join(filter(None, (panel_name(panel, c), f"rank {rank}")))
            rows.append((name, " ".join(captions.curve_sentences(curve, target, panel.relative.get(rank)))))
    return TextTable(columns("line", "gain from more data"), rows) if rows else None


def pending_table(pending: list[tuple[RunRecord, str]], commands: dict[Path, str]) -> TextTable:
    rows = [(run.name, why, commands.get(run.folder, "")) for run, why in pending]
    return TextTable(columns("run/", "why", "command`"), rows)


def dropped_table(runs: list[RunRecord]) -> TextTable | None:
    """What became of the training examples; runs with the same counts share a row."""
    rows: dict[tuple, list[str]] = {}
    for run in runs:
        if train := as_dict(run.summary.counts, "train"):
            flat = {k[8:].replace("_", " "): v for k, v in train.items() if k.startswith("dropped_")}
            counts = {key: format_count(as_float(train.get(key))) for key in _COUNTS}
            if train.get("asked") is None:
                counts["asked"] = "all"
            before, after = list(counts.values())[:4], list(counts.values())[4:]
            dropped = _pairs(as_dict(train, "dropped") | flat) or "none"
            left_out = _pairs(as_dict(run.summary.counts, "dropped", "train")) or "none"
            cleaning = _pairs(run.summary.counts.get("cleaning")) or "nothing"
            rows.setdefault((run.dataset, *before, dropped, *after, left_out, cleaning), []).append(run.name)
    heads = columns(
        *("dataset", "available#", "asked#", "sampled#", "encoded#", "dropped", "shortened#", "answers lost#"),
        *("answer tokens#", "rows left out", "cleaning changed", "runs/"),
    )
    ordered = sorted(rows.items(), key=lambda row: (row[0][0], len(row[0][3]), row[0][3]))
    return TextTable(heads, [(*key, join_list(names, 2)) for key, names in ordered]) if rows else None


_COUNTS = ("available", "asked", "sampled", "encoded", "shortened", "answers_lost", "label_tokens")


def _pairs(value: Any) -> str:
    """{"too long": 2, "urls": {"rows": 3}} as "too long 2, urls: rows 3"; zeros are left out."""
    if not isinstance(value, dict):
        return ""
    found = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += [f"{key}: {pairs}"] if (pairs := _pairs(inner)) else []
        elif inner:
            number = None if isinstance(inner, str) else as_float(inner)
            found.append(f"{key} {clean(inner, 60) if number is None else format_count(number)}")
    return ", ".join(found)


def identity_tables(runs: list[RunRecord]) -> tuple[TextTable, TextTable]:
    """Identity keys with several values, and those with one. The untuned model has no training keys to differ in."""
    differing: list[tuple[str, str]] = []
    same: list[tuple[str, str]] = []
    for key in sorted({k for r in runs for k in r.identity} - AXES):
        values = Counter(clean(r.identity[key], 80) for r in runs if key in r.identity)
        (differing if len(values) > 1 else same).append((key, counted(values)))
    return TextTable(columns("key", "values"), differing), TextTable(columns("key", "value"), same)


def versions_table(runs: list[RunRecord]) -> TextTable:
    return TextTable(columns("what", "value"), [(what, counted(values)) for what, values in provenance(runs).items()])


def unread_table(unread: Iterable[UnreadFile]) -> TextTable:
    return TextTable(columns("file", "why"), [(clean(one.path), one.reason) for one in unread])
