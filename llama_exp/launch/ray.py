"""hydra/launcher=ray: workers on the machines of a Ray cluster."""

import os
import pickle
from pathlib import Path
from typing import Any

from llama_exp.errors import UserError
from llama_exp.launch.gpus import how_it_ended
from llama_exp.launch.launcher import CellLauncher, RunningWorker
from llama_exp.launch.worker import Job, start_process
from llama_exp.programs import install


class Host:
    """Ray's actor, on a machine of the cluster: holds a worker in a process of its own, which may die without it."""

    def __init__(self, job: bytes, name: str, directory: str, python_path: str, log: str) -> None:
        environment = {**os.environ, "PYTHONPATH": python_path}
        self.process = start_process(job, name, log, cwd=directory, env=environment)

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class RayWorker:
    """A worker as this process knows it: an actor that starts when the cluster has room."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor, self.asked = name, actor, actor.poll.remote()
        self.has_started = False

    def end(self) -> str | None:
        import ray

        if not ray.wait([self.asked], timeout=0)[0]:
            return None
        self.has_started = True
        try:
            code = ray.get(self.asked)
        except ray.exceptions.RayError as error:  # its machine is gone, or Ray's process there
            return str(error).strip().splitlines()[0]
        self.asked = self.actor.poll.remote()
        return how_it_ended(code)


class RayLauncher(CellLauncher):
    """address: of the cluster, null = the one of RAY_ADDRESS, or one of this machine alone; gpus: of each worker."""

    def __init__(self, workers: int | None = None, address: str | None = None, gpus: float = 1) -> None:
        super().__init__(workers)
        self.address, self.gpus = address, gpus
        self.started = 0

    def check(self) -> None:
        super().check()
        try:
            import ray
        except ImportError:
            raise UserError(f"hydra/launcher=ray needs Ray. Install it: {install('ray')}") from None
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="error", ignore_reinit_error=True)
        except ConnectionError as error:
            raise UserError(
                f"No Ray cluster answers: {str(error).splitlines()[0]} Start one with `ray start --head`, or name it: "
                "hydra.launcher.address=HOST:6379"
            ) from error
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

        remote = ray.remote(num_gpus=self.gpus, num_cpus=1)(Host)
        data, workers = ray.put(pickle.dumps(job)), []
        for _ in range(min(count, self.wanted)):
            name = f"ray{self.started}.{os.getpid()}"
            self.started += 1
            log = str(Path(job.folder, f"{name}.log"))
            workers.append(RayWorker(name, remote.remote(data, name, job.directory, os.environ["PYTHONPATH"], log)))
        return [*workers]

    def stop(self, workers: list[RunningWorker]) -> str:
        import ray

        print("Stopping the workers: each writes a checkpoint …", flush=True)
        stopping = [worker.actor.stop.remote() for worker in self._started(workers)]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping))
        return "All workers have stopped."

    def dismiss(self, workers: list[RunningWorker]) -> None:
        self._started(workers)

    def _started(self, workers: list[RunningWorker]) -> "list[RayWorker]":
        """Those that run; the others, for which the cluster has had no room, are called off."""
        import ray

        running = []
        for worker in workers:
            if isinstance(worker, RayWorker) and worker.end() is None:
                if worker.has_started:
                    running.append(worker)
                else:
                    ray.kill(worker.actor)
        return running
