"""Signals that ask this process to end: it does so at a point from which the same command continues, with exit code 75.

A cluster sends them before it takes a machine away: SIGTERM, SIGUSR2 (submitit's own) and what `stop_signal` names. A
training step that is under way is ended first, and its checkpoint written.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

USUAL = (signal.SIGTERM, signal.SIGUSR2)
CHOSEN = ("SIGHUP", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # what `stop_signal` may name


class ToBeContinued(SystemExit):
    """A signal has stopped the work; the same command continues it. Not caught where single cells may fail."""

    def __init__(self, message: str):
        super().__init__(os.EX_TEMPFAIL)
        self.message = message


class StopSignals:
    """What a process does about signals that ask it to end.

    received    the first one that came
    previous    who answered to them before
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.previous: dict[int, Any] = {}
        self.is_deferred = False

    def install(self, name: str | None = None) -> None:
        """Answer to the usual signals and the one of this name, also after whoever does so now."""
        if threading.current_thread() is not threading.main_thread():  # Python takes handlers from no other
            return
        for number in {*USUAL, *([signal.Signals[name]] if name else [])}:
            before = signal.getsignal(number)
            if before != self._receive:
                self.previous[number] = before
                signal.signal(number, self._receive)

    def restore(self) -> None:
        """Leave the signals to whoever answered to them before."""
        for number, before in self.previous.items():
            signal.signal(number, before)
        self.previous.clear()

    def pass_on(self) -> None:
        """Call whoever answered to the signal before, now that everything is saved: an application around this one."""
        before = self.previous.get(self.received) if self.received else None
        if callable(before):
            before(self.received, None)

    def take_over(self) -> None:
        """Answer again to the signals of `install`, in place of whoever does so now."""
        for number in self.previous:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:  # Ctrl-C once more
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        if not self.is_deferred:
            self.stop_if_asked()

    @property
    def name(self) -> str:
        return "Ctrl-C" if self.received in (None, signal.SIGINT) else self.received.name

    def stop_if_asked(self) -> None:
        """Raise ToBeContinued, or KeyboardInterrupt for Ctrl-C, where a signal has come."""
        if self.received:
            raise self.exception(f"Stopped by {self.name}. The same command continues from here.")

    def exception(self, message: str) -> BaseException:
        return KeyboardInterrupt(message) if self.name == "Ctrl-C" else ToBeContinued(message)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals that come in this block, Ctrl-C too, wait for its end or for `stop_if_asked`."""
        self.is_deferred = True
        here = threading.current_thread() is threading.main_thread()
        interrupt = signal.signal(signal.SIGINT, self._receive) if here else None
        try:
            yield
        finally:
            self.is_deferred = False
            if here:
                signal.signal(signal.SIGINT, interrupt)
        self.stop_if_asked()


@contextlib.contextmanager
def interrupted_at_end() -> Iterator[None]:
    """Ctrl-C in this block raises KeyboardInterrupt at its end.

    Raised in the middle of a library's work, it may be swallowed by the library, or leave it half done. Ctrl-C once
    more raises it at once. Nothing changes outside of the main thread, and where Ctrl-C has another handler than
    Python's.
    """
    received = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt
