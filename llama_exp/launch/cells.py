"""The cells of a sweep and the folder through which its workers agree who runs which, and what came of it.

outputs/.launch/train-3fa9c1d2/
    1c0ffee01c0ffee0.lease      a worker runs this cell
    1c0ffee01c0ffee0.start      which worker began it last
    1c0ffee01c0ffee0.outcome    {"message": "F1 58.3 …", "folder": "outputs/squad/…"}
    worker0.4711.log            what a worker printed
    further.json                of a sweep that chooses its cells as it goes: those so far, and whether more may come
"""

import contextlib
import hashlib
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import SoftFileLease, Timeout

from llama_exp.runs.files import read_json_or_nothing, write_json
from llama_exp.runs.lock import FolderBusy, lease
from llama_exp.runs.run import BUSY, Outcome

FURTHER = "further.json"
LISTEN_EVERY = 0.1  # seconds between two looks of an idle worker into the file that offers further cells
LOOK_EVERY = 1.0  # seconds after which it tries those again that others held
BUSY_TRIES = 3  # of a cell that a process outside of the sweep works on
SILENT = 600.0  # seconds after which the launcher, which writes that file every minute, is taken for dead
LENGTHS = ("sample", "max_tokens", "trainer.max_epochs", "trainer.max_steps")  # what a cell's time is proportional to


@dataclass(frozen=True)
class Cell:
    """A point of the grid: its number in the sweep, and its overrides."""

    number: int
    overrides: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """The same for the same overrides, in whichever sweep and order."""
        return hashlib.sha256("\n".join(sorted(self.overrides)).encode()).hexdigest()[:16]

    @cached_property
    def size(self) -> float:
        """Grows with the time that the cell takes, as far as its overrides tell: sample=null is the largest."""
        values = dict(override.lstrip("+").split("=", 1) for override in self.overrides if "=" in override)
        size = math.prod(_number(values[key]) for key in LENGTHS if key in values)
        return 0.0 if values.get("lora.r") == "0" else size


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf if text == "null" else 1.0


class SweepFolder:
    """The files of a sweep's cells. Each process that looks at them makes its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.leases: dict[str, SoftFileLease] = {}  # kept: a lease remembers since when the holder is silent

    def _path(self, cell: Cell, kind: str) -> Path:
        return self.folder / f"{cell.key}.{kind}"

    def names(self) -> set[str]:
        return set(os.listdir(self.folder))

    @contextlib.contextmanager
    def claim(self, cell: Cell) -> Iterator[None]:
        """Hold a cell while the block runs. FolderBusy where another process holds it."""
        held = self.leases.setdefault(cell.key, lease(self._path(cell, "lease")))
        try:
            held.acquire(blocking=False)
        except Timeout:
            raise FolderBusy(f"Another worker runs cell {cell.number + 1}.", self.folder) from None
        try:
            yield
        finally:
            held.release()

    def offer(self, cells: Iterable[Cell], more: bool, beat: int = 0) -> None:
        """Tell the workers of all cells so far. While `more` may come they wait, as long as `beat` rises."""
        listed = [[cell.number, list(cell.overrides)] for cell in cells]
        write_json(self.folder / FURTHER, {"cells": listed, "more": more, "beat": beat})

    def offered(self) -> tuple[list[Cell], bool, int] | None:
        """None where that cannot be read, as for a moment on a network file system."""
        found = read_json_or_nothing(self.folder / FURTHER)
        if not found:
            return None
        cells = [Cell(number, tuple(overrides)) for number, overrides in found["cells"]]
        return cells, bool(found["more"]), int(found["beat"])

    def is_free(self, cell: Cell) -> bool:
        try:
            with self.claim(cell):
                return True
        except FolderBusy:
            return False

    def begin(self, cell: Cell, worker: str) -> None:
        write_json(self._path(cell, "start"), {"worker": worker})

    def worker(self, cell: Cell) -> str | None:
        """The worker that began the cell last."""
        return read_json_or_nothing(self._path(cell, "start")).get("worker")

    def says(self, worker: str) -> str:
        """The last line that a worker has printed; "" where its log is somewhere else."""
        path = self.folder / f"{worker}.log"
        try:
            with path.open("rb") as file:
                file.seek(max(path.stat().st_size - 4096, 0))
                lines = re.split(r"[\r\n]", file.read().decode(errors="replace"))
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def postpone(self, cell: Cell) -> None:
        """No worker has the cell now."""
        self._path(cell, "start").unlink(missing_ok=True)

    def end(self, cell: Cell, outcome: Outcome) -> None:
        write_json(self._path(cell, "outcome"), {"message": outcome.message, "folder": str(outcome.folder)})

    def outcome(self, cell: Cell) -> Outcome | None:
        found = read_json_or_nothing(self._path(cell, "outcome"))
        return Outcome(found["message"], Path(found["folder"])) if found else None

    def forget(self, cell: Cell) -> None:
        """Remove what an earlier command left: a failed cell runs again, a finished one says that it is."""
        for kind in ("start", "outcome"):
            self._path(cell, kind).unlink(missing_ok=True)


def largest_first(cells: Iterable[Cell]) -> list[Cell]:
    """So that no worker begins a long cell when the others have finished."""
    return sorted(cells, key=lambda cell: -cell.size)


def walk(cells: Iterable[Cell], sweep: SweepFolder, run: Callable[[Cell], Outcome], worker: str) -> None:
    """Run cells until no more come: those that are known, then those that the launcher offers."""
    walk_known(cells, sweep, run, worker)
    tries: Counter[str] = Counter()

    def run_or_leave(cell: Cell) -> Outcome:
        try:
            return run(cell)
        except FolderBusy:
            tries[cell.key] += 1
            if tries[cell.key] < BUSY_TRIES:
                raise
            return Outcome(BUSY, Path())

    heard = looked = time.monotonic()
    last_beat, more = -1, (sweep.folder / FURTHER).exists()
    while more and time.monotonic() - heard < SILENT:
        if found := sweep.offered():
            offered, more, beat = found
            if beat != last_beat:
                heard = time.monotonic()
            if beat != last_beat or time.monotonic() - looked > LOOK_EVERY:
                began = time.monotonic()
                walk_known(offered, sweep, run_or_leave, worker)
                looked, last_beat = time.monotonic(), beat
                heard += looked - began  # who works does not listen
        if more:
            time.sleep(LISTEN_EVERY)


def walk_known(cells: Iterable[Cell], sweep: SweepFolder, run: Callable[[Cell], Outcome], worker: str) -> None:
    """Claim and run cells until all that are left are held by others. A worker does not wait for those: it would hold
    its GPU for nothing, and the launcher starts another one where a holder dies.

    Where `run` raises FolderBusy, a process outside of the sweep works on the run: it is tried again after the others.
    """
    pending, progress = largest_first(cells), True
    while pending and progress:
        left, progress = [], False
        for cell in pending:
            if sweep.outcome(cell):
                continue
            try:
                with sweep.claim(cell):
                    if not sweep.outcome(cell):  # by another worker in the meantime
                        _run_claimed(cell, sweep, run, worker)
                        progress = True
            except FolderBusy:
                left.append(cell)
        pending = left


def _run_claimed(cell: Cell, sweep: SweepFolder, run: Callable[[Cell], Outcome], worker: str) -> None:
    sweep.begin(cell, worker)
    try:
        sweep.end(cell, run(cell))
    except BaseException:  # stopped by a signal, or the run is busy: no worker has it now
        sweep.postpone(cell)
        raise
