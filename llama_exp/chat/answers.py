"""Who is answered when: the model answers one message at a time, the others wait in their order, so many and no more.

Everything here runs in the event loop but the model itself, which has a thread for each answer. Waiting costs no
thread: threads that wait for a model which needs one of them to go on would stop the whole page.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

MAX_WAITING = 32  # messages in the queue, the one being answered included
MAX_WAIT = 600  # seconds after which a refused client is told to come back, at most
Line = dict[str, Any]


class BusyError(Exception):
    """The queue is full; try again in `seconds`."""

    def __init__(self, seconds: int):
        super().__init__(f"Too many people are asking at the moment. Try again in {seconds} s.")
        self.seconds = seconds


class AnswerQueue:
    """The answers that are asked for, in their order; the first is being given."""

    def __init__(self, limit: int = MAX_WAITING):
        self.limit, self.answers, self.stopped = limit, list[Answer](), False
        self.seconds = 0.2  # that an answer takes, a running mean

    def join(self, generate: Callable[[], Iterator[Line]]) -> "Answer":
        """A place at the end of the queue, to be left by `Answer.leave`. Raises BusyError where it is full."""
        if self.stopped or len(self.answers) >= self.limit:
            raise BusyError(self._wait())
        answer = Answer(self, generate)
        self.answers.append(answer)
        return answer

    def _wait(self) -> int:
        """Seconds until those who wait now are answered: who comes back earlier is refused again."""
        return min(max(math.ceil(self.seconds * len(self.answers)), 1), MAX_WAIT)

    def remove(self, answer: "Answer") -> None:
        if answer in self.answers:
            self.answers.remove(answer)
            for other in self.answers:
                other.changed.set()

    def stop(self) -> None:
        """Take no more messages and end all answers."""
        self.stopped = True
        for answer in [*self.answers]:
            answer.leave()

    def join_model(self, seconds: float) -> bool:
        """Whether the model is silent within `seconds`; it stops at its next token."""
        for thread in [answer.thread for answer in self.answers if answer.thread]:
            thread.join(seconds)
        return not any(answer.thread and answer.thread.is_alive() for answer in self.answers)


class Answer:
    """A place in the queue, and the lines of the answer once its turn has come."""

    def __init__(self, queue: AnswerQueue, generate: Callable[[], Iterator[Line]]):
        self.queue, self.generate = queue, generate
        self.changed = asyncio.Event()  # a place further, a line more, or the end
        self.ready: list[Line] = []
        self.left = self.finished = False
        self.thread: threading.Thread | None = None

    async def lines(self) -> AsyncIterator[Line]:
        """{"ahead": how many are answered before} while waiting, then what the model says."""
        while ahead := 0 if self.left else self.queue.answers.index(self):
            yield {"ahead": ahead}
            await self._change()
        if not self.left:
            self._start()
        while not self.left:
            lines, self.ready = self.ready, []
            for line in lines:
                yield line
            if self.finished and not self.ready:
                return
            await self._change()

    def leave(self) -> None:
        """Give the place up. The next one moves up at once, or as soon as the model has stopped at its next token."""
        self.left = True
        self.changed.set()
        if self.thread is None:
            self.queue.remove(self)

    async def _change(self) -> None:
        await self.changed.wait()
        self.changed.clear()

    def _start(self) -> None:
        loop, started = asyncio.get_running_loop(), time.monotonic()

        def work() -> None:
            lines = self.generate()
            for line in lines:
                if self.left:
                    break
                tell(self._add, line)
            lines.close()  # type: ignore[attr-defined]  # a generator: the model stops
            tell(self._finish, time.monotonic() - started)

        def tell(function: Callable, *arguments: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(function, *arguments)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def _add(self, line: Line) -> None:
        self.ready.append(line)
        self.changed.set()

    def _finish(self, seconds: float) -> None:
        self.finished = True
        self.changed.set()
        self.queue.seconds = 0.7 * self.queue.seconds + 0.3 * seconds
        self.queue.remove(self)
