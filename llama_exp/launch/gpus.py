"""hydra/launcher=gpus: one worker a GPU of this machine."""

import os
import pickle
import signal
from collections import Counter

from llama_exp.errors import UserError
from llama_exp.launch.launcher import ENDED, STOPPED, CellLauncher, RunningWorker
from llama_exp.launch.worker import Job, start_process

DEADLY = 2  # workers that died on a GPU, after which it gets no other while there are better ones


class Process:
    """A worker in a process of this machine, on one GPU or (None) on the CPU."""

    def __init__(self, job: Job, name: str, gpu: str | None, threads: int) -> None:
        self.name, self.gpu = name, gpu
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})}
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.process = start_process(
            pickle.dumps(job),
            name,
            job.folder / f"{name}.log",
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process, which then stops the workers
        )

    def end(self) -> str | None:
        return how_it_ended(self.process.poll())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


def how_it_ended(code: int | None) -> str | None:
    if code is None:
        return None
    if code < 0:
        return f"signal {-code}"
    return {0: ENDED, os.EX_TEMPFAIL: STOPPED, 130: STOPPED}.get(code, f"exit code {code}")


class GpuLauncher(CellLauncher):
    """workers: how many; null = one a GPU."""

    def __init__(self, workers: int | None = None) -> None:
        super().__init__(workers)
        self.started: list[Process] = []

    def check(self) -> None:
        super().check()
        self.gpus = visible_gpus()
        if not self.gpus and not self.workers:
            raise UserError(
                "hydra/launcher=gpus found no GPU on this machine. hydra.launcher.workers=2 starts two processes on "
                "its CPU."
            )
        self.wanted = self.workers or len(self.gpus)

    def start(self, job: Job, count: int) -> list[RunningWorker]:
        running = [worker for worker in self.started if worker.end() is None]
        new: list[Process] = []
        for _ in range(min(count, self.wanted - len(running))):
            new.append(self._start_one(job, [*running, *new]))
        return [*new]

    def _start_one(self, job: Job, running: list[Process]) -> Process:
        """On the GPU that the fewest workers have, but for those where workers die."""
        used = [worker.gpu for worker in running]
        deaths = Counter(worker.gpu for worker in self.started if worker.end() not in (None, ENDED, STOPPED))
        well = [gpu for gpu in self.gpus if deaths[gpu] < DEADLY] or self.gpus
        gpu = min(well, key=used.count) if well else None
        threads = max(1, (os.cpu_count() or 1) // self.wanted)
        worker = Process(job, f"worker{len(self.started)}.{os.getpid()}", gpu, threads)
        self.started.append(worker)
        return worker

    def dismiss(self, workers: list[RunningWorker]) -> None:
        for worker in self.started:
            worker.process.wait()  # they find nothing to do

    def stop(self, workers: list[RunningWorker]) -> str:
        """They write their checkpoints; this process waits for that."""
        print("Stopping the workers: each writes a checkpoint …", flush=True)
        for worker in self.started:
            if worker.end() is None:
                worker.stop()
        for worker in self.started:
            worker.process.wait()
        return "All workers have stopped."


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu and gpu != "-1"]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
