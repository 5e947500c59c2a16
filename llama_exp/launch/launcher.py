"""Hydra's side of a sweep on several processes: start workers, watch them, hand back what the cells came to."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from llama_exp.config.compose import PACKAGE
from llama_exp.config.identity import sweep_id
from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.launch.cells import Cell, SweepFolder
from llama_exp.launch.progress import Progress
from llama_exp.launch.worker import Job
from llama_exp.runs.lock import FolderBusy
from llama_exp.runs.run import BUSY, FAILED, Outcome
from llama_exp.stopping import ToBeContinued

POLL = 0.2  # seconds
SHOW_EVERY = 1.0  # seconds between two tables: each reads two files a running cell
ATTEMPTS = 2  # of a cell whose worker dies
BEAT = 60.0  # seconds between two signs of life to workers that wait for further cells
Further = Callable[[list[JobReturn]], Sequence[Sequence[str]] | None]  # what ended -> the next cells; None: no more
ENDED, STOPPED = "", "stopped"  # how a worker may end, beside the reason of its death


class RunningWorker(Protocol):
    name: str

    def end(self) -> str | None:
        """None while it runs; ENDED, STOPPED by a signal, or why it died."""


class CellLauncher(Launcher):
    """What the engines share. An engine starts workers, and says what becomes of them when the command is stopped."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers
        self.wanted = workers or 1  # cells that run at a time; an engine may know better once it has checked

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self.line = task_function.command_line  # type: ignore[attr-defined]

    def check(self) -> None:
        """Raise UserError where the engine cannot work here."""
        if self.workers is not None and self.workers < 1:
            raise UserError(f"hydra.launcher.workers={self.workers}: wanted 1 or more.")

    def start(self, job: Job, count: int) -> list[RunningWorker]:
        raise NotImplementedError

    def stop(self, workers: list[RunningWorker]) -> str:
        """The command was stopped: what becomes of the workers, in a sentence."""
        raise NotImplementedError

    def dismiss(self, workers: list[RunningWorker]) -> None:
        """All cells are done: end workers that wait for room, or have nothing left to do."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if self.config.preflight or self.line.command.one_run:  # needs no other process, or is refused cell by cell
            basic = BasicLauncher()
            basic.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
            return basic.launch(job_overrides, initial_job_idx)
        self.check()
        cells = self._cells(job_overrides, initial_job_idx)
        outcomes = Watch(self, self.job(cells)).run()
        return [self._returned(cell, outcomes[cell.key]) for cell in cells]

    def launch_as_they_come(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int, further: Further
    ) -> None:
        """The same for a sweep that chooses its cells as it goes. Workers keep their base from one to the next."""
        self.check()
        cells, count = self._cells(job_overrides, initial_job_idx), len(job_overrides)

        def next_cells(ended: list[tuple[Cell, Outcome]]) -> list[Cell] | None:
            nonlocal count
            chosen = further([self._returned(*one) for one in ended])
            new = None if chosen is None else self._cells(chosen, initial_job_idx + count)
            count += len(new or ())
            return new

        Watch(self, self.job(cells), next_cells).run()

    def _cells(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Cell]:
        return [Cell(first + index, tuple(each)) for index, each in enumerate(job_overrides)]

    def job(self, cells: list[Cell]) -> Job:
        sweep = sweep_id(self.config.hydra.overrides.task)
        paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # the workers' Python finds this package
        return Job(
            command=self.line.name,
            arguments=self.line.arguments,
            argv=self.line.typed,
            directory=os.getcwd(),
            sweep=sweep,
            folder=Path(self.config.outputs, ".launch", f"{self.line.name}-{sweep}").absolute(),
            cells=cells,
            loader=self.hydra_context.config_loader,
            config=self.config,
        )

    def _returned(self, cell: Cell, outcome: Outcome) -> JobReturn:
        """The outcome as Hydra, its callbacks and the exit code know it from a cell that ran in this process."""
        if outcome.has_failed:
            self.line.failures.append(outcome.message.removeprefix(FAILED))
        self.line.busy += outcome.is_busy
        done = JobReturn(overrides=list(cell.overrides), status=JobStatus.COMPLETED)
        done.return_value = outcome
        self.hydra_context.callbacks.on_job_end(config=self.config, job_return=done)
        return done


class Watch:
    """One sweep, from its first worker to the last cell's outcome."""

    def __init__(
        self,
        engine: CellLauncher,
        job: Job,
        further: Callable[[list[tuple[Cell, Outcome]]], list[Cell] | None] | None = None,
    ) -> None:
        """further: the cells that are chosen when others have ended; None ends the sweep with those that still run."""
        self.engine, self.job, self.further = engine, job, further
        self.idle_deaths = 0
        self.told: set[str] = set()  # the cells whose outcomes `further` knows
        self.beat, self.beaten = 0, 0.0
        self.shown = 0.0
        self.cells = {cell.key: cell for cell in job.cells}  # a cell that was named twice runs once
        self.sweep = SweepFolder(job.folder)
        self.outcomes: dict[str, Outcome] = {}
        self.alive: list[RunningWorker] = []
        self.deaths: Counter[str] = Counter()  # by cell
        self.last_death = ""
        self.some_ended_well = False
        self.postponed: set[str] = set()  # cells that were left over, and for which a worker was started again
        self.was_stopped = False
        self.progress = Progress(list(self.cells.values()))

    def run(self) -> dict[str, Outcome]:
        free = 0
        for cell in self.cells.values():
            with contextlib.suppress(FolderBusy), self.sweep.claim(cell):
                self.sweep.forget(cell)
                free += 1
        self.offer(more=self.further is not None)
        known = "Cells as they are chosen" if self.further else plural(len(self.cells), "cell")
        print(f"{known}; what the workers print is in {self.job.folder}", flush=True)
        try:
            with self.progress:
                self.start(max(free, self.engine.wanted) if self.further else free)
                while self.left():
                    self.look()
            self.offer(more=False)
            self.engine.dismiss(self.alive)
        except BaseException as stopped:
            with contextlib.suppress(OSError):
                self.sweep.offer((), False)  # idle workers end
            self.say_what_becomes_of_workers(stopped)
            raise
        return self.outcomes

    def offer(self, more: bool) -> None:
        self.beat, self.beaten = self.beat + 1, time.monotonic()
        self.sweep.offer(self.cells.values() if self.further else (), more, self.beat)

    def choose_further(self) -> None:
        if not self.further:
            return
        ended = [(self.cells[key], outcome) for key, outcome in self.outcomes.items() if key not in self.told]
        self.told |= {cell.key for cell, _ in ended}
        new = self.further(ended) if ended else []
        if new is None:
            return self.withdraw()
        for cell in new:
            self.cells[cell.key] = cell
            with contextlib.suppress(FolderBusy), self.sweep.claim(cell):
                self.sweep.forget(cell)
        self.progress.add(new)
        if new or time.monotonic() - self.beaten > BEAT:
            self.offer(more=True)

    def withdraw(self) -> None:
        """No further cell is needed, nor those that nobody has begun."""
        self.further = None
        for cell in self.left():
            with contextlib.suppress(FolderBusy), self.sweep.claim(cell):
                if not self.sweep.outcome(cell):
                    del self.cells[cell.key]
        self.sweep.offer(self.cells.values(), False, self.beat + 1)

    def say_what_becomes_of_workers(self, stopped: BaseException) -> None:
        if self.alive and (self.told or not isinstance(stopped, UserError)):
            print(self.engine.stop(self.alive), flush=True)

    def start(self, wanted: int) -> None:
        self.alive += self.engine.start(self.job, wanted) if wanted else []

    def left(self) -> list[Cell]:
        return [cell for key, cell in self.cells.items() if key not in self.outcomes]

    def look(self) -> None:
        """Collect outcomes; see to workers that have ended, and to cells that nobody runs when none is left."""
        time.sleep(POLL)
        ended = [(worker, end) for worker in self.alive if (end := worker.end()) is not None]
        self.collect()
        for worker, end in ended:
            self.alive.remove(worker)
            self.was_stopped |= end == STOPPED
            self.some_ended_well |= end == ENDED
            if end not in (ENDED, STOPPED):
                self.bury(worker, end)
        if not self.alive and (left := self.left()):
            self.go_on([cell for cell in left if self.sweep.is_free(cell)])
        self.choose_further()

    def collect(self) -> None:
        there = self.sweep.names()  # one question to a network file system, not one for each cell
        for cell in self.left():
            if f"{cell.key}.outcome" in there and (outcome := self.sweep.outcome(cell)):
                self.outcomes[cell.key] = outcome
                self.progress.ended(cell, outcome)
        if self.progress.console.is_terminal and time.monotonic() - self.shown > SHOW_EVERY:
            self.shown = time.monotonic()
            begun = [cell for cell in self.left() if f"{cell.key}.start" in there]
            workers = {cell: worker for cell in begun if (worker := self.sweep.worker(cell))}
            self.progress.show({cell: (worker, self.sweep.says(worker)) for cell, worker in workers.items()})

    def bury(self, worker: RunningWorker, reason: str) -> None:
        """A worker died: the cell that it ran is tried once more by a fresh one, then it has failed."""
        self.last_death = f"worker died ({reason})"
        mine = [cell for cell in self.left() if self.sweep.worker(cell) == worker.name]
        print(f"{worker.name} died ({reason}){'' if mine else ' before it began a cell'}.", flush=True)
        for cell in mine:
            self.deaths[cell.key] += 1
            if self.deaths[cell.key] >= ATTEMPTS:
                self.fail(cell)
        self.idle_deaths += not mine
        if self.left() and (mine or (self.further and self.idle_deaths <= self.engine.wanted)):
            self.start(1)

    def fail(self, cell: Cell) -> None:
        self.sweep.end(cell, Outcome(f"{FAILED}{self.last_death}", Path()))
        self.collect()

    def go_on(self, free: list[Cell]) -> None:
        """No worker is left, but cells are. Those that are not free belong to workers of the same sweep that an earlier
        command started: they are waited for."""
        if self.was_stopped:
            done = f"{len(self.outcomes)} of {len(self.cells)} cells are done"
            raise ToBeContinued(f"The workers were stopped; {done}. The same command continues from here.")
        free = [cell for cell in free if not self.sweep.outcome(cell)]  # ended in the meantime
        well = self.some_ended_well or any(not outcome.has_failed for outcome in self.outcomes.values())
        hopeless = bool(self.last_death) and not well  # they die before they begin
        for cell in free:
            if hopeless:
                self.fail(cell)
            elif cell.key in self.postponed:
                self.sweep.end(cell, Outcome(BUSY, Path()))
        if again := [cell for cell in free if cell.key not in self.postponed and not hopeless]:
            self.postponed |= {cell.key for cell in again}
            self.start(self.engine.wanted if self.further else len(again))
