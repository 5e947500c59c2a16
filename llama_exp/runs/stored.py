"""Records and configs read back from JSON and YAML that a crash, another program or another version may have written.

{"steps": 12, "tokens": "many", "seconds": {"train": 8.5, "load": null}}  ->  steps 12, tokens None, train 8.5
"""

import types
import typing
from pathlib import Path
from typing import Any, TypeVar, Union

import yaml

from llama_exp.errors import UserError
from llama_exp.runs.files import read_text
from llama_exp.sanitize import as_float, as_int, reason

ABSENT = object()

Record = TypeVar("Record")

YAML_BYTES, YAML_DEPTH = 256 << 10, 32  # a config.yaml has 3 KB and four levels


class PlainLoader(yaml.SafeLoader):
    """YAML's own types alone; a date stays text."""


PlainLoader.add_constructor("tag:yaml.org,2002:timestamp", PlainLoader.construct_yaml_str)


def read_yaml(path: Path) -> dict[str, Any]:
    """A stored config as plain values: no tags, no aliases (a few of them stand for any number of values), no
    interpolation. Raises OSError, or ValueError for anything else than one mapping.
    """
    text = read_text(path, YAML_BYTES)
    try:
        _check_yaml(text)
        values = yaml.load(text, PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(reason(error)) from None
    if not isinstance(values, dict):
        raise ValueError(f"wanted keys and values, got {type(values).__name__}")
    return values


def _check_yaml(text: str) -> None:
    """Raise ValueError for what a program writes nowhere, and a person rarely."""
    depth = 0
    for event in yaml.parse(text, PlainLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise ValueError(f"line {event.start_mark.line + 1}: aliases and tags are not read")
        if depth > YAML_DEPTH:
            raise ValueError(f"line {event.start_mark.line + 1}: nested more than {YAML_DEPTH} levels deep")


def leaves(values: dict[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of nested mappings."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = (
            {f"{name}.{key}": of for key, of in leaves(value).items()}
            if isinstance(value, dict)
            else {str(name): value}
        )
        found |= inner
    return found


def check_schema(path: Path, values: dict[str, Any], known: int) -> None:
    """Raise UserError for a file that a newer version wrote; one without a schema is older than schemas."""
    found = values.get("schema", 0)
    if not isinstance(found, int) or found > known:
        raise UserError(
            f"{path} has schema {found}, and this version reads up to {known}: it was written by a newer llama_exp. "
            "Update with `pip install -U llama_exp`, or choose another folder: outputs=FOLDER."
        )


def record_from(kind: type[Record], values: dict[str, Any]) -> Record:
    """A dataclass from JSON. A value of another type than its field is taken as absent: the field keeps its default."""
    wanted = typing.get_type_hints(kind)
    found = {name: typed(values[name], wanted[name]) for name in wanted.keys() & values.keys()}
    return kind(**{name: value for name, value in found.items() if value is not ABSENT})


def typed(value: Any, wanted: Any) -> Any:
    """`value` as the type `wanted`, or ABSENT; in dictionaries and lists what does not fit is left out."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (Union, types.UnionType):
        return next((found for one in arguments if (found := typed(value, one)) is not ABSENT), ABSENT)
    if wanted in (int, float):
        number = None if isinstance(value, str) else as_int(value) if wanted is int else as_float(value)
        return ABSENT if number is None else number
    if not isinstance(value, origin or wanted):
        return ABSENT
    if origin is dict:
        items = {key: typed(inner, arguments[1]) for key, inner in value.items()}
        return {key: inner for key, inner in items.items() if inner is not ABSENT}
    if origin is list:
        return [found for inner in value if (found := typed(inner, arguments[0])) is not ABSENT]
    return value
