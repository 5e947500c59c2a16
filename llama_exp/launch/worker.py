"""A worker: claims and runs cells of a sweep with one session, so that it loads its base once.

python -m llama_exp.launch.worker worker0   the job comes through standard input, pickled, which stays open as long
                                            as the launcher lives
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from llama_exp.cli.main import CommandLine, prepare_process
from llama_exp.cli.sweep import Postponed
from llama_exp.config.compose import register
from llama_exp.launch.cells import Cell, SweepFolder, walk
from llama_exp.runs.lock import FolderBusy
from llama_exp.runs.run import Outcome
from llama_exp.stopping import ToBeContinued
from llama_exp.tracking.description import SWEEP


@dataclass(frozen=True)
class Job:
    """What a worker is told: the command as it was typed, where, and the cells of its sweep."""

    command: str  # train, evaluate …
    arguments: list[str]
    argv: list[str]
    directory: str
    sweep: str  # its id, for the loggers
    folder: Path
    cells: list[Cell]
    loader: ConfigLoader
    config: DictConfig


class Worker:
    def __init__(self, job: Job, name: str) -> None:
        self.job, self.name = job, name
        os.chdir(job.directory)
        os.environ[SWEEP] = job.sweep
        sys.argv[:] = job.argv  # --config-dir is read from there
        prepare_process()
        register()
        setup_globals()
        self.line = CommandLine(job.command, job.arguments)
        self.given = self.line.parse()[0]

    def run(self) -> None:
        """Raises ToBeContinued or KeyboardInterrupt where a signal ends it, with nothing held any more."""
        try:
            walk(self.job.cells, SweepFolder(self.job.folder), self.run_cell, self.name)
        finally:
            self.line.close()

    def run_cell(self, cell: Cell) -> Outcome:
        print(f"\nCell {cell.number + 1}: {' '.join(cell.overrides)}", flush=True)
        config = self.job.loader.load_sweep_config(self.job.config, list(cell.overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = cell.number
        done = run_job(
            task_function=lambda cfg: self.line.run_cell(cfg, self.given),
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=HydraContext(self.job.loader, Callbacks()),  # the launcher's process calls the callbacks
        )
        outcome = done.return_value
        if isinstance(outcome, Postponed):
            raise FolderBusy(outcome.message, outcome.folder)
        outcome = outcome if isinstance(outcome, Outcome) else Outcome(str(outcome), Path())
        if outcome.has_failed:
            check_gpu()
        return outcome


def start_process(job: bytes, name: str, log: str | Path, **how: Any) -> subprocess.Popen:
    """A worker in a process of its own, on this machine. Its end of the pipe closes when this process ends."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_exp.launch.worker", name],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            **how,
        )
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):  # it has died: its exit code says how
        process.stdin.write(job)
        process.stdin.flush()
    return process


def check_gpu() -> None:
    """End this process where its GPU has failed for good: it would let every other cell fail in a moment, too."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"The GPU does not work any more: {error}", flush=True)
            os._exit(1)


def stop_with_launcher(stream: Any) -> None:
    """End this process as SIGTERM does, with a checkpoint, when the launcher's end of `stream` closes: it is gone."""
    stream.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main(name: str) -> int:
    stream = sys.stdin.buffer
    worker = Worker(pickle.load(stream), name)
    threading.Thread(target=stop_with_launcher, args=(stream,), daemon=True).start()
    try:
        worker.run()
    except ToBeContinued as stopped:
        print(stopped.message, flush=True)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    for each in (sys.stdout, sys.stderr):
        each.flush()
    os._exit(code)  # threads of libraries that still run would abort the process
