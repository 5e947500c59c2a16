"""Words and texts between a person and a command: taken from argv before Hydra parses, shown with nothing hidden.

Hydra's grammar gives quotes, commas, `!`, `?`, `=`, braces and newlines a meaning; what somebody writes to a model has
none of it. So a command's own words never reach Hydra: all that follows the first "=" is the text.
"""

import dataclasses
import math
import types
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from llama_exp.errors import UserError
from llama_exp.sanitize import valid_unicode

Words = TypeVar("Words")


def split(words: Sequence[str], kind: type[Words]) -> tuple[Words, list[str]]:
    """A command's own words as `kind` (a dataclass with defaults), typed; and the rest, which is Hydra's."""
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}
    mine: dict[str, Any] = {}
    rest = []
    for word in words:
        key, said, value = word.partition("=")
        if key in kinds and said:
            mine[key] = _typed(key, valid_unicode(value), kinds[key])
        else:
            rest.append(word)
    return kind(**mine), rest


def _typed(key: str, value: str, kind: Any) -> Any:
    """`value` as a bool, int, float or str; "null" is None where that may be."""
    if isinstance(kind, types.UnionType):  # int | None
        if value in ("null", "") and str not in get_args(kind):
            return None
        kind = get_args(kind)[0]
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise UserError(f"{key}={value}: wanted true or false.")
        return value.lower() == "true"
    if kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            raise UserError(f"{key}={value}: wanted a {'whole ' if kind is int else ''}number.") from None
        if number < 0 or not math.isfinite(number):
            raise UserError(f"{key}={value}: wanted 0 or more.")
        return number
    return value
