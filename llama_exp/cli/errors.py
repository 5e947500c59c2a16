"""Hydra's errors as messages for a user: what was wanted, what was typed, what to type instead."""

import dataclasses
import decimal
import difflib
import errno
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any, get_args, get_type_hints

from hydra.errors import OverrideParseException

from llama_exp.config import command_line
from llama_exp.config.key_names import OTHER_NAMES, OTHER_VALUES, similar_keys
from llama_exp.runs.lock import UNWRITABLE

# Lines of Hydra's messages that are about Hydra.
INTERNALS = (
    "full_key",
    "object_type",
    "reference_type",
    "set HYDRA",
    "Config search path",
    "provider=",
    "To append",
    "Error executing job",
)
GROUPS = ("experiment", "sweep", "dataset", "model", "lora", "trainer", "logger")  # folders of conf/: group=choice
UNUSABLE = {*UNWRITABLE, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ESTALE}
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def mistyped(arguments: Sequence[str]) -> str | None:
    """The message for arguments that Hydra's own parser would answer in its own terms; None where there are none."""
    if "--cfg" in arguments and {"-m", "--multirun"} & set(arguments):
        return "--cfg shows one cell: leave out -m."
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        key = flag.removeprefix("--")
        if flag.startswith("--") and (key.split(".")[0] in (*GROUPS, "sample", "seed") or key in OTHER_NAMES):
            value = value if equals else [*arguments[index + 1 :], "VALUE"][0]
            return f"{flag}: keys are typed without dashes: {OTHER_NAMES.get(key, key)}={value}"
    if "=" in arguments:
        return "Write key=value, with no spaces around =."
    return None


def unknown_launcher(name: str) -> str:
    return (
        f"hydra/launcher={name} is none of gpus, ray, slurm and slurm_local; another launcher would run the cells "
        "where their failures are not seen."
    )


def is_config_error(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("hydra", "omegaconf") or "Config group override" in str(error)


def file_error_message(error: BaseException) -> str:
    """What to type where a file or folder cannot be used: full, read-only, a name that is too long; "" for the rest."""
    if not isinstance(error, OSError) or error.errno not in UNUSABLE or isinstance(error, BrokenPipeError):
        return ""
    name = f"{str(error.filename)[:200]}: " if error.filename else "Writing failed: "
    return f"{name}{error.strerror}. Free some space there, or name another place (outputs=FOLDER or out=FOLDER)."


def config_error_message(error: BaseException, arguments: Sequence[str], options: Sequence[str] = ()) -> str:
    """Hydra's message without its internals. `options` are the keys of the command that are not in conf/."""
    if "INTERVAL_SWEEP" in str(error):
        return "interval(…) names no values: type some with commas, or let hydra/sweeper=optuna draw from it."
    if "Config group override" in str(error):
        null = [argument for argument in arguments if argument.endswith("=null") and "." not in argument]
        return f"{' '.join(null)}: a group needs one of its files; type for example logger=none. See --help."
    return (
        _unreadable_value(error, arguments, options)
        or _several_values(error)
        or _wrong_type(error)
        or _unknown_choice(error)
        or "\n".join(_unknown_keys(arguments, options) or _without_internals(error))
    )


def _unreadable_value(error: BaseException, arguments: Sequence[str], options: Sequence[str]) -> str | None:
    """A key=value that Hydra's grammar does not read: how to quote it."""
    if not isinstance(error, OverrideParseException):
        return None
    if unknown := _unknown_keys(arguments, options):  # perhaps a mistyped option, whose text Hydra is not to read
        return "\n".join(unknown)
    key, equals, text = error.override.partition("=")
    if not equals:
        return f"{error.override}: wanted key=value."
    text = text.removeprefix(text[:1]) if text[:1] in ("'", '"') else text
    text = text.removesuffix(text[-1:]) if text[-1:] in ("'", '"') else text
    return (
        f"{error.override}: text with braces, commas, quotes or other signs needs quotes inside those of the "
        f"shell. Type {command_line.shell_quoted(f'{key}={command_line.hydra_value(text)}')}"
    )


def _several_values(error: BaseException) -> str | None:
    """Values with commas without -m."""
    found = re.match("Ambiguous value for argument '(.*)'$", str(error).split("\n")[0])
    if not found:
        return None
    key, _, values = found[1].partition("=")
    return f"{found[1]}: several values are a sweep, which takes -m. A list is typed {key}=[{values}]."


def _wrong_type(error: BaseException) -> str | None:
    """A value of another type than the key's."""
    found = re.match("Error merging override (.*)$", str(error).split("\n")[0])
    if not found:
        return None
    key, _, value = found[1].partition("=")
    if key.startswith("~"):
        return f"{key}: a key cannot be taken away. Give it a value: {key.removeprefix('~')}=VALUE."
    wanted = _type_name(key.lstrip("+~"))
    return f"{key}={value}: wanted {wanted}.{_as_whole(key, value)}" if wanted else None


def _as_whole(key: str, value: str) -> str:
    """` Type sample=1000000` for sample=1e6: a whole number in another spelling."""
    try:
        number = decimal.Decimal(value)
    except decimal.InvalidOperation:
        return ""
    whole = number.is_finite() and abs(number) < 10**18 and number == int(number)
    return f" Type {key}={int(number)}" if whole else ""


def _type_name(key: str) -> str | None:
    """The type of a key of conf/ as text; None where it has none, or does not exist."""
    from llama_exp.config.schema import Config

    kind: Any = Config
    for name in key.split("."):
        kind = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    null = " or null" if type(None) in get_args(kind) else ""
    kind = next((part for part in get_args(kind) if part is not type(None)), kind) if null else kind
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(choice.name for choice in kind)}{null}"
    return TYPE_NAMES[kind] + null if kind in TYPE_NAMES else None


def _unknown_choice(error: BaseException) -> str | None:
    """group=choice, or group=[choice,…], without a file of that name."""
    from llama_exp.config.compose import choices

    found = re.search(r"Could not (?:find|load) '(\w+)/([^']+)'", str(error))
    if found and found[2].startswith("launcher/"):
        return unknown_launcher(found[2].removeprefix("launcher/"))
    if not found or found[1] not in GROUPS or found[2] in (known := choices(found[1])):
        return None
    group, name = found[1], found[2]
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"Did you mean {near[0]}?" if near else f"Type for example {group}={known[0]}."
    return (
        f"Could not find '{group}/{name}'. Choices of {group}: {', '.join(known)}. {meant}\n"
        f"A file of your own, DIR/{group}/{name}.yaml, is found with --config-dir DIR."
    )


def _without_internals(error: BaseException) -> list[str]:
    lines = [line for text in (str(error), str(error.__cause__ or "")) for line in text.split("\n")]
    return [line for line in dict.fromkeys(lines) if line.strip() and not line.strip().startswith(INTERNALS)]


def _unknown_keys(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """A line for each argument whose key does not exist, with the keys that were probably meant."""
    from llama_exp.config.compose import default_config
    from llama_exp.config.identity import flat

    try:
        known = [*options, *flat(default_config({})), *GROUPS]
    except Exception:  # conf/ itself is broken: Hydra's message says how
        return []
    lines = (_unknown_key(argument, known) for argument in arguments if "=" in argument)
    return [line for line in lines if line]


def _unknown_key(argument: str, known: list[str]) -> str | None:
    key, _, value = argument.lstrip("+~").partition("=")
    if argument.startswith("-") or key in known or key.startswith(("hydra", "logger.")):
        return None
    if key.startswith("trainer."):  # Lightning knows more of them, added with +
        near = difflib.get_close_matches(
            key, [other for other in known if other.startswith("trainer.")], n=3, cutoff=0.6
        )
        return f"No key {key!r}. Did you mean {', '.join(near)}?" if near and not argument.startswith("+") else None
    if "." in key and any(other.startswith(f"{key}.") for other in known):
        return None
    near = similar_keys(key, known)
    if key in OTHER_NAMES and key not in OTHER_VALUES:
        near = [command_line.shell_quoted(f"{OTHER_NAMES[key]}={value}")]
    return f"No key {key!r}." + (f" Did you mean {', '.join(near)}?" if near else " --cfg job lists all.")
