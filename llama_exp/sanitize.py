"""Values that something else made (a file half written, another tool, a model), taken for what they are.

Every string is cleaned before it is shown; what is no number, text or object where one was wanted is taken as absent.
"""

import json
import math
import unicodedata
from typing import Any

# Right-to-left overrides and their kin can make one name read like another.
BIDI = {chr(c) for c in (0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}

FORMULA_STARTS = "=+-@\t\r＝＋－＠"  # what makes a spreadsheet compute a cell (OWASP, CSV injection)


def clean(text: Any, limit: int = 400) -> str:
    """A string for a terminal or a file: no control characters, no overrides of direction, not endless."""
    shown = "".join(
        " " if c in "\n\r\t\u2028\u2029" else c
        for c in str(text)
        if c in "\n\r\t\u2028\u2029" or (unicodedata.category(c) not in ("Cc", "Cs") and c not in BIDI)
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def cleaned(value: Any) -> Any:
    """What JSON or YAML may hold, with every string in it cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(k): cleaned(v) for k, v in value.items()}
    return [cleaned(v) for v in value] if isinstance(value, list) else value


def as_dict(values: dict, *keys: str) -> dict[str, Any]:
    """The object at `keys`, or an empty one where it is missing or something else."""
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def as_text(values: dict, key: str) -> str:
    """The text at `key`, or ""."""
    value = values.get(key)
    return value if isinstance(value, str) else ""


def as_float(value: Any) -> float | None:
    """A finite number, also one that is written out (the cells of a CSV file)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        value = float(value)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def as_int(value: Any) -> int | None:
    number = None if isinstance(value, str) else as_float(value)
    return int(number) if number is not None and number == int(number) else None


def reason(error: Exception) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, json.JSONDecodeError):
        return f"not whole JSON, line {error.lineno}: {error.msg}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return clean(error, 200) or type(error).__name__


def spreadsheet_cell(value: Any, limit: int = 400) -> Any:
    """A value that no spreadsheet computes: text that would start a formula gets an apostrophe; numbers stay
    numbers."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = clean(value, limit)
    return f"'{text}" if text.lstrip(" '\"").startswith(tuple(FORMULA_STARTS)) else text


def valid_unicode(text: str) -> str:
    """Text that can be encoded: bytes that were no UTF-8, and halves of characters, become U+FFFD."""
    text = text.encode("utf-8", "surrogateescape" if _escaped(text) else "surrogatepass").decode("utf-8", "replace")
    return text


def _escaped(text: str) -> bool:
    """Whether all surrogates are those that Python makes of stray bytes in argv and on standard input."""
    return all(0xDC80 <= ord(c) <= 0xDCFF for c in text if "\ud800" <= c <= "\udfff")


def visible(text: str) -> str:
    """Text in which nothing acts or hides: a control character, or one that turns the direction, is shown as [U+001B].

    A reply with an escape sequence could otherwise recolour a terminal, move its cursor or write its clipboard.
    """
    return "".join(c if c in "\n\t" or not _hidden(c) else f"[U+{ord(c):04X}]" for c in text.replace("\r\n", "\n"))


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in BIDI
