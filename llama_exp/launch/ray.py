"""hydra/launcher=ray: workers on the machines of a Ray cluster."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from llama_exp.errors import UserError
from llama_exp.launch.gpus import how_it_ended
from llama_exp.launch.launcher import CellLauncher, RunningWorker
from llama_exp.launch.worker import Job
from llama_exp.programs import install


def run_worker(job: bytes, name: str, directory: str, python_path: str, log: str) -> int:
    """On a machine of the cluster: a worker in a process of its own, and its exit code."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_exp.launch.worker", name],
            stdin=subprocess.PIPE,  # open as long as Ray's process lives
            stdout=file,
            stderr=file,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": python_path},
        )
        assert process.stdin
        process.stdin.write(job)
        process.stdin.flush()
        return process.wait()


class RayTask:
    """A worker on the cluster."""

    def __init__(self, name: str, reference: Any) -> None:
        self.name, self.reference = name, reference

    def end(self) -> str | None:
        import ray

        done, _ = ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return how_it_ended(ray.get(self.reference))
        except Exception as error:  # its machine or its Ray process is gone
            return str(error).strip().splitlines()[0]


class RayLauncher(CellLauncher):
    """address: of the cluster, null = the one of RAY_ADDRESS or one started here; gpus: of each worker."""

    def __init__(self, workers: int | None = None, address: str | None = None, gpus: float = 1) -> None:
        super().__init__(workers)
        self.address, self.gpus = address, gpus
        self.started = 0

    def check(self) -> None:
        try:
            import ray
        except ImportError:
            raise UserError(f"hydra/launcher=ray needs Ray. Install it: {install('ray')}") from None
        ray.init(address=self.address, log_to_driver=False, logging_level="error", ignore_reinit_error=True)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if self.gpus > gpus:
            raise UserError(
                f"The Ray cluster has {gpus} GPUs and a worker wants {self.gpus}. hydra.launcher.gpus=0 "
                "hydra.launcher.workers=2 starts two on its CPUs."
            )
        if not self.gpus and not self.workers:
            raise UserError("hydra.launcher.gpus=0: how many processes? hydra.launcher.workers=2")
        self.wanted = self.workers or int(gpus / self.gpus)

    def start(self, job: Job, count: int) -> list[RunningWorker]:
        import ray

        remote = ray.remote(num_gpus=self.gpus, num_cpus=1, max_retries=0)(run_worker)
        data, workers = pickle.dumps(job), []
        for _ in range(min(count, self.wanted)):
            name = f"ray{self.started}"
            log = str(Path(job.folder, f"{name}.log"))
            self.started += 1
            workers.append(RayTask(name, remote.remote(data, name, job.directory, os.environ["PYTHONPATH"], log)))
        return [*workers]

    def stop(self, workers: list[RunningWorker]) -> str:
        import ray

        for worker in workers:
            ray.cancel(worker.reference, force=False)
        return "The workers were told to stop."
