"""Preemption, time-out, cancelling and death of jobs on a real Slurm: `make test-cluster`.

Needs sbatch on the PATH and two partitions, of which HIGH preempts LOW with PreemptMode=REQUEUE. A Slurm of one node
(munged, slurmctld, slurmd from a distribution's packages) is enough.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import test_launch
from tests.conftest import ROOT
from tests.killer import killed_at
from tests.test_launch import grid, holders, losses, trains, wait_for

LOW, HIGH = os.environ.get("LOW", "low"), os.environ.get("HIGH", "high")
PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "2"))  # of each of two jobs
WORDS = ["hydra/launcher=slurm", f"hydra.launcher.partition={LOW}", "hydra.launcher.time=50"]
SLOW = killed_at(99, pause=2)  # 12 steps of two seconds

undisturbed = test_launch.undisturbed  # a fixture
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True, scope="module")
def slurm():
    if shutil.which("sbatch") is None:
        pytest.fail("No sbatch on the PATH: bring a Slurm up, with partitions low and high, and put its bin there.")


def slurm_says(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def started(outputs, *more: str) -> subprocess.Popen:
    words = [*grid(outputs, *WORDS), *SLOW, *more]
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=1200)
    return said


def logs(outputs) -> str:
    return "".join(path.read_text() for path in outputs.glob(".launch/*/slurm/*_log.out"))


def same(outputs, other) -> bool:
    return [losses(outputs, sample) for sample in (8, 16)] == [losses(other, sample) for sample in (8, 16)]


def steps(outputs) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in outputs.glob("squad/*/metrics.csv"))


def test_preempted_jobs_are_requeued_and_go_on_exactly(undisturbed, tmp_path):
    outputs = tmp_path / "o"
    process = started(outputs, "hydra.launcher.workers=2")
    for _ in range(PREEMPTIONS):
        before = steps(outputs)
        wait_for(lambda before=before: steps(outputs) >= before + 3, process, seconds=600)
        job = slurm_says("sbatch", "--parsable", "-p", HIGH, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
        wait_for(lambda job=job: not slurm_says("squeue", "-h", "-j", job), process, seconds=600)
    said = ended(process)
    assert process.returncode == 0 and "2 cells, 0 failed" in said, said
    assert logs(outputs).count("stopped by SIGTERM") >= PREEMPTIONS and "Continuing from" in logs(outputs)
    assert same(outputs, undisturbed)


def test_a_job_whose_time_is_up_is_requeued_and_goes_on_exactly(undisturbed, tmp_path):
    outputs = tmp_path / "o"
    time_is_up = ["hydra.launcher.time=3", "hydra.launcher.signal_delay_s=60", "logger.killer.pause=8"]
    process = started(outputs, "hydra.launcher.workers=1", *time_is_up)
    said = ended(process)
    assert process.returncode == 0 and "2 cells, 0 failed" in said, said
    assert "SIGUSR2" in logs(outputs) and same(outputs, undisturbed)


def test_a_cancelled_job_is_not_requeued_and_the_same_command_continues(undisturbed, tmp_path):
    outputs = tmp_path / "o"
    process = started(outputs, "hydra.launcher.workers=1")
    wait_for(trains(outputs, 16), process, seconds=600)
    [job] = {path.name.split("_")[0] for path in outputs.glob(".launch/*/slurm/*_submitted.pkl")}
    slurm_says("scancel", job)
    said = ended(process)
    assert process.returncode == os.EX_TEMPFAIL and "The workers were stopped; 0 of 2 cells are done" in said, said
    assert not slurm_says("squeue", "-h", "-j", job, "-t", "PENDING,RUNNING")
    said = ended(again := started(outputs, "hydra.launcher.workers=1"))
    assert again.returncode == 0 and same(outputs, undisturbed), said


def test_a_killed_job_is_replaced_by_a_fresh_one(undisturbed, tmp_path):
    outputs = tmp_path / "o"
    process = started(outputs, "hydra.launcher.workers=1", "checkpoint_every=1")
    wait_for(trains(outputs, 16), process, seconds=600)
    [worker] = holders(outputs)
    os.kill(worker, signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 0 and re.search(r"job\d+ died \(signal 9", said), said
    assert same(outputs, undisturbed)


def test_jobs_run_on_when_the_command_is_interrupted_and_the_same_command_waits_for_them(undisturbed, tmp_path):
    outputs = tmp_path / "o"
    process = started(outputs, "hydra.launcher.workers=1")
    wait_for(trains(outputs, 16), process, seconds=600)
    process.send_signal(signal.SIGINT)
    said = ended(process)
    assert process.returncode == 130 and re.search(r"to end them: scancel \d+", said), said
    assert holders(outputs)
    time.sleep(1)
    said = ended(again := started(outputs, "hydra.launcher.workers=1"))
    assert again.returncode == 0 and "2 cells, 0 failed" in said, said
    assert same(outputs, undisturbed)
