"""One sweep on several processes: no cell twice, none lost, and the outcome that one process would have given."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from llama_exp.config.compose import load_config
from llama_exp.launch import progress, slurm
from llama_exp.launch.cells import Cell, SweepFolder, largest_first, walk
from llama_exp.launch.gpus import how_it_ended
from llama_exp.launch.grid import MAX_KEPT, Keeping, Taking
from llama_exp.launch.progress import Progress
from llama_exp.runs import lock
from llama_exp.runs.lock import FolderBusy, lock_folder
from llama_exp.runs.run import Outcome, Run
from tests.conftest import ROOT, python, small
from tests.killer import killed_at

GPUS = ["hydra/launcher=gpus", "hydra.launcher.workers=2"]
SLURM_LOCAL = ["hydra/launcher=slurm_local", "hydra.launcher.workers=1"]
TWELVE = {"trainer.max_epochs": "3", "validations": "0", "lora.dropout": "0.1"}  # steps of 4 of 16 Examples


def grid(outputs: Path, *more: str, **keys: str) -> list[str]:
    """A sweep over sample=8,16: 6 and 12 steps."""
    words = [word for word in small(**{**TWELVE, **keys}) if not word.startswith("sample=")]
    return ["train.py", "-m", *words, "sample=8,16", f"outputs={outputs}", *more]


def losses(outputs: Path, sample: int) -> list[tuple[str, str]]:
    [path] = outputs.glob(f"squad/*-{sample}-*/metrics.csv")
    with path.open() as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def wait_for(there, process, seconds: float = 240):
    deadline = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < deadline and (process is None or process.poll() is None), "it did not come"
        time.sleep(0.05)
    return found


def holders(outputs: Path) -> list[int]:
    """The processes that hold cells."""
    found = []
    for path in outputs.glob(".launch/*/*.lease"):
        try:
            found += map(int, re.findall(r"^pid=(\d+)", path.read_text(), re.MULTILINE))
        except FileNotFoundError:
            continue
    return found


def trains(outputs: Path, sample: int):
    return lambda: list(outputs.glob(f"squad/*-{sample}-*/metrics.csv"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Outputs of the grid from one process."""
    outputs = tmp_path_factory.mktemp("one") / "o"
    done = subprocess.run(python(*grid(outputs)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs


# Claims


def cells(count: int) -> list[Cell]:
    return [Cell(number, (f"sample={number + 1}", "lora.r=8")) for number in range(count)]


def test_workers_share_the_cells_none_twice_and_none_lost(tmp_path):
    ran: list[str] = []

    def work(name: str) -> None:
        walk(cells(100), SweepFolder(tmp_path), lambda cell: ran.append(cell.key) or Outcome("done", Path()), name)

    workers = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert Counter(ran) == Counter(cell.key for cell in cells(100))
    assert not list(tmp_path.glob("*.lease"))


def test_workers_wait_for_cells_that_are_still_to_be_chosen(tmp_path):
    ran: list[str] = []
    sweep = SweepFolder(tmp_path)
    sweep.offer(cells(2), more=True, beat=1)

    def work() -> None:
        walk(cells(2), SweepFolder(tmp_path), lambda cell: ran.append(cell.key) or Outcome("done", Path()), "w")

    worker = threading.Thread(target=work)
    worker.start()
    while len(ran) < 2:
        time.sleep(0.01)
    sweep.offer(cells(5), more=True, beat=2)
    while len(ran) < 5:
        time.sleep(0.01)
    assert worker.is_alive()
    sweep.offer(cells(5), more=False, beat=3)
    worker.join(60)
    assert not worker.is_alive() and Counter(ran) == Counter(cell.key for cell in cells(5))


def test_a_worker_does_not_wait_for_a_launcher_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_exp.launch.cells.SILENT", 2.0)
    monkeypatch.setattr("llama_exp.launch.cells.LOOK_EVERY", 0.01)
    SweepFolder(tmp_path).offer(cells(1), more=True, beat=1)
    walk([], SweepFolder(tmp_path), lambda cell: Outcome("done", Path()), "w")
    assert SweepFolder(tmp_path).outcome(cells(1)[0])


def test_a_worker_whose_cell_takes_long_goes_on_with_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_exp.launch.cells.SILENT", 1.0)
    sweep, ran = SweepFolder(tmp_path), []
    sweep.offer(cells(1), more=True, beat=1)

    def run(cell: Cell) -> Outcome:
        ran.append(cell.key)
        if len(ran) == 1:
            time.sleep(2.0)
        sweep.offer(cells(2), more=len(ran) == 1, beat=1 + len(ran))
        return Outcome("done", Path())

    walk([], SweepFolder(tmp_path), run, "w")
    assert ran == [cell.key for cell in cells(2)]


def test_the_largest_cells_come_first_and_an_untuned_model_last():
    samples = [("sample=100",), ("sample=null",), ("sample=1000", "lora.r=0"), ("sample=300", "trainer.max_epochs=5")]
    order = largest_first(Cell(number, overrides) for number, overrides in enumerate(samples))
    assert [cell.number for cell in order] == [1, 3, 0, 2]


def test_the_table_of_cells_says_what_each_worker_printed_last(tmp_path, monkeypatch):
    sweep, cells = SweepFolder(tmp_path), [Cell(i, ("dataset=squad", f"lora.r={i}")) for i in (8, 16)]
    (tmp_path / "worker0.7.log").write_bytes(
        b"Cell 1: lora.r=8\n" + b"x" * 9000 + b"\n  step 9/19 \x1b[31m\xff loss 9.6\n\n"
    )
    assert sweep.says("worker1.8") == ""
    shown = io.StringIO()
    monkeypatch.setattr(progress, "make_console", lambda: Console(file=shown, force_terminal=True, width=100))
    with Progress(cells) as table:
        table.show(
            {cell: (name, sweep.says(name)) for cell, name in zip(cells, ("worker0.7", "worker1.8"), strict=True)}
        )
        table.live.refresh()
    assert re.search(r"worker0\.7.*lora\.r=8.*step 9/19", shown.getvalue()) and "dataset" not in shown.getvalue()
    assert "\x1b[31m" not in shown.getvalue()


def test_a_cell_that_another_command_trains_comes_after_the_others_and_is_left_to_it(tmp_path):
    tried = []

    def run(cell: Cell) -> Outcome:
        tried.append(cell.number)
        if cell.number == 1:
            raise FolderBusy("another command", tmp_path)
        return Outcome("done", Path())

    sweep = SweepFolder(tmp_path)
    walk(cells(2), sweep, run, "w")
    assert tried == [1, 0, 1] and sweep.outcome(cells(2)[1]) is None and sweep.is_free(cells(2)[1])


def holding(path: Path) -> subprocess.Popen:
    code = "import sys, time; from llama_exp.runs.lock import lease; from pathlib import Path\n"
    code += "held = lease(Path(sys.argv[1])); held.acquire(); print('holds', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline()
    return process


def test_a_killed_process_of_this_machine_holds_nothing(tmp_path):
    [cell] = cells(1)
    sweep = SweepFolder(tmp_path)
    process = holding(tmp_path / f"{cell.key}.lease")
    assert not sweep.is_free(cell)
    process.kill()
    process.wait()
    assert sweep.is_free(cell)


@pytest.fixture
def quick(monkeypatch):
    """A second without a sign of life is enough."""
    monkeypatch.setattr(lock, "LEASE", 1.0)
    monkeypatch.setattr(lock, "HEARTBEAT", 0.25)


def of_another_machine(path: Path) -> None:
    """The lease of a process on another machine, whose clock is a day ahead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = "0" * 32
    path.write_text(f"filelock/2\npid=1\nhost=node7\nmode=lease\ntoken={token}\nduration={lock.LEASE}\nstart=1\n")
    path.chmod(0o600)
    tomorrow = time.time() + 86_400
    os.utime(path, (tomorrow, tomorrow))


def test_a_silent_machine_is_taken_over_and_one_that_renews_its_lease_is_not(quick, tmp_path):
    of_another_machine(tmp_path / "dead" / lock.LOCK)
    with lock_folder(tmp_path / "dead"):
        pass
    of_another_machine(path := tmp_path / "alive" / lock.LOCK)
    ended = threading.Event()

    def renew() -> None:
        for beat in range(10_000):
            if ended.wait(0.05):
                return
            os.utime(path, (beat, beat))  # by a clock that is years behind

    beating = threading.Thread(target=renew)
    beating.start()
    try:
        with pytest.raises(FolderBusy, match="process 1 on node7"), lock_folder(tmp_path / "alive"):
            pass
    finally:
        ended.set()
        beating.join()


def test_a_worker_takes_a_dead_machines_cell_over_once_it_has_watched_it(quick, tmp_path):
    [cell] = cells(1)
    sweep = SweepFolder(tmp_path)
    of_another_machine(tmp_path / f"{cell.key}.lease")
    assert not sweep.is_free(cell)
    wait_for(lambda: sweep.is_free(cell), None)


def test_who_seemed_dead_and_was_taken_over_stops(quick, tmp_path, monkeypatch, capfd):
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number) if number else None)
    with lock_folder(tmp_path / "run"):
        path = tmp_path / "run" / lock.LOCK
        path.unlink()
        of_another_machine(path)
        wait_for(lambda: sent, None)
    assert sent == [signal.SIGTERM] and "has taken over" in capfd.readouterr().err
    assert "node7" in path.read_text()  # not removed with one's own


@pytest.mark.parametrize(
    ("code", "end"), [(None, None), (0, ""), (75, "stopped"), (130, "stopped"), (1, "exit code 1"), (-9, "signal 9")]
)
def test_how_a_process_ended(code, end):
    assert how_it_ended(code) == end


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("137:0", "signal 9"),
        ("0:9", "signal 9"),
        ("143:0", "signal 15"),
        ("1:0", "exit code 1"),
        ("128:0", "exit code 128"),
    ],
)
def test_why_a_job_of_slurm_died(code, why, monkeypatch):
    """Its script is a shell, whose exit code names the signal that ended the worker."""
    monkeypatch.setattr(slurm, "run_slurm", lambda *words: f"JobId=7 JobState=FAILED ExitCode={code}\n")
    job = slurm.SubmittedJob(SimpleNamespace(job_id="7"), slurm.Queue())
    assert job._reason() == f"{why}, FAILED"


# Words


def test_a_launcher_that_would_lose_outcomes_is_refused_in_one_sentence(tmp_path, command):
    foreign = tmp_path / "conf" / "hydra" / "launcher" / "theirs.yaml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("_target_: hydra_plugins.theirs.Launcher\n")
    for words in (["joblib"], ["theirs", "--config-dir", f"{tmp_path}/conf"]):
        done = command(*grid(tmp_path / "o"), f"hydra/launcher={words[0]}", *words[1:], check=None)
        assert done.returncode == 2 and f"hydra/launcher={words[0]} is none of gpus, ray, slurm" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and not done.stdout
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "hydra/launcher=gpus"], "found no GPU on this machine. hydra.launcher.workers=2"),
        (["-m", *GPUS, "hydra.launcher.workers=0"], "workers=0: wanted 1 or more"),
        (["-m", "hydra/launcher=slurm"], "no srun on the PATH"),
        (["hydra/launcher=gpus"], "starts the cells of a sweep: add -m"),
    ],
)
def test_what_cannot_work_here_is_said_before_anything_runs(words, said, tmp_path, command):
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = command("train.py", *small(), f"outputs={tmp_path}/o", *words, check=None, env=environment)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("o/squad/*"))


@pytest.mark.parametrize("launcher", ["gpus", "slurm", "slurm_local", "ray"])
def test_a_preflight_needs_no_worker(launcher, tmp_path, command):
    done = command(*grid(tmp_path / "o", "preflight=true", f"hydra/launcher={launcher}"))
    assert "sample=8" in done.stdout and not (tmp_path / "o").exists()


# Real workers


def test_two_processes_give_what_one_gives_and_a_failed_cell_fails(undisturbed, tmp_path, command):
    words = [*grid(tmp_path / "o", *GPUS), "lora.r=2,-1", "evaluate=true"]
    done = command(*words, check=None)
    assert done.returncode == 1 and "4 cells, 2 failed" in done.stdout, done.stdout + done.stderr
    assert re.search(r"lora.r=-1 sample=8 and 1 more cell +FAILED: lora.r=-1", done.stdout), done.stdout
    assert "Report: " in done.stdout
    for sample in (8, 16):
        assert losses(tmp_path / "o", sample) == losses(undisturbed, sample)
    again = command(*words, check=None)
    assert again.returncode == 1 and again.stdout.count("already finished") >= 2


def test_a_killed_workers_cell_is_tried_once_more_and_ends_as_if_nothing_had_been(undisturbed, tmp_path):
    outputs = tmp_path / "o"
    words = [*grid(outputs, *GPUS[:1], "hydra.launcher.workers=1", "checkpoint_every=1"), *killed_at(99, pause=0.5)]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for(trains(outputs, 16), process)
    [worker] = holders(outputs)
    os.kill(worker, signal.SIGKILL)
    said, _ = process.communicate(timeout=280)
    assert (
        process.returncode == 0 and re.search(r"worker0\.\d+ died \(signal 9\)", said) and "2 cells, 0 failed" in said
    ), said
    assert [losses(outputs, sample) for sample in (8, 16)] == [losses(undisturbed, sample) for sample in (8, 16)]


def test_a_cell_that_kills_two_workers_has_failed_and_the_others_are_done(tmp_path, command):
    done = command(*grid(tmp_path / "o", *GPUS[:1], "hydra.launcher.workers=1"), *killed_at(7), check=None)
    assert done.returncode == 1 and "2 cells, 1 failed" in done.stdout, done.stdout + done.stderr
    assert re.search(r"sample=16 +FAILED: worker died \(signal 9\)", done.stdout)
    assert re.search(r"sample=8 +finished", done.stdout)


@pytest.mark.parametrize(
    ("by", "code", "said"), [("SIGINT", 130, "All workers have stopped"), ("SIGKILL", -signal.SIGKILL, "")]
)
def test_workers_stop_with_a_checkpoint_when_the_command_does(by, code, said, undisturbed, tmp_path, command):
    outputs = tmp_path / "o"
    words = grid(outputs, *GPUS[:1], "hydra.launcher.workers=1")
    process = subprocess.Popen(
        [sys.executable, *words, *killed_at(99, pause=0.5)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    wait_for(trains(outputs, 16), process)
    process.send_signal(signal.Signals[by])
    assert said in process.communicate(timeout=120)[0]
    assert process.returncode == code
    wait_for(lambda: not holders(outputs), None)
    [checkpoint] = outputs.glob("squad/*-16-*/checkpoints/last.ckpt")
    assert checkpoint.is_file()
    if by == "SIGKILL":
        command(*words)
        assert losses(outputs, 16) == losses(undisturbed, 16)


def test_a_local_job_is_requeued_and_the_same_command_waits_for_it(undisturbed, tmp_path, command):
    """submitit's time-out signal; then the command itself is killed, while its job runs on."""
    outputs = tmp_path / "o"
    words = [*grid(outputs, *SLURM_LOCAL), *killed_at(99, pause=1)]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    wait_for(trains(outputs, 16), process)
    [job] = holders(outputs)
    os.kill(job, signal.SIGUSR2)
    [again] = wait_for(lambda: [pid for pid in holders(outputs) if pid != job], process)
    process.kill()
    process.wait()
    attached = command(*words)
    assert "2 cells, 0 failed" in attached.stdout, attached.stdout
    assert "Continuing from" in "".join(path.read_text() for path in outputs.glob(".launch/*/slurm/*_log.out"))
    assert [losses(outputs, sample) for sample in (8, 16)] == [losses(undisturbed, sample) for sample in (8, 16)]
    with pytest.raises(ProcessLookupError):  # its work is done
        wait_for(lambda: os.kill(again, 0), None)


def test_actors_of_ray_give_what_one_process_gives(undisturbed, tmp_path):
    words = grid(tmp_path / "o", "hydra/launcher=ray", "hydra.launcher.workers=2", "hydra.launcher.gpus=0")
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "2 cells, 0 failed" in done.stdout, done.stdout + done.stderr
    assert [losses(tmp_path / "o", sample) for sample in (8, 16)] == [losses(undisturbed, s) for s in (8, 16)]


def test_a_run_that_another_command_trains_is_busy_elsewhere(tmp_path, command):
    words = grid(tmp_path / "o", *GPUS[:1], "hydra.launcher.workers=1")
    cell = [word for word in words[2:] if not word.startswith(("sample=", "hydra"))]
    with lock_folder(Run.of(load_config(*cell, "sample=16")).folder):
        done = command(*words, check=None)
    assert done.returncode == os.EX_TEMPFAIL and "2 cells, 0 failed, 1 busy elsewhere" in done.stdout, done.stdout


def test_a_plain_sweep_composes_each_cell_once():
    composed: list[tuple[str, ...]] = []

    class Loader:
        prefix = "what else it has"

        def load_sweep_config(self, master_config, sweep_overrides):
            composed.append(tuple(sweep_overrides))
            return OmegaConf.create({"of": list(sweep_overrides)})

    keeping = Keeping(Loader())
    cells = [[f"seed={seed}"] for seed in (0, 0, *range(MAX_KEPT))]  # two are equal
    checked = [keeping.load_sweep_config(None, cell) for cell in cells]
    taking = Taking(Loader(), keeping.kept)
    taken = [taking.load_sweep_config(None, cell) for cell in cells]
    assert [config.of for config in taken] == cells and keeping.prefix == taking.prefix == Loader.prefix
    assert all(one is two for one, two in zip(checked[:MAX_KEPT], taken[:MAX_KEPT], strict=True))
    assert len(composed) == len(cells) + 2 and not keeping.kept, "beyond those that are kept, twice"
    assert len({id(config) for config in taken}) == len(cells), "a cell changes its config"


def test_equal_cells_of_a_sweep_are_one_run(command, tmp_path):
    words = [word for word in small() if not word.startswith("seed=")]
    done = command("train.py", "-m", *words, "seed=1,1,2", f"outputs={tmp_path}/o")
    assert "3 cells, 0 failed" in done.stdout and "already finished" in done.stdout
    assert len(list(tmp_path.glob("o/squad/*/summary.json"))) == 2


def test_a_cell_that_cannot_be_composed_is_refused_before_the_first_one_starts(command, tmp_path):
    words = [word for word in small() if not word.startswith("lora.r=")]
    done = command("train.py", "-m", *words, "lora.r=2,two", f"outputs={tmp_path}/o", check=None)
    assert done.returncode == 2 and "Cell 1" not in done.stdout and not (tmp_path / "o" / "squad").exists()
