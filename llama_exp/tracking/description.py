"""What a run is called in a logger: id, name, group, tags, and a config without paths of this machine.

outputs/squad/tiny-300-r16-seed0/tracking.json    what must stay the same when another process goes on with the run
"""

import dataclasses
import os
import re
import secrets
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from llama_exp.runs.files import read_json_or_nothing, write_json
from llama_exp.runs.run import Run
from llama_exp.sanitize import as_dict, as_text, clean

SWEEP = "LLAMA_EXP_SWEEP"  # the sweep's id in the environment, so that cells in other processes know it, too
# Where results lie, what a command does and who logs it: nothing that one filters runs by.
NOT_LOGGED = ("outputs", "out", "logger", "dashboard", "preflight", "predictions", "stop_at")
TAG_LENGTH = 64  # W&B takes no longer ones
PATH_START = re.compile(r"(file:)?(//)?(/|~|[A-Za-z]:[\\/])")


@dataclass(frozen=True)
class Description:
    """job: "train", or "evaluate" where nothing was trained; logged: {logger: {evaluation: hash of its results}}."""

    id: str
    name: str
    group: str | None
    job: str
    sweep: str | None
    tags: list[str]
    config: dict[str, Any]
    folder: Path
    outputs: Path
    logged: dict[str, dict[str, str]] = field(default_factory=dict)


def describe(run: Run, job: str, examples: int | None = None) -> Description:
    """The description of a run, the same one in every process that logs it.

    The first of them decides id, group and job; each sweep that a run is part of adds its tag.
    """
    path = run.folder / "tracking.json"
    stored, sweep = read_json_or_nothing(path), os.environ.get(SWEEP) or None
    sweeps = [clean(one, 20) for one in stored.get("sweeps") or [] if isinstance(one, str)]
    sweeps += [sweep] if sweep and sweep not in sweeps else []
    known = {
        "id": as_text(stored, "id") or secrets.token_hex(8),
        "group": as_text(stored, "group") or sweep,
        "job": as_text(stored, "job") or job,
        "sweeps": sweeps,
        "logged": as_dict(stored, "logged"),
    }
    if known != stored:
        write_json(path, known)
    return Description(
        id=known["id"],
        name=run.name,
        group=known["group"],
        job=known["job"],
        sweep=sweep,
        tags=tags(run, sweeps),
        config={**loggable_config(run), "examples": examples, "sweep": known["group"]},
        folder=run.folder,
        outputs=Path(run.config.outputs),
        logged=known["logged"],
    )


def joins_sweep(run: Run) -> bool:
    """Whether this command's sweep takes over a run of an earlier one, whose loggers do not know of it yet."""
    sweep = os.environ.get(SWEEP)
    return bool(sweep) and sweep not in (read_json_or_nothing(run.folder / "tracking.json").get("sweeps") or [])


def remember(description: Description, logger: str, evaluation: str, digest: str) -> None:
    """Record that a logger holds these results of an evaluation."""
    path = description.folder / "tracking.json"
    description.logged.setdefault(logger, {})[evaluation] = digest
    write_json(path, {**read_json_or_nothing(path), "logged": description.logged})


def tags(run: Run, sweeps: list[str]) -> list[str]:
    config = run.config
    found = [config.dataset.name, config.model.title, f"rank:{config.lora.r}"]
    if config.lora.r:
        found.append(f"sample:{config.sample or 'all'}")
    return [clean(tag, TAG_LENGTH) for tag in [*found, *(f"sweep:{sweep}" for sweep in sweeps)] if tag]


def loggable_config(run: Run) -> dict[str, Any]:
    """The config, nested as in conf/, in plain types."""
    values = dataclasses.asdict(run.config)
    return {key: plain(value) for key, value in values.items() if key not in NOT_LOGGED}


def plain(value: Any) -> Any:
    """A value in plain types; of a path of this machine only the last part."""
    if isinstance(value, dict):
        return {str(key): plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [plain(of) for of in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath) or (isinstance(value, str) and PATH_START.match(value)):
        return re.split(r"[\\/]", str(value).rstrip("\\/"))[-1]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
