"""Files that are there whole or not at all: atomic writes, JSON and JSON lines."""

import contextlib
import dataclasses
import json
import math
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llama_exp.errors import UserError
from llama_exp.records import Prediction, Turn
from llama_exp.sanitize import as_float, as_int, clean, reason

HOST = socket.gethostname().replace("/", "_")[:40]
LEFTOVER = re.compile(r"\..+\.(?P<host>[^/]+)-(?P<pid>\d{1,9})\.\w{8}")  # .results.json.node7-4711.x3f_0abc


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears at `path` only when the block ends well: written under another name, then renamed.

    A full disk or a kill leaves the old file, or none, never half of one; `remove_leftovers` removes what a kill left
    under the other name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{HOST}-{os.getpid()}.")
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


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files that killed processes of this machine left in a folder and below it.

    Not those of a process that may still be writing: one that is there, or that another machine alone could find.
    """
    for path in Path(folder).rglob(".*.????????"):
        found = LEFTOVER.fullmatch(path.name)
        if found and found["host"] == HOST and not _is_running(int(found["pid"])):
            with contextlib.suppress(OSError):  # another command was faster, or the folder is read-only
                path.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][:1] != "Z"  # dead, unburied
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a system without /proc
        return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all. NaN and infinity are refused: they are not JSON."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


MAX_BYTES = 256 << 20  # of a file that is read whole; predictions.jsonl of 10,000 items has 20 MB


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a file that a crash, another program or another person may have written; what is no UTF-8 becomes
    U+FFFD.

    Raises OSError where there is none, ValueError for a folder or a pipe in its place, and for one beyond `limit`.
    """
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for ever
        raise ValueError("a folder, a pipe or a device is in its place")
    if facts.st_size > limit:
        raise ValueError(f"it has {facts.st_size:,} bytes, and at most {limit:,} are read")
    return Path(path).read_text(encoding="utf-8", errors="replace")


def parse_json(text: str) -> Any:
    """JSON as values; NaN, Infinity and 1e999, which are no numbers, become None. Raises ValueError alone."""
    try:
        return json.loads(text, parse_constant=lambda word: None, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises OSError, or ValueError for anything that is not one whole JSON object."""
    text = read_text(path)
    if not text.strip():
        raise ValueError("the file is empty")
    values = parse_json(text)
    if not isinstance(values, dict):
        raise ValueError(f"wanted an object, got {type(values).__name__}")
    return values


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """The object in a file; {} where there is none that can be read, for what can be made again."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write records as JSON lines, whole or not at all."""
    with atomic_write(path) as file:
        file.writelines(json_line(record) for record in records)


def json_line(record: Any) -> str:
    """One record (a dataclass) as one line of JSON."""
    return _RECORDS.encode(record) + "\n"


def _fields(record: Any) -> dict[str, Any]:
    """What `dataclasses.asdict` gives, without a copy of everything in it: that takes twice as long."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


_RECORDS = json.JSONEncoder(ensure_ascii=False, default=_fields)


def parse_turns(read: Iterable[dict[str, str]]) -> tuple[Turn, ...]:
    """Turns from JSON."""
    return tuple(Turn(**turn) for turn in read)


def read_predictions(path: Path) -> list[Prediction]:
    """Read `predictions.jsonl`. A last line cut short by a kill is left out; any other broken line is an error."""
    try:
        lines = read_text(path, limit=8 * MAX_BYTES).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}). Move it away and evaluate again.") from None
    read = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            read.append(parse_prediction(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines):  # no newline after it: the writer was killed in the middle of this line
                break
            raise UserError(
                f"{path}:{number}: not a prediction ({clean(error, 200)}). Move the file elsewhere and evaluate again."
            ) from None
    return read


def parse_prediction(text: str) -> Prediction:
    """A Prediction from a line of JSON. Raises ValueError, TypeError or KeyError where a value is not of its field's
    type."""
    values = parse_json(text)
    if not isinstance(values["references"], list):
        raise TypeError("references: wanted a list")
    history = parse_turns(values.get("history", ()))
    one = Prediction(**{**values, "references": tuple(values["references"]), "history": history})
    texts = [one.id, one.prompt, one.reply, one.group, one.response, one.system, *one.references]
    texts += [*one.tags.keys(), *one.tags.values(), *(part for turn in history for part in (turn.role, turn.text))]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise TypeError(f"wanted text, got {wrong[0]!r}")
    "".join(texts).encode()  # half a character cannot be written again
    if one.nll is not None and as_float(one.nll) != one.nll:
        raise TypeError(f"nll: wanted a number, got {one.nll!r}")
    if as_int(one.tokens) != one.tokens or not 0 <= one.tokens < 2**53:
        raise TypeError(f"tokens: wanted a whole number, got {one.tokens!r}")
    return one
