"""Values that something else made (a file half written, another tool, a model), taken for what they are.

Every string is cleaned before it is shown; what is no number, text or object where one was wanted is taken as absent.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

# Right-to-left overrides and their kin can make one name read like another.
BIDI = {chr(c) for c in (0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}

# What has no width makes two names look the same, and hides what stands behind it. The joiners U+200C and U+200D are no
# part of it: Persian, Hindi and emoji are written with them.
ZERO_WIDTH = {chr(c) for c in (0x180E, 0x200B, *range(0x2060, 0x2065), *range(0x206A, 0x2070), 0xFEFF)}
ZERO_WIDTH |= {chr(c) for c in (*range(0xFFF9, 0xFFFC), 0xE0001, *range(0xE0020, 0xE0080))}
HIDDEN = BIDI | ZERO_WIDTH

FORMULA_STARTS = "=+-@−"  # what makes a spreadsheet compute a cell (OWASP, CSV injection), in any width
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters by category, blanks to the eye
ESCAPE_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c)", re.DOTALL
)  # CSI, OSC and kin


def clean(text: Any, limit: int = 400) -> str:
    """A string for a terminal or a file: no control characters, no overrides of direction, not endless."""
    shown = "".join(
        " " if c in "\n\r\t\u2028\u2029" else c for c in str(text) if c in "\n\r\t\u2028\u2029" or not _hidden(c)
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
    first = next((c for c in text if not _blank(c)), "")
    return f"'{text}" if first and unicodedata.normalize("NFKC", first)[0] in FORMULA_STARTS else text


def _blank(character: str) -> bool:
    """Whether a spreadsheet may skip a character before a formula: spaces, marks, format characters, quotes."""
    return unicodedata.category(character)[0] in "ZCM" or character in "'\"" or character in BLANK_LETTERS


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
    return unicodedata.category(character) in ("Cc", "Cs") or character in HIDDEN


def escape_hidden(text: str) -> str:
    """JSON with everything that acts or hides written as \\uXXXX: the same value, harmless on a terminal."""
    return "".join(json.dumps(c)[1:-1] if _hidden(c) and c != "\n" else c for c in text)


class TerminalFilter:
    """A text stream, standard output or error, in front of a terminal: whatever a stored name holds, it only prints.

    Colours that libraries print are lost; rich writes past the filter (`rich_proxied_file` is its name for that), so
    what our rich tables show is cleaned where it is read.
    """

    def __init__(self, stream: TextIO):
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(text if text.strip("\n") in CURSOR_UP else printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


CURSOR_UP = {"", *("\x1b[A" * count for count in range(1, 5))}  # a progress bar goes back to its line


def printable(text: str) -> str:
    """Text without escape sequences, control characters and overrides of direction. A carriage return is left where
    progress is written, at the beginning; elsewhere it would write over what stands before it."""
    text = ESCAPE_SEQUENCE.sub("", text.replace("\r\n", "\n"))
    kept = (c for c in text.lstrip("\r") if c in "\n\t\r" or not _hidden(c))
    return ("\r" if text.startswith("\r") else "") + "".join(kept).replace("\r", " ")


def unfiltered(stream: TextIO) -> TextIO:
    """The stream behind a TerminalFilter: for output that must be exact."""
    return getattr(stream, "rich_proxied_file", stream)
