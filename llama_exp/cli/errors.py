"""Hydra's errors in plain words."""

import dataclasses
import difflib
import re
import sys
from enum import Enum
from typing import Any, get_args, get_type_hints

from llama_exp.config import command_line

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


GROUPS = ("experiment", "sweep", "dataset", "model", "lora", "trainer", "logger")  # of conf/, typed by their names


own_words: list[str] = []  # of the command that runs, beside the keys of conf/


def mistyped(words: list[str]) -> str | None:
    """What Hydra's own parser would answer in its own terms."""
    options = [word for word in words if word.startswith("--") and "=" not in word]
    if "--cfg" in words and {"-m", "--multirun"} & set(words):
        return "--cfg shows one cell: leave out -m."
    if foreign := [
        word for word in options if word[2:].split(".")[0] in ("sample", "seed", "dataset", "model", "lora")
    ]:
        value = words[words.index(foreign[0]) + 1 :][:1] or ["VALUE"]
        return f"{foreign[0]}: keys are typed without dashes: {foreign[0][2:]}={value[0]}"
    if "=" in words:
        return "Write key=value, with no spaces around =."
    return None


def is_configuration_error(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("hydra", "omegaconf") or "Config group override" in str(error)


def readable(error: BaseException) -> str:
    """Hydra's message without its internals; every key that is not there, with what was probably meant."""
    if "Config group override" in str(error):
        null = [word for word in sys.argv[1:] if word.endswith("=null") and "." not in word]
        return f"{' '.join(null)}: a group needs one of its files; type for example logger=none. See --help."
    if said := _override(error):
        return said
    told = [line for text in (str(error), str(error.__cause__ or "")) for line in text.split("\n")]
    lines = [line for line in dict.fromkeys(told) if line.strip() and not line.strip().startswith(INTERNALS)]
    if (missing := re.search(r"Could not find '[^']*?([^/']+)'", str(error))) and (
        near := difflib.get_close_matches(missing[1], [line.strip() for line in lines[1:]], n=1)
    ):
        lines.append(f"Did you mean {near[0]}?")
    return "\n".join(_unknown_keys() or lines)


def _override(error: BaseException) -> str | None:
    """A word that Hydra could not read, or whose value has another type: what was wanted, and what to type."""
    from hydra.errors import OverrideParseException

    first = str(error).split("\n")[0]
    if isinstance(error, OverrideParseException):
        if unknown := _unknown_keys():  # perhaps one of the command's own words, whose text Hydra is not to read
            return "\n".join(unknown)
        key, equals, text = error.override.partition("=")
        if not equals:
            return f"{error.override}: wanted key=value."
        text = text[1:] if text[:1] in "'\"" else text
        text = text[:-1] if text[-1:] in "'\"" else text
        return (
            f"{error.override}: text with braces, commas, quotes or other signs stands in quotes inside those of the "
            f"shell. Type {command_line.shell_quoted(f'{key}={command_line.hydra_value(text)}')}"
        )
    if ambiguous := re.match("Ambiguous value for argument '(.*)'$", first):
        word = ambiguous[1]
        key, _, values = word.partition("=")
        return f"{word}: several values are a sweep, which takes -m. A list is typed {key}=[{values}]."
    merging = re.match("Error merging override (.*)$", first)
    if merging and (wanted := _wanted(merging[1].partition("=")[0].lstrip("+~"))):
        key, _, value = merging[1].partition("=")
        return f"{key}={value}: wanted {wanted}."
    return None


def _wanted(key: str) -> str | None:
    """The type of a key of conf/ in words; None where it has none, or is not there."""
    from llama_exp.config.schema import Config

    kind: Any = Config
    for name in key.split("."):
        kind = get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
    null = " or null" if type(None) in get_args(kind) else ""
    kind = next((part for part in get_args(kind) if part is not type(None)), kind) if null else kind
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(choice.name for choice in kind)}{null}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words[kind] + null if kind in words else None


def _unknown_keys() -> list[str]:
    """A line for each word of the command whose key is not in conf/."""
    from llama_exp.config.compose import default_config
    from llama_exp.config.identity import flat

    try:
        known = [*own_words, *flat(default_config({})), *GROUPS]
    except Exception:  # conf/ itself is broken: Hydra's message says how
        return []
    lines = []
    for word in sys.argv[1:]:
        key = word.split("=")[0].lstrip("+~")
        parent = key.rpartition(".")[0]
        if "=" not in word or word.startswith("-") or key in known or key.startswith(("hydra", "logger.")):
            continue
        if key.startswith("trainer."):  # Lightning knows more of them, added with +
            near = difflib.get_close_matches(key, [k for k in known if k.startswith("trainer.")], n=3, cutoff=0.6)
            if near and not word.startswith("+"):
                lines.append(f"No key {key!r}. Did you mean {', '.join(near)}?")
            continue
        if parent and any(k.startswith(f"{key}.") for k in known):
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8) or difflib.get_close_matches(
            key, known, n=3, cutoff=0.5
        )
        lines.append(f"No key {key!r}." + (f" Did you mean {', '.join(near)}?" if near else " --cfg job lists all."))
    return lines
