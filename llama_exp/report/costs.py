"""What a cell cost: time, tokens, memory, energy and money; and which cells are best for their cost.

A cost is the mean over the cell's seeds, of training alone: every cell is evaluated on the same items, and
loading the model falls on whichever run came first.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from llama_exp.config.compose import CONF
from llama_exp.errors import UserError
from llama_exp.formatting import format_duration, format_money
from llama_exp.report.cells import Cell, Comparison, Panel
from llama_exp.report.load import RunRecord
from llama_exp.sanitize import as_float

SETTINGS = CONF / "report.yaml"


@dataclass(frozen=True, slots=True)
class Prices:
    """conf/report.yaml."""

    price_per_gpu_hour: float | None = None
    currency: str = "EUR"
    targets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of training one run of a cell, the mean over its seeds; None: not recorded, so not known."""

    seconds: float | None = None
    tokens: float | None = None
    memory: float | None = None  # bytes, the most that any seed took
    trainable: float | None = None
    energy: float | None = None  # joules
    money: float | None = None


def load(path: Path = SETTINGS) -> Prices:
    """conf/report.yaml or another file of its kind; a UserError names every key that is wrong."""
    if path == SETTINGS and not path.is_file():  # installed without conf/
        return Prices()
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from None
    wrong = []
    if not isinstance(found, dict):
        raise UserError(f"{path}: wanted keys and values such as price_per_gpu_hour: 2.5.")
    if unknown := set(found) - {"price_per_gpu_hour", "currency", "targets"}:
        wrong.append(
            f"unknown: {', '.join(map(str, sorted(unknown, key=str)))}; known: currency, price_per_gpu_hour, targets"
        )
    price, targets = found.get("price_per_gpu_hour"), found.get("targets") or {}
    if price is not None and (isinstance(price, str) or as_float(price) is None or price < 0):
        wrong.append(f"price_per_gpu_hour: wanted a number or null, got {price!r}")
    if not isinstance(targets, dict) or any(isinstance(v, str) or as_float(v) is None for v in targets.values()):
        wrong.append(f"targets: wanted scores such as {{squad/f1: 70}}, got {targets!r}")
    if wrong:
        raise UserError("\n".join(f"{path}: {line}." for line in wrong))
    return Prices(price, str(found.get("currency") or "EUR"), dict(targets))


def cost(cell: Cell, prices: Prices) -> Cost:
    """The untuned model cost nothing to train."""
    runs = [one.run for one in cell.runs]
    if cell.rank == 0:
        return Cost(seconds=0.0, tokens=0.0, trainable=0.0, energy=0.0, money=0.0)
    trainable = (
        r.summary.trainable_parameters or one.evaluation.results.trainable_parameters
        for r, one in zip(runs, cell.runs, strict=True)
    )
    peaks = [r.summary.peak_memory_bytes for r in runs if r.summary.peak_memory_bytes]
    return Cost(
        seconds=mean(seconds(r) for r in runs),
        tokens=mean(r.summary.tokens for r in runs),
        memory=max(peaks, default=None),
        trainable=mean(trainable),
        energy=mean(r.summary.energy_joules for r in runs),
        money=mean(money(r, prices) for r in runs),
    )


def seconds(run: RunRecord) -> float | None:
    return run.summary.seconds.get("train")


def money(run: RunRecord, prices: Prices) -> float | None:
    """GPU-hours times their price; a run without a GPU has no such price."""
    spent, device = seconds(run), run.summary.device
    if prices.price_per_gpu_hour is None or spent is None or device in (None, "cpu"):
        return None
    return prices.price_per_gpu_hour * (run.summary.world_size or 1) * spent / 3600


def format_cost(amount: float, c: Comparison, prices: Prices) -> str:
    """An amount on the axis: `2.50 EUR`, or `39 s`."""
    if axis(c, prices) == "money":
        return format_money(amount, prices.currency)
    return format_duration(amount)


def axis(c: Comparison, prices: Prices) -> str:
    """What cells are compared by: money where it is known of all that were trained, else seconds."""
    spent = [cost(s, prices) for _, s in c.cells() if s.rank]
    if spent and all(one.money for one in spent):
        return "money"
    return "seconds" if spent and any(one.seconds for one in spent) else ""


def priced(c: Comparison, prices: Prices) -> list[tuple[Panel, Cell, float]]:
    """Cells whose cost on the axis is known, cheapest first."""
    name = axis(c, prices)
    found = [(p, s, getattr(cost(s, prices), name)) for p, s in c.cells()] if name else []
    return sorted(((p, s, x) for p, s, x in found if x is not None), key=lambda one: one[2])


def pareto(points: Sequence[tuple[float, float]], lower: bool = False) -> list[int]:
    """Indices of the (cost, score) points that no other equals or beats at no more cost, cheapest first."""
    sign = -1 if lower else 1
    front, best = [], -math.inf
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if sign * points[i][1] > best:
            front.append(i)
            best = sign * points[i][1]
    return front


def front(c: Comparison, prices: Prices) -> list[tuple[Panel, Cell, float]]:
    """The cells for which nothing cheaper scores as well."""
    known = priced(c, prices)
    on_front = pareto([(x, s.score(c.metric)) for _, s, x in known], c.lower_is_better)
    return [known[i] for i in on_front]


def cheapest_tied(c: Comparison, prices: Prices) -> tuple[Panel, Cell, float] | None:
    """The cheapest cell without a significant difference from the best, the best itself among them."""
    best, rivals = c.best(), c.rivals()
    if not best or rivals is None:
        return None
    keys = {best[1].key, *(s.key for _, s in rivals)}
    known = [one for one in priced(c, prices) if one[1].key in keys]
    return known[0] if known and best[1].key in {s.key for _, s, _ in known} else None


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are known; None where none is."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
