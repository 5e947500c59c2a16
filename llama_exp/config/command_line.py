"""The command that trains or evaluates a cell again: its first keys, and every value that is not the default.

    {"dataset.name": "squad", "lora.r": 8, "trainer.max_epochs": 2, …}  ->  python train.py dataset=squad …
    trainer.max_epochs=2

The values come from files, so they are quoted for the shell and for Hydra, and no control
character reaches a terminal.
"""

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from llama_exp.programs import program

FIRST_KEYS = {"dataset": "dataset.name", "model": "model.name", "sample": "sample", "lora.r": "lora.r"}
# Where results lie and what a command does, not what a cell is; and a logger, which is a group of several keys.
NOT_IN_COMMANDS = (
    *("outputs", "out", "preflight", "stop_at", "dashboard", "predictions", "trained_on"),
    *("logger.", "model.label"),
)
PLAIN = r"[A-Za-z_./][A-Za-z0-9_./:+-]*"
HYDRA_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "none", "nan", "inf"}


def command(name: str, leaves: Mapping[str, Any], *more: str) -> str:
    """`python train.py …` (name: "train") for a cell's leaves, {dotted key: value}.

    more: overrides that come last, such as `outputs=elsewhere`.
    """
    overrides = {short: leaves.get(key) for short, key in FIRST_KEYS.items()}
    if overrides["lora.r"] == 0:
        del overrides["sample"]  # the untuned model saw none
    usual = _defaults(str(overrides["dataset"]), str(overrides["model"]))
    rest = leaves.keys() - set(FIRST_KEYS.values())
    for key in sorted(rest, key=lambda k: (not k.startswith("dataset."), k)):
        if key.startswith(NOT_IN_COMMANDS) or (usual is None and key not in ("seed", "data_seed")):
            continue  # without the defaults, only what is sure to matter
        if leaves[key] != (usual or {}).get(key, 0 if usual is None else "no such key"):
            overrides[key if usual is None or key in usual else f"+{key}"] = leaves[key]
    quoted = [shell_quoted(f"{key}={hydra_value(of)}") for key, of in overrides.items()]
    return " ".join([program(name), *_config_dir(str(overrides["dataset"])), *quoted, *map(shell_quoted, more)])


def _config_dir(dataset: str) -> list[str]:
    """`--config-dir DIR` for a dataset that is not in conf/; DIR as it was typed for this command."""
    from llama_exp.config.compose import CONF, typed_config_dirs

    if (CONF / "dataset" / f"{dataset}.yaml").is_file():
        return []
    found = [folder for folder in typed_config_dirs() if Path(folder, "dataset", f"{dataset}.yaml").is_file()]
    return ["--config-dir", *map(shell_quoted, found[:1] or ["DIR"])]


def with_override(words: Sequence[str], key: str, value: Any) -> list[str]:
    """Arguments with key=value in the place of what was typed for that key, or at their end."""
    override = f"{key}={hydra_value(value)}"
    replaced = [override if word.lstrip("+").startswith(f"{key}=") else word for word in words]
    return replaced if override in replaced else [*words, override]


def folder_options(run: Path, dataset: str, root: Path, named: Any = None) -> list[str]:
    """`outputs=FOLDER` where results are not in outputs/; `out=FOLDER` for a run that was given (`named`) or has no
    usual place."""
    if named or run.parent != root / dataset:
        return [f"out={hydra_value(str(run))}"]
    return outputs_option(root)


def outputs_option(root: Path) -> list[str]:
    """`outputs=FOLDER`; nothing for the usual folder."""
    return [] if root == Path("outputs") else [f"outputs={hydra_value(str(root))}"]


@cache
def _defaults(dataset: str, model: str) -> dict[str, Any] | None:
    """What a plain command would give; None where conf/ does not know these names."""
    try:
        from llama_exp.config.compose import default_config
        from llama_exp.config.identity import flat

        return flat(default_config({"dataset": dataset, "model": model}))
    except Exception:  # any complaint of Hydra's: a name from elsewhere must not stop a report
        return None


def hydra_value(of: Any) -> str:
    """A value as Hydra reads it back."""
    if of is None or isinstance(of, bool):
        return {None: "null", True: "true", False: "false"}[of]
    if isinstance(of, Sequence) and not isinstance(of, str):
        return f"[{','.join(map(hydra_value, of))}]"
    text = str(of)
    if not isinstance(of, str) or (re.fullmatch(PLAIN, text) and text.lower() not in HYDRA_WORDS):
        return text
    text = text.replace("${", "\\${")  # a dollar, no interpolation
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"


def shell_quoted(argument: str) -> str:
    """An argument for the shell. Control characters are spelt out, so that a command is one line and can be shown."""
    if not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in argument):
        return f'"{argument}"' if "'" in argument and not set(argument) & set('"$`\\!') else shlex.quote(argument)

    def spelt(c: str) -> str:
        if c in "\\'":
            return f"\\{c}"
        if c == "\n":
            return "\\n"
        hidden = unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        return f"\\U{ord(c):08x}" if hidden else c

    return "$'" + "".join(map(spelt, argument)) + "'"
