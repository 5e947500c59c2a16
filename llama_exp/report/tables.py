"""Tables of a comparison: scores and who is tied, what they cost, what more data would buy. Plain strings."""

from collections.abc import Iterable
from dataclasses import dataclass

from llama_exp.formatting import (
    format_count,
    format_duration,
    format_energy,
    format_large,
    format_memory,
    format_money,
    format_with_interval,
    join_list,
)
from llama_exp.report import captions, costs, labels
from llama_exp.report.cells import LOWER_IS_BETTER, Cell, Comparison, Panel
from llama_exp.report.costs import Prices
from llama_exp.report.load import StoredInterval


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: str = ""  # "number", "code" (to be typed), "run" (its name), or a text


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows of strings. `best` is the row to mark, `tied` those that cannot be told from it."""

    columns: tuple[Column, ...]
    rows: list[tuple[str, ...]]
    best: int | None = None
    tied: frozenset[int] = frozenset()


def columns(*names: str) -> tuple[Column, ...]:
    """A name's last letter tells the kind: # a number, ` to be typed, / the name of a run."""
    return tuple(Column(n.rstrip("#`/"), {"#": "number", "`": "code", "/": "run"}.get(n[-1], "")) for n in names)


def scores_table(c: Comparison, wide: bool = True) -> TextTable:
    """A row per cell; the untuned model first, then by rank and size. `wide`: every metric, not three."""
    pairs = sorted(c.cells(), key=lambda ps: _order(*ps, c))
    metrics = (c.metric, *(m for m in c.metrics if m != c.metric))
    family = {m.split("/")[0] for m in metrics if "/" in m}
    if not wide:  # of one family every score, of several one each
        metrics = tuple(
            m for place, m in enumerate(metrics) if place < 2 or m == "loss" or (len(family) == 1 and m != "perplexity")
        )
    named, seeded = any(labels.panel_name(p, c) for p in c.panels), any(s.seeds(c.metric) > 1 for _, s in pairs)
    clean = any(s.clean(c.metric) for _, s in pairs)
    shrunk = any(s.shrunk for _, s in pairs)
    ordered = len(pairs) > 1 and c.rivals() is not None
    score_heads = [m.removeprefix(f"{min(family)}/") if len(family) == 1 and m != c.metric else m for m in metrics]
    measured = labels.measured(c)
    score_heads = [f"{m} ({measured} items)" if m in LOWER_IS_BETTER and measured else m for m in score_heads]
    score_heads[1:1] = [f"{score_heads[0]}, clean items"] * clean
    heads = (
        ["cell"] * named
        + ["examples#"]
        + ["in training#"] * shrunk
        + ["rank#"]
        + ["runs#"] * seeded
        + [f"{m}#" for m in score_heads]
    )
    heads[-len(score_heads) + 1 : -len(score_heads) + 1] = (
        ["against the best"] * ordered if len(score_heads) > 1 else []
    )
    heads += [] if wide else ["trainable#", "tokens#", "training#", "memory#"]
    rows = [_row(p, s, c, metrics, named, shrunk, seeded, ordered, clean, wide) for p, s in pairs]
    best = c.best()
    tied = {s.key for _, s in c.rivals() or ()}
    return TextTable(
        columns(*heads),
        rows,
        next((i for i, (_, s) in enumerate(pairs) if best and s is best[1]), None),
        frozenset(i for i, (_, s) in enumerate(pairs) if s.key in tied),
    )


def _order(panel: Panel, cell: Cell, c: Comparison) -> tuple:
    return cell.rank > 0, labels.panel_name(panel, c), cell.rank, cell.examples or 0


def _row(
    p: Panel,
    s: Cell,
    c: Comparison,
    metrics: Iterable[str],
    named: bool,
    shrunk: bool,
    seeded: bool,
    ordered: bool,
    clean: bool,
    wide: bool,
) -> tuple[str, ...]:
    size = "untuned" if s.rank == 0 else ("all " if s.whole else "") + format_count(s.examples)
    name = labels.panel_name(p, c) if s.rank else f"model {p.model}"
    row = [name] * named + [size] + [labels.in_training(s)] * shrunk + [str(s.rank)] + [str(s.seeds(c.metric))] * seeded
    scores = [labels.with_span(metric, s) for metric in metrics]
    row += [scores[0]] + ([against_best(s, c, wide)] if ordered else []) + [_clean(s, c)] * clean + scores[1:]
    if wide:
        return tuple(row)
    spent = costs.cost(s, Prices())
    return tuple(
        row
        + [
            format_large(spent.trainable),
            format_large(spent.tokens),
            format_duration(spent.seconds),
            format_memory(spent.memory),
        ]
    )


def runs_table(c: Comparison) -> TextTable:
    """Which runs a cell is made of: apart, as their names are long."""
    pairs = sorted(c.cells(), key=lambda ps: _order(*ps, c))
    rows = [(labels.cell_phrase(p, s, c), join_list((one.run.name for one in s.scored), 8)) for p, s in pairs]
    return TextTable(columns("cell", "runs/"), rows)


def against_best(s: Cell, c: Comparison, wide: bool) -> str:
    """best; tied; or by how much it is worse, where that was compared item by item."""
    best, standing = c.best(), c.standing
    if s.key == best[1].key:
        return "best"
    known = standing.against.get(s.key) if standing else None
    if known is None:
        refused = standing and s.key in dict(standing.refused)
        tied = s.key in {r.key for _, r in c.rivals() or ()}
        return "not compared" if refused else "too close to call" if tied else "worse"
    tied = s.key in standing.tied
    if not wide:
        return "tied" if tied else "worse"
    gap = known[0]
    if gap.low is None:
        return "cannot be told apart" if tied else "worse"
    size = format_with_interval(abs(gap.difference), _turned(gap))
    if not tied:
        return f"worse by {size}"
    apart = "cannot be told apart" + (" among so many" if gap.low > 0 or gap.high < 0 else "")
    return f"{apart}: {format_with_interval(gap.difference, _turned(gap, False))}"


def _turned(gap, positive: bool = True) -> StoredInterval:
    if gap.difference < 0 and positive:
        return StoredInterval(-gap.high, -gap.low)
    return StoredInterval(gap.low + 0.0, gap.high + 0.0)  # + 0.0: no minus before a zero


def _clean(s: Cell, c: Comparison) -> str:
    found = s.clean(c.metric)
    return format_with_interval(found[0], found[1], c.metric) if found else "–"


def cost_table(c: Comparison, prices: Prices) -> TextTable:
    """What training one run of each cell took; unknown where it was not recorded."""
    pairs = sorted((ps for ps in c.cells() if ps[1].rank), key=lambda ps: _order(*ps, c))
    named = any(labels.panel_name(p, c) for p, _ in pairs)
    heads = columns(
        *["cell"] * named,
        "examples#",
        "rank#",
        f"{c.metric}#",
        "training time#",
        "tokens#",
        "peak memory#",
        "trainable parameters#",
        "energy#",
        "money#",
    )
    rows = []
    for p, s in pairs:
        spent = costs.cost(s, prices)
        unknown = [
            value if value != "–" else "unknown"
            for value in (
                format_duration(spent.seconds),
                format_large(spent.tokens),
                format_memory(spent.memory),
                format_large(spent.trainable),
            )
        ]
        rows.append(
            (
                *[labels.panel_name(p, c)] * named,
                ("all " if s.whole else "") + format_count(s.examples),
                str(s.rank),
                labels.with_span(c.metric, s),
                *unknown,
                format_energy(spent.energy),
                format_money(spent.money, prices.currency),
            )
        )
    best = c.best()
    tied = {s.key for _, s in c.rivals() or ()}
    return TextTable(
        heads,
        rows,
        next((i for i, (_, s) in enumerate(pairs) if best and s is best[1]), None),
        frozenset(i for i, (_, s) in enumerate(pairs) if s.key in tied),
    )


def cost_words(c: Comparison, prices: Prices) -> str:
    said = (
        "Each row is one training run of that cell, the mean over its seeds (memory: the most that one took). Time counts "
        "validation losses, not evaluation."
    )
    spent = [costs.cost(s, prices) for _, s in c.cells() if s.rank]
    if any(one.money is None for one in spent):
        said += (
            " Money is unknown: it takes a run on a GPU and price_per_gpu_hour in conf/report.yaml."
            if prices.price_per_gpu_hour is None
            else " Money is unknown for runs without a GPU."
        )
    else:
        said += f" Money is GPU-hours times {format_money(prices.price_per_gpu_hour, prices.currency)}."
    return said + (" Energy is unknown where it was not measured." if any(one.energy is None for one in spent) else "")


def curve_table(c: Comparison, prices: Prices) -> TextTable | None:
    """What more data would buy, rank by rank, or why that cannot be told."""
    target, rows = captions.target_of(c, prices), []
    for panel in c.panels:
        for rank, curve in sorted(panel.curves.items()):
            name = ", ".join(filter(None, (labels.panel_name(panel, c), f"rank {rank}")))
            rows.append((name, " ".join(captions.curve_words(curve, target))))
    return TextTable(columns("line", "what more data would buy"), rows) if rows else None
