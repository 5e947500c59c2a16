"""hydra/launcher=slurm: a job array of workers, through submitit; slurm_local: the same code in processes of this
machine."""

import os
import re
import signal
import subprocess
import time
from typing import Any

from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.launch.launcher import ENDED, STOPPED, CellLauncher, RunningWorker
from llama_exp.launch.worker import Job, Worker
from llama_exp.programs import install
from llama_exp.stopping import ToBeContinued

ASK_EVERY = 5.0  # seconds between two questions to Slurm's controller, which answers the whole cluster
LATE = 30.0  # seconds that a result may take to appear on a network file system
OF_SIGNALS = 128  # a job's script is a shell, which says 137 of a process that signal 9 has ended


class SlurmTask:
    """What a job runs. Preempted, or at the end of its time, it is requeued and starts again: what it had begun
    continues from its checkpoint."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> str:
        """How the worker ended."""
        try:
            worker = Worker(self.job, worker_name())
            worker.run()
            return ENDED
        except ToBeContinued as stopped:
            print(stopped.message, flush=True)
            if worker.line.stop.received == signal.SIGUSR2 or is_preempted():
                # submitit's own handler, which answers to signals again now that everything is saved: it requeues
                signal.getsignal(signal.SIGUSR2)(signal.SIGUSR2, None)
            return STOPPED
        except KeyboardInterrupt:
            return STOPPED

    def checkpoint(self) -> Any:
        """submitit asks for what is to run when the job is requeued."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def worker_name() -> str:
    from submitit import JobEnvironment

    return f"job{JobEnvironment().job_id}"


def is_preempted() -> bool:
    """Whether Slurm still wants the job that it sent SIGTERM to. scancel sends the same signal, but makes it COMPLETING
    first."""
    if "SLURM_JOB_ID" not in os.environ:
        return False
    return job_fields(os.environ["SLURM_JOB_ID"]).get("JobState") in ("RUNNING", "PREEMPTED")


def job_fields(job: str) -> dict[str, str]:
    """What `scontrol show job` says of a job; {} where Slurm has forgotten it."""
    answer = run_slurm("scontrol", "-o", "show", "job", job)
    return dict(re.findall(r"(\w+)=(\S*)", answer.split("\n")[0])) if answer else {}


def run_slurm(*words: str) -> str | None:
    """What a command of Slurm's prints; None where its controller does not answer, or knows nothing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


class SubmittedJob:
    """A worker in a job of submitit's. `queue` says which jobs Slurm still knows."""

    def __init__(self, job: Any, queue: "Queue | None") -> None:
        self.job, self.queue, self.name = job, queue, f"job{job.job_id}"
        self.gone_since: float | None = None

    def end(self) -> str | None:
        if self.job.paths.result_pickle.exists():
            kind, result = self.job._get_outcome_and_result()
            return result if kind == "success" else str(result).strip().splitlines()[-1]
        if self.queue.has(self.job.job_id) if self.queue else not self.job.done():
            self.gone_since = None
            return None
        self.gone_since = self.gone_since or time.monotonic()
        return None if time.monotonic() - self.gone_since < (LATE if self.queue else 1.0) else self._reason()

    def _reason(self) -> str:
        fields = job_fields(self.job.job_id) if self.queue else {}
        if fields.get("JobState") == "CANCELLED":
            return STOPPED
        code, _, number = fields.get("ExitCode", "").partition(":")
        if code.isdigit() and int(code) > OF_SIGNALS:
            number = str(int(code) - OF_SIGNALS)
        how = f"signal {number}" if number not in ("", "0") else f"exit code {code}" if code else "its log ends"
        return f"{how}, {fields['JobState']}" if fields.get("JobState") else how


class Queue:
    """Which of some jobs wait or run, asked every few seconds for all of them."""

    def __init__(self) -> None:
        self.asked = float("-inf")
        self.known: set[str] | None = None  # the controller is away for the moment

    def has(self, job: str) -> bool:
        if time.monotonic() - self.asked > ASK_EVERY:
            self.asked = time.monotonic()
            answer = run_slurm("squeue", "-h", "-r", "-o", "%i", "--me")
            self.known = None if answer is None else set(answer.split())
        return self.known is None or job in self.known


class SlurmLauncher(CellLauncher):
    """workers: jobs that share the cells; the other keys are sbatch's, with `time` in minutes."""

    cluster = "slurm"

    def __init__(self, workers: int = 8, **sbatch: Any) -> None:
        super().__init__(workers)
        self.sbatch = {key: value for key, value in sbatch.items() if value is not None}

    def check(self) -> None:
        super().check()
        try:
            import submitit
        except ImportError:
            raise UserError(f"hydra/launcher={self.cluster} needs submitit. Install it: {install('slurm')}") from None
        if self.cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
            raise UserError(
                "hydra/launcher=slurm: no srun on the PATH of this machine. Type the command on a login node; "
                "hydra/launcher=slurm_local tries it out here."
            )
        self.queue = Queue() if self.cluster == "slurm" else None

    def start(self, job: Job, count: int) -> list[RunningWorker]:
        executor = self.executor(job)
        tasks = [SlurmTask(job) for _ in range(min(count, self.workers or 1))]
        try:
            with executor.batch():
                jobs = [executor.submit(task) for task in tasks]
        except Exception as error:  # submitit raises sbatch's answer in several ways
            raise UserError(f"sbatch refused the job: {error}") from error
        if self.queue:
            self.queue.asked = float("-inf")
            print(f"Slurm job {jobs[0].job_id.split('_')[0]}: {plural(len(jobs), 'worker')}", flush=True)
        return [SubmittedJob(each, self.queue) for each in jobs]

    def executor(self, job: Job) -> Any:
        import submitit

        # A requeue after a time-out is no failure, but a hundred of them would be: too little time to get anywhere.
        executor = submitit.SlurmExecutor(job.folder / "slurm", max_num_timeout=100)
        known = executor._valid_parameters()
        more = {key.replace("_", "-"): value for key, value in self.sbatch.items() if key not in known}
        own = {key: value for key, value in self.sbatch.items() if key in known}
        executor.update_parameters(**{"job_name": f"llama-exp-{job.sweep}", **own, "additional_parameters": more})
        return executor

    def dismiss(self, workers: list[RunningWorker]) -> None:
        """Jobs that still wait in the queue would find nothing to do."""
        if self.queue and workers:
            run_slurm("scancel", *(worker.name.removeprefix("job") for worker in workers))
        for worker in workers if not self.queue else []:
            worker.job.wait()  # type: ignore[attr-defined]

    def stop(self, workers: list[RunningWorker]) -> str:
        jobs = sorted({worker.name.removeprefix("job").split("_")[0] for worker in workers})
        return f"The jobs run on. The same command takes up their cells again; to end them: scancel {' '.join(jobs)}"


class LocalSlurmLauncher(SlurmLauncher):
    """The same jobs as processes of this machine, to try out what a cluster will run."""

    cluster = "slurm_local"

    def __init__(self, workers: int = 2, **parameters: Any) -> None:
        super().__init__(workers, **parameters)

    def executor(self, job: Job) -> Any:
        import submitit

        executor = submitit.LocalExecutor(job.folder / "slurm", max_num_timeout=100)
        executor.update_parameters(**self.sbatch)
        return executor

    def stop(self, workers: list[RunningWorker]) -> str:
        """SIGTERM, as scancel sends it: each writes a checkpoint."""
        print("Stopping the workers: each writes a checkpoint …", flush=True)
        processes = [worker.job._process for worker in workers if isinstance(worker, SubmittedJob)]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
        return "All workers have stopped."
