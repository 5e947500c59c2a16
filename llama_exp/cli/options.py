"""A command's own options: read from the arguments before Hydra sees them, and listed by --help.

Hydra's grammar gives quotes, commas, `!`, `?`, `=`, braces and newlines a meaning; text that somebody writes to a model
has none of it. So a command's own options never reach Hydra: everything after the first "=" is the value.
"""

import dataclasses
import math
import os
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from llama_exp.config.command_line import hydra_value
from llama_exp.errors import UserError
from llama_exp.sanitize import valid_unicode

Options = TypeVar("Options")


def parse_options(kind: type[Options], arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """(the options as a `kind`, typed; the arguments that are none of them).

    `kind` is a dataclass of config.options.option. Values come from the arguments, else from the YAML file in conf/
    that `kind.DEFAULTS` names, else from the field's default.
    Raises UserError for a value of another type and for a required option that is missing.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    positional = next((name for name, field in fields.items() if field.metadata.get("positional")), None)
    others = next((name for name, field in fields.items() if field.metadata.get("others")), None)
    values: dict[str, Any] = yaml_defaults(kind)
    rest, problems = [], []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        text = valid_unicode(text)
        if not equals and positional and not argument.startswith("-"):
            _add_positional(values, positional, hints[positional], argument)
        elif equals and key in fields and key != others:
            try:
                values[key] = typed(key, text, hints[key], *fields[key].metadata["range"])
            except UserError as error:
                problems.append(str(error))
        elif equals and others and not key.startswith("-"):
            values[others] = {**values.get(others, {}), key: text}
        else:
            rest.append(argument)
    required = {name for name, field in fields.items() if _is_required(field)}
    problems += [
        f"{name}={fields[name].metadata['shown'] or name.upper()} is missing: {fields[name].metadata['help']}."
        for name in fields
        if name in required and values.get(name) in (None, "", [])
    ]
    if problems:
        raise UserError("\n".join(problems))
    return kind(**values), rest


PATHS = ("out", "outputs", "dataset.path", "model.path", "predictions", "prompt_file", "study", "settings")


def with_home(argument: str, quoted: bool) -> str:
    """out=/home/me/runs for out=~/runs, which the shell leaves as it is; `quoted` for Hydra's grammar."""
    key, _, text = argument.partition("=")
    if key not in PATHS or not text.startswith("~") or "," in text:
        return argument
    full = os.path.expanduser(text)
    return f"{key}={hydra_value(full) if quoted else full}"


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _add_positional(values: dict[str, Any], name: str, hint: Any, text: str) -> None:
    if get_origin(hint) is list:
        values[name] = [*values.get(name, []), valid_unicode(text)]
    elif name in values:
        raise UserError(f"{values[name]} and {text}: wanted one {name}.")
    else:
        values[name] = valid_unicode(text)


def yaml_defaults(kind: type) -> dict[str, Any]:
    """The values of conf/FILE, typed, for an options dataclass that names one; {} for any other."""
    name = getattr(kind, "DEFAULTS", None)
    if name is None:
        return {}
    from llama_exp.config.compose import CONF

    hints = get_type_hints(kind)
    try:
        values = yaml.safe_load((CONF / name).read_text(encoding="utf-8"))
        return {key: _typed_yaml(key, value, hints[key]) for key, value in values.items()}
    except KeyError as error:
        raise UserError(f"{CONF / name}: {error} is no option of this command.") from None
    except (UserError, OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{CONF / name}: {error}") from None


def _typed_yaml(key: str, value: Any, hint: Any) -> Any:
    if isinstance(value, (list, dict)):
        if get_origin(hint) is not type(value):
            raise UserError(f"{key}: wanted {getattr(hint, '__name__', hint)}, got a {type(value).__name__}.")
        return value
    return typed(key, "null" if value is None else str(value), hint)


def typed(key: str, text: str, hint: Any, minimum: float = 0, maximum: float = math.inf) -> Any:
    """`text` as a bool, int, float, str, Enum, list[str] (by commas) or dict (YAML); "null" is None where allowed."""
    if isinstance(hint, types.UnionType):  # int | None
        if text in ("null", "") and str not in get_args(hint):
            return None
        hint = get_args(hint)[0]
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{key}={text}: wanted true or false.")
        return text.lower() == "true"
    if hint in (int, float):
        return _number(key, text, hint, minimum, maximum)
    if _is_enum(hint):
        if text not in hint.__members__:
            raise UserError(f"{key}={text}: wanted one of {', '.join(hint.__members__)}.")
        return hint[text]
    if get_origin(hint) is list:
        return [part.strip() for part in text.strip("[]").split(",") if part.strip()]
    if get_origin(hint) is dict:
        return _mapping(key, text, get_args(hint)[1])
    return text


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _number(key: str, text: str, kind: type, minimum: float, maximum: float) -> int | float:
    try:
        number = kind(text)
    except ValueError:
        raise UserError(f"{key}={text}: wanted a {'whole ' if kind is int else ''}number.") from None
    if not minimum <= number <= maximum or not math.isfinite(number):
        wanted = f"{minimum:g} or more" if maximum == math.inf else f"a number from {minimum:g} to {maximum:g}"
        raise UserError(f"{key}={text}: wanted {wanted}.")
    return number


def _mapping(key: str, text: str, kind: type) -> dict[str, Any]:
    """`{squad/f1: 70}` as a dict."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, Mapping):
        raise UserError(f"{key}={text}: wanted names and values, such as '{{squad/f1: 70}}'.")
    return {str(name): typed(f"{key}.{name}", str(value), kind) for name, value in values.items()}


def known_keys(kind: type | None) -> list[str]:
    """The keys that can be typed for a command's options."""
    return [field.name for field in dataclasses.fields(kind) if not field.metadata.get("others")] if kind else []


def options_help(kind: type) -> str:
    """A line for each option: its name with the default, and what it means."""
    defaults = yaml_defaults(kind)
    rows = []
    for field in sorted(
        dataclasses.fields(kind), key=lambda field: not (_is_required(field) and field.name not in defaults)
    ):
        meta = field.metadata
        if meta.get("others"):
            rows.append((meta["shown"], meta["help"]))
            continue
        value = defaults.get(field.name, None if _is_required(field) else field.default)
        if field.name not in defaults and field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        rows.append((f"{field.name}={meta.get('shown') or _shown(value)}", meta["help"]))
    width = min(28, max(len(name) for name, _ in rows))
    return "\n".join(_line(name, meaning, width) for name, meaning in rows)


def _line(name: str, meaning: str, width: int) -> str:
    first, *more = meaning.split("\n")
    indent = "\n" + " " * (4 + width + 2)
    return f"    {name:<{width}}  {indent.join([first, *more])}"


def _shown(value: Any) -> str:
    """A default as a user would type it; a long text is only hinted at."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, dict)):
        return "…" if value else ""
    if isinstance(value, (str, Path)) and (len(str(value)) > 20 or " " in str(value)):
        return "…"
    return str(value)
