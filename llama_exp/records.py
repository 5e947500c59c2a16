"""What flows through an experiment: frozen records of built-in types, and their files on disk.

    row -> Example -> Tokens -> Batch -> adapter -> Prediction -> results.json

The same records cross every module border and lie on disk as JSON lines, so that `predictions.jsonl` can be read,
joined and scored without this package. Nothing here imports torch.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llama_exp.errors import UserError


@dataclass(frozen=True, slots=True)
class Turn:
    """One speaker's words. `role` is "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn or to be asked.

    prompt      the user's message, whole, already in the dataset's wording
    response    the answer to learn; never shortened
    references  every answer that counts as right
    group       the cluster it belongs to (SQuAD: the article); never on two sides of a split
    context     the part of `prompt` that may be shortened when it is too long ("" = any of it may)
    history     earlier turns, user first, alternating, ending with an assistant's
    tags        labels to break scores down by ({"qtype": "treatment"})
    """

    id: str
    prompt: str
    response: str
    references: tuple[str, ...]
    group: str
    context: str = ""
    history: tuple[Turn, ...] = ()
    system: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tokens:
    """An encoded Example. `labels` is -100 over the prompt and equals `input_ids` over the response and its EOS."""

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def label_tokens(self) -> int:
        return sum(label != -100 for label in self.labels)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A reply to a held-out Example.

    nll         summed negative log-likelihood of the response and its EOS under the model, in nats (None: not measured)
    tokens      how many tokens that sum runs over
    finished    whether the reply ended by itself (EOS) before the limit
    shortened   whether the prompt had to be shortened to fit
    response    the answer to learn, cleaned as the model learns it; `references` are as written
    system, history    what the model read before `prompt`: what it was told it is, and the turns before

    Files of earlier versions have none of the last three.
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    reply: str
    group: str
    nll: float | None = None
    tokens: int = 0
    finished: bool = True
    shortened: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    response: str = ""
    system: str = ""
    history: tuple[Turn, ...] = ()

    @property
    def told(self) -> bool:
        """Whether it says what the model read before the prompt, and the response."""
        return bool(self.response or self.system or self.history)


@dataclass(frozen=True, slots=True)
class Rating:
    """A rater's verdict on one item of a study: "left", "right", "tie", or scores on named scales."""

    rater: str
    item: str
    verdict: str
    scores: dict[str, int] = field(default_factory=dict)
    comment: str = ""
    seconds: float = 0.0


@contextmanager
def written_whole(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears at `path` only when the block ends well: written aside, then renamed.

    A full disk or a kill leaves the old file, or none, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with open(aside, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as file:
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
    with written_whole(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write records as JSON lines, whole or not at all."""
    with written_whole(path) as file:
        file.writelines(line(record) for record in records)


def line(record: Any) -> str:
    """One record as one line of JSON."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n"


def turns(read: Iterable[dict[str, str]]) -> tuple[Turn, ...]:
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
            history = turns(values.get("history", ()))
            read.append(Prediction(**{**values, "references": tuple(values["references"]), "history": history}))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # no newline after it: the writer was killed in the middle of this line
                break
            raise UserError(
                f"{path}:{number}: not a prediction ({error}). Delete the file and evaluate again."
            ) from None
    return read
