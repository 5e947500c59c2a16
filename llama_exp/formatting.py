"""Numbers, counts and lists as text for people: the one place where they are formatted."""

import math
from collections.abc import Iterable
from typing import Protocol


class HasEnds(Protocol):
    """Anything with two ends: an interval of the statistics, or one read back from a file."""

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


def format_score(value: float | None, decimals: int = 1) -> str:
    """With the decimals that its metric declares; from 1,000 on with none, from a million on as a power of ten."""
    if value is None:
        return "–"
    if abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.{decimals}f}"


def format_with_interval(value: float | None, interval: HasEnds | None, decimals: int = 1) -> str:
    """`71.2 ± 1.6`; `98.9 (95.1 to 99.7)` where the two sides differ; without an interval the number alone."""
    if value is None or interval is None:
        return format_score(value, decimals)
    if interval.high - interval.low < 1e-9:
        return f"{format_score(value, decimals)} ± 0"
    return plus_minus(value, interval.low, interval.high)


def format_decimal(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:z.{places}f}"


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


def decimal_places(half_width: float) -> int:
    """Decimals that show two significant figures of an uncertainty: 1 for 1.6, 3 for 0.016, 0 for 16."""
    if not half_width > 0:
        return 1
    return min(max(1 - math.floor(math.log10(half_width) + 1e-9), 0), 6)


def plus_minus(estimate: float | None, low: float | None, high: float | None, sign: bool = False) -> str:
    """`71.2 ± 1.6`; `98.9 (95.1 to 99.7)` where the sides differ by more than a quarter; `71.2 (no interval)`."""
    plus = "+" if sign else ""
    if estimate is None:
        return "undefined"
    if low is None or high is None:
        return f"{estimate:{plus}.4g} (no interval)"
    down, up = estimate - low, high - estimate
    if min(down, up) > 0 and max(down, up) <= 1.25 * min(down, up):
        places = decimal_places((high - low) / 2)
        return f"{estimate:{plus}z.{places}f} ± {(high - low) / 2:.{places}f}"
    return with_range(estimate, low, high, sign)


def low_to_high(low: float, high: float) -> str:
    """`1.9 to 6.0`; the format's z drops the minus of a zero."""
    places = decimal_places((high - low) / 2)
    return f"{low:z.{places}f} to {high:z.{places}f}"


def with_range(estimate: float, low: float, high: float, sign: bool = False) -> str:
    """`4.1 (1.9 to 6.0)`, or `+4.1 (1.9 to 6.0)` with `sign`."""
    places = decimal_places((high - low) / 2)
    return f"{estimate:{'+' if sign else ''}z.{places}f} ({low_to_high(low, high)})"


def round_count(count: float) -> str:
    """A count to two significant figures, below 100 to whole numbers: `2,300` for 2,312.7."""
    if count < 100:
        return f"{count:.0f}"
    step = 10 ** (math.floor(math.log10(count)) - 1)
    return f"{round(count / step) * step:,.0f}"


def percent(share: float) -> str:
    """`80 %` for 0.8."""
    return f"{100 * share:.0f} %"
