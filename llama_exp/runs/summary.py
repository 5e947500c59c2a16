"""summary.json: the outcome of a training, written last. This file alone writes it and reads it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_exp.runs.files import read_json, write_json
from llama_exp.runs.stored import check_schema, record_from

SCHEMA = 1
FINISHED = ("finished", "stopped early")
PART = "stopped at "  # how the status of a part of a run begins


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a training did, whether it finished or broke. Sizes are in bytes, times in seconds, losses in nats a label
    token.

    The second half is known only of a training that ended well. Older summaries lack some keys: every field has a
    default.
    """

    run: str = ""
    status: str = ""  # finished, stopped early, stopped at 25 %, interrupted, failed
    reason: str | None = None  # why it broke
    identity: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)  # rows read, cleaned, dropped, sampled, encoded
    audit: dict[str, Any] | None = None  # overlap of training with the held-out items
    steps: int | None = None
    planned_steps: int | None = None
    tokens: int | None = None
    energy_joules: float | None = None
    world_size: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    started: str | None = None
    finished: str | None = None

    content: str | None = None  # a hash of the Examples
    lora: dict[str, Any] = field(default_factory=dict)
    chat_format: dict[str, Any] = field(default_factory=dict)  # kind, end of turn, template (data/chat_format.py)
    adapter: dict[str, str] = field(default_factory=dict)  # SHA-256 by file
    base: dict[str, str] = field(default_factory=dict)  # checksums by file (model/checkpoint.py)
    trainable_parameters: int | None = None
    parameters: int | None = None
    epochs: float | None = None
    label_tokens: int | None = None
    tokens_per_second: float | None = None
    flops_per_token: float | None = None
    mfu: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # by phase
    peak_memory_bytes: int | None = None
    loss: dict[str, float | None] = field(default_factory=dict)  # train, validation, best_validation; kept_validation
    device: str | None = None
    precision: str | None = None
    quantisation: str | None = None
    micro_batch: int | None = None
    gradient_checkpointing: bool | None = None
    schema: int = SCHEMA

    @property
    def ended_well(self) -> bool:
        return self.status in FINISHED

    @property
    def is_part(self) -> bool:
        """Whether `stop_at` ended it: the same command goes on."""
        return self.status.startswith(PART)


def write_summary(folder: Path, summary: Summary) -> None:
    write_json(folder / "summary.json", dataclasses.asdict(summary))


def find_summary(folder: Path) -> Summary | None:
    """The summary in a folder; None where there is none that can be read: then no run has finished there."""
    try:
        return read_summary(folder)
    except (OSError, ValueError):
        return None


def read_summary(folder: Path) -> Summary:
    """The summary in a folder. Raises OSError or ValueError where there is none that can be read, UserError for one
    that a newer version wrote, whose numbers might mean something else.
    """
    path = folder / "summary.json"
    values = read_json(path)
    check_schema(path, values, SCHEMA)
    return record_from(Summary, values)
