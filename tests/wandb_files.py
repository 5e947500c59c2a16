"""W&B's offline files: protobuf records in LevelDB's log format, in blocks of 32 KiB."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(file: Path) -> Iterator[Any]:
    """The records of one file. Imports wandb: a test that wants speed calls it last."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            yield Record.FromString(whole)
            whole = b""


def offline_files(run: Path) -> list[Path]:
    """Those of a run's folder, in the order of the processes that wrote them."""
    return sorted(run.glob("wandb/offline-run-*/*.wandb"))


def history(file: Path) -> list[dict[str, Any]]:
    """The rows of the curves."""
    rows = [_items(record.history.item) for record in records(file)]
    return [row for row in rows if row]


def summary(file: Path) -> dict[str, Any]:
    """What the run's summary holds in the end, nested values by dotted key."""
    found: dict[str, Any] = {}
    for record in records(file):
        for key, value in _items(record.summary.update).items():
            found |= {f"{key}.{name}": of for name, of in value.items()} if isinstance(value, dict) else {key: value}
    return found


def header(file: Path) -> Any:
    """The run record: id, name, group, job type, tags; `config_of` reads its config."""
    return next(record.run for record in records(file) if record.WhichOneof("record_type") == "run")


def config_of(file: Path) -> dict[str, Any]:
    return {item.key: json.loads(item.value_json) for item in header(file).config.update}


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
