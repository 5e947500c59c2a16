"""Files that are there whole or not at all: atomic writes, JSON and JSON lines."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llama_exp.errors import UserError
from llama_exp.records import Prediction, Turn


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears at `path` only when the block ends well: written under another name, then renamed.

    A full disk or a kill leaves the old file, or none, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        text = "b" not in mode
        with open(aside, mode, encoding="utf-8" if text else None, newline="" if text else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)  # mkstemp's 0600 would hide results from the rest of a team
        os.replace(aside, path)
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all. NaN and infinity are refused: they are not JSON."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises OSError, or ValueError for anything that is not one whole JSON object."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.strip():
        raise ValueError("the file is empty")
    try:
        values = json.loads(text, parse_constant=lambda word: None)  # NaN and Infinity: no JSON, and no numbers
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(values, dict):
        raise ValueError(f"wanted an object, got {type(values).__name__}")
    return values


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write records as JSON lines, whole or not at all."""
    with atomic_write(path) as file:
        file.writelines(json_line(record) for record in records)


def json_line(record: Any) -> str:
    """One record as one line of JSON."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n"


def parse_turns(read: Iterable[dict[str, str]]) -> tuple[Turn, ...]:
    """Turns from JSON."""
    return tuple(Turn(**turn) for turn in read)


def read_predictions(path: Path) -> list[Prediction]:
    """Read `predictions.jsonl`. A last line cut short by a kill is left out; any other broken line is an error."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    read = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
            history = parse_turns(values.get("history", ()))
            read.append(Prediction(**{**values, "references": tuple(values["references"]), "history": history}))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # no newline after it: the writer was killed in the middle of this line
                break
            raise UserError(
                f"{path}:{number}: not a prediction ({error}). Move the file elsewhere and evaluate again."
            ) from None
    return read
