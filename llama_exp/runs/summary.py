"""summary.json: the outcome of a training, written last. This file alone writes it and reads it."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_exp.errors import UserError
from llama_exp.runs.files import write_json

SCHEMA = 1
FINISHED = ("finished", "stopped early")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a training did, whether it finished or broke. Sizes are in bytes, times in seconds, losses in nats a label
    token.

    The second half is known only of a training that ended well.
    """

    run: str
    status: str  # finished, stopped early, interrupted, failed
    reason: str | None  # why it broke
    identity: dict[str, Any]
    counts: dict[str, Any]  # rows read, cleaned, dropped, sampled, encoded
    audit: dict[str, Any] | None  # overlap of training with the held-out items
    steps: int
    planned_steps: int
    tokens: int
    energy_joules: float | None
    world_size: int
    versions: dict[str, str]
    commit: str | None
    started: str
    finished: str

    content: str | None = None  # a hash of the Examples
    lora: dict[str, Any] = field(default_factory=dict)
    chat_format: dict[str, Any] = field(default_factory=dict)  # kind, end of turn, template (data/chat_format.py)
    adapter: dict[str, str] = field(default_factory=dict)  # SHA-256 by file
    base: dict[str, str] = field(default_factory=dict)  # checksums by file (model/checkpoint.py)
    trainable_parameters: int = 0
    parameters: int | None = None
    epochs: float | None = None
    label_tokens: int | None = None
    tokens_per_second: float | None = None
    flops_per_token: float | None = None
    mfu: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # by phase
    peak_memory_bytes: int | None = None
    loss: dict[str, float | None] = field(default_factory=dict)  # train, validation, best_validation
    device: str | None = None
    precision: str | None = None
    quantisation: str | None = None
    micro_batch: int | None = None
    gradient_checkpointing: bool | None = None
    schema: int = SCHEMA

    @property
    def ended_well(self) -> bool:
        return self.status in FINISHED


def write_summary(folder: Path, summary: Summary) -> None:
    write_json(folder / "summary.json", dataclasses.asdict(summary))


def read_summary(folder: Path) -> Summary | None:
    """The summary in a folder; None where there is none, or none that can be read: then the run has not finished.

    Summaries written before there were schema versions lack some keys, which get their defaults. UserError for one that
    a newer version wrote, whose numbers might mean something else.
    """
    path = folder / "summary.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(values, dict):
        return None
    check_schema(path, values.get("schema", 0), SCHEMA)
    known = {field.name: field for field in dataclasses.fields(Summary)}
    required = {name: None for name, field in known.items() if _is_required(field)}
    dictionaries: dict[str, dict] = {name: {} for name in ("identity", "counts", "versions")}
    given = {name: value for name, value in values.items() if name in known and value is not None}
    return Summary(**{**required, **dictionaries, **given})


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def check_schema(path: Path, found: object, known: int) -> None:
    """Raise UserError for a file that a newer version wrote."""
    if not isinstance(found, int) or found > known:
        raise UserError(
            f"{path} has schema {found}, and this version reads up to {known}: it was written by a newer llama_exp. "
            "Update with `pip install -U llama_exp`, or choose another folder: outputs=FOLDER."
        )
