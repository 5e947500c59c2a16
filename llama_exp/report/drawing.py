"""Loss pages of runs, drawn in this process or, in a sweep, by one beside it while the next cells train.

pages = LossPages(beside=True)
pages.submit(Page("outputs/squad/tiny-300-r16-seed0", "Finished: 40 steps."))      returns at once
pages.finish()                                                                     waits for what is open

this process                                       python -m llama_exp.report.drawing
{"number": 1, "folder": …, "ended": …}       ->    draws it; nothing that a line holds is executed
shows what failed, at the next page          <-    {"number": 1, "failed": ""}
writes END, or is killed, and closes it      ->    draws what is left in the pipe, and ends
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llama_exp.programs import python_path
from llama_exp.quiet import silence_libraries
from llama_exp.runs.files import parse_json
from llama_exp.sanitize import clean
from llama_exp.stopping import ToBeContinued

LIMIT = 60.0  # seconds in which the end of a command waits for its last pages
LIMIT_STOPPED = 3.0  # the same after a signal: who sent it may soon kill
MOST_OPEN = 16  # pages: a process that is so far behind is waited for
MOST_LOST = 2  # drawing processes that may die before all pages are drawn here
LOWER = 5  # niceness: training comes first
IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # a cluster sends them to all processes
END = b"end\n"  # no more pages: a process forked from this one may hold the pipe open for longer


@dataclass(frozen=True)
class Page:
    """losses.png and losses.html of a run's folder: how it ended, and the column that early stopping watched."""

    folder: str
    ended: str = ""
    keeps_best: str | None = None

    @property
    def path(self) -> Path:
        return Path(self.folder) / "losses.html"

    def draw(self) -> str:
        """Returns why it could not be drawn; "" where it was."""
        try:
            from llama_exp.report import loss_page  # matplotlib

            loss_page.write(Path(self.folder), self.ended, self.keeps_best)
        except Exception as error:
            return clean(error, 300) or type(error).__name__
        return ""


class LossPages:
    """beside: draw in a process beside this one, which starts with the first training.

    open        pages that are not drawn yet, by number
    failures    what could not be drawn, until it is shown
    lost        drawing processes that died
    """

    def __init__(self, beside: bool = False) -> None:
        self.beside = beside
        self.child: subprocess.Popen | None = None
        self.reader: threading.Thread | None = None
        self.open: dict[int, Page] = {}
        self.failures: list[str] = []
        self.number = self.lost = 0
        self.changed = threading.Condition()

    def prepare(self) -> None:
        """Start the process that draws while a run trains: it imports for a second."""
        self._living_child()

    def submit(self, page: Page, at_once: bool = False) -> str | None:
        """Draw a page, or have it drawn beside what follows. Returns where to look, None where it could not be drawn.

        at_once: it must be there on return.
        """
        self._show_failures()
        if not at_once and (child := self._living_child()) and self._send(child, page):
            return f"See {page.path} in a moment."
        is_drawn = self._draw_here(page)
        self._show_failures()
        return f"See {page.path}" if is_drawn else None

    def finish(self, limit: float = LIMIT, stopped: bool = False) -> None:
        """Wait until all pages are there, for so many seconds. A signal ends the wait: the rest is drawn behind us.

        stopped: a signal has come before.
        """
        child = self.child
        if child is None:
            self._show_failures()
            return
        try:
            with contextlib.suppress(OSError):
                child.stdin.write(END)  # type: ignore[union-attr]
                child.stdin.close()  # type: ignore[union-attr]
            child.wait(min(limit, LIMIT_STOPPED) if stopped else limit)
            self._take_back(is_lost=False)
        except subprocess.TimeoutExpired:
            if not stopped:
                child.kill()
                self.failures.append(self._not_drawn(limit))
        except (KeyboardInterrupt, ToBeContinued):
            pass
        self.child = None
        self._show_failures()

    def _not_drawn(self, limit: float) -> str:
        missing = ", ".join(str(page.path) for page in self.open.values())
        return f"Not drawn within {limit:.0f} s: {missing}. The same command draws what is missing."

    def _living_child(self) -> subprocess.Popen | None:
        """The process that draws beside this one; it is started where there is none, or none any more."""
        if self.child and self.child.poll() is not None:
            self._take_back()
        if self.child is None and self.beside and self.lost < MOST_LOST:
            try:
                self.child = _start()
                reader = threading.Thread(target=self._read, args=(self.child.stdout,), daemon=True)
                reader.start()
            except (OSError, RuntimeError):  # no memory, too many processes or threads
                if self.child:
                    self.child.kill()
                self.child, self.lost = None, self.lost + 1
                return None
            self.reader = reader
        return self.child

    def _send(self, child: subprocess.Popen, page: Page) -> bool:
        """False where the process has died in the meantime."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.open) < MOST_OPEN or child.poll() is not None, LIMIT)
            if len(self.open) >= MOST_OPEN:
                return False
            self.number += 1
            self.open[self.number] = page
        # Hydra may have changed this process's folder, never that one's.
        values = {"number": self.number, **dataclasses.asdict(page), "folder": os.path.abspath(page.folder)}
        try:
            child.stdin.write(json.dumps(values).encode() + b"\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            self.open.pop(self.number)
            self._take_back()
            return False
        return True

    def _read(self, answers: IO[bytes]) -> None:
        """What the process says of each page, in a thread."""
        for line in answers:
            with contextlib.suppress(ValueError, TypeError, KeyError), self.changed:
                answer = parse_json(line.decode(errors="replace"))
                page = self.open.pop(answer["number"])
                if answer["failed"]:
                    self.failures.append(_failure(page, str(answer["failed"])))
                self.changed.notify_all()
        with self.changed:  # it has ended
            self.changed.notify_all()

    def _take_back(self, is_lost: bool = True) -> None:
        """Draw here what a process that has ended left open."""
        if self.reader:
            self.reader.join(LIMIT)
        self.lost += is_lost
        self.child = self.reader = None
        for number, page in sorted(self.open.items()):
            self._draw_here(page)
            self.open.pop(number)

    def _draw_here(self, page: Page) -> bool:
        if failed := page.draw():
            self.failures.append(_failure(page, failed))
        return not failed

    def _show_failures(self) -> None:
        """Print what could not be drawn; it never costs a run."""
        shown, self.failures = self.failures, []
        for failure in shown:
            print(failure, flush=True)


def _failure(page: Page, why: str) -> str:
    return f"The loss curves of {page.folder} could not be drawn ({why}); metrics.csv holds them."


def _start() -> subprocess.Popen:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen(
        # -P: a file such as random.py, where the command was typed, is no module of this process's.
        [sys.executable, "-P", "-m", "llama_exp.report.drawing"],
        env={**os.environ, **threads, "PYTHONPATH": python_path()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a reader of the command's output waits for nobody else
        start_new_session=True,  # Ctrl-C is for the command alone, which has its pages drawn to the end
    )


def parse_page(line: bytes) -> tuple[int, Page]:
    """Raises ValueError, TypeError or KeyError for a line that asks for no page."""
    values = dict(parse_json(line.decode()))
    number = values.pop("number")
    page = Page(**values)
    wrong = [text for text in (page.folder, page.ended, page.keeps_best or "") if not isinstance(text, str)]
    if wrong or not isinstance(number, int):
        raise TypeError(f"wanted a number and texts, got {clean(line, 100)}")
    return number, page


def draw_pages(lines: Iterable[bytes], answers: IO[bytes]) -> None:
    """Draw what each line asks for, until END or the last one; one that asks for no page is left out."""
    for line in lines:
        if line == END:
            return
        try:
            number, page = parse_page(line)
        except (ValueError, TypeError, KeyError):
            continue
        answer: dict[str, Any] = {"number": number, "failed": page.draw()}
        with contextlib.suppress(OSError):  # the command was killed: what it asked for is drawn all the same
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()


def main() -> None:
    for name in IGNORED:
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    os.nice(LOWER)
    silence_libraries()
    importlib.import_module("llama_exp.report.loss_page")  # while the first run trains
    draw_pages(sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb"))


if __name__ == "__main__":
    main()
