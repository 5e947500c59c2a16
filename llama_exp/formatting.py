"""Numbers, counts and lists as text for people: the one place where they are formatted."""

from collections.abc import Iterable
from typing import Protocol


class HasEnds(Protocol):
    """Anything with two ends: an interval of the statistics, or one read back from a file."""

    low: float | None
    high: float | None


def format_score(metric: str, value: float | None) -> str:
    """Percent metrics with one decimal; loss with three; perplexity with as many as it deserves."""
    if value is None:
        return "–"
    if metric == "loss":
        return f"{value:.3f}"
    if metric == "perplexity":
        return f"{value:.2f}" if value < 100 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
    return f"{value:z.1f}"


def format_with_interval(value: float | None, interval: HasEnds | None, metric: str = "") -> str:
    """`71.2 ± 1.6`; `98.9 (95.1 to 99.7)` where the two sides differ; without an interval the number alone."""
    from llama_exp.statistics.words import plus_minus

    if value is None or interval is None:
        return format_score(metric, value)
    if interval.high - interval.low < 1e-9:
        return f"{format_score(metric, value)} ± 0"
    return plus_minus(value, interval.low, interval.high)


def format_decimal(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def format_p_value(p: float) -> str:
    """`p = 0.031`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def format_large(value: float | None) -> str:
    """12,345,678 as 12.3 M."""
    if value is None:
        return "–"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if size == 1e4 else size):.1f}{unit}"
    return f"{value:,.0f}"


def format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_memory(size: float | None) -> str:
    if not size:
        return "–"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def format_file_size(size: float) -> str:
    """In powers of 1000, as on disk and on the hub: `16.8 MB`."""
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def format_energy(joules: float | None) -> str:
    """In watt-hours; what was not measured is unknown, never 0."""
    if joules is None:
        return "unknown"
    hours = joules / 3600
    return f"{hours / 1000:.2f} kWh" if hours >= 1000 else f"{hours:.0f} Wh" if hours >= 10 else f"{hours:.2g} Wh"


def format_money(amount: float | None, currency: str) -> str:
    if amount is None:
        return "unknown"
    return f"{amount:,.2f} {currency}" if amount >= 0.1 or amount == 0 else f"{amount:.2g} {currency}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_range(counts: Iterable[int]) -> str:
    """`29`, or `27 to 31` where they differ; "" of none."""
    found = sorted({*counts})
    return " to ".join(f"{n:,}" for n in dict.fromkeys((found[0], found[-1]))) if found else ""


def join_list(words: Iterable[str], limit: int = 4) -> str:
    """a, b and c; beyond `limit`, how many more."""
    words = list(words)
    if len(words) > limit:
        words = words[: limit - 1] + [f"{len(words) - limit + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
