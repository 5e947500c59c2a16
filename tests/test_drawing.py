"""Loss pages that a process of their own draws beside the next cells: they are there whatever ends the command."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llama_exp.report.drawing import LossPages, Page
from tests.conftest import ROOT, python, small
from tests.killer import killed_at

METRICS = "step,loss,validation_loss\n1,2.0,\n2,1.5,1.9\n"


@pytest.fixture
def run(tmp_path):
    """Creates folders of runs that have losses and no page."""

    def create(name: str) -> Page:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text(METRICS)
        return Page(str(tmp_path / name), f"Finished {name}.")

    return create


def is_drawn(page: Page) -> bool:
    return page.path.is_file() and page.path.with_suffix(".png").is_file() and page.ended in page.path.read_text()


def test_pages_of_a_killed_drawing_process_are_drawn_here_and_the_next_ones_by_another(run, tmp_path, capsys):
    pages = LossPages(beside=True)
    first, second, third, broken = (run(name) for name in ("first", "second", "third", "broken"))
    assert pages.submit(first) == f"See {first.path} in a moment."
    os.kill(pages.child.pid, signal.SIGKILL)
    pages.child.wait()
    assert pages.submit(second).endswith("in a moment.") and is_drawn(first)
    broken.path.mkdir()  # nothing can be renamed to it
    pages.submit(broken)
    pages.submit(third)
    pages.finish()
    assert is_drawn(second) and is_drawn(third)
    assert f"curves of {broken.folder} could not be drawn" in capsys.readouterr().out


def test_the_drawing_process_leaves_out_what_asks_for_no_page_and_draws_on_when_its_command_is_gone(run, tmp_path):
    page, code = run("run"), tmp_path / "executed"
    lines = [
        b"not JSON",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"number": 1, "folder": 7}',
        json.dumps({"number": 2, "folder": page.folder, "ended": "", "call": "os.system"}).encode(),
        f"__import__('pathlib').Path({str(code)!r}).touch()".encode(),
        json.dumps({"number": 3, "folder": page.folder, "ended": page.ended}).encode(),
    ]
    child = subprocess.Popen(
        python("-m", "llama_exp.report.drawing"), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdout.close()  # as after kill -9 of the command
    child.stdin.write(b"\n".join(lines) + b"\n")
    child.stdin.close()
    assert child.wait(60) == 0
    assert is_drawn(page) and not code.exists()


def test_the_drawing_process_imports_nothing_from_the_folder_of_the_command(run, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("open('executed', 'w')")  # the standard library has one of this name
    monkeypatch.chdir(tmp_path)
    pages, page = LossPages(beside=True), run("run")
    pages.submit(page)
    pages.finish()
    assert is_drawn(page) and not (tmp_path / "executed").exists()


def test_a_forked_process_that_holds_the_pipe_open_does_not_keep_a_command_waiting(run, capsys):
    """A worker of a DataLoader: the pipe ends only with the last process that has it."""
    pages, page = LossPages(beside=True), run("run")
    assert pages.submit(page).endswith("in a moment.")
    holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[pages.child.stdin.fileno()])
    try:
        pages.finish()
    finally:
        holder.communicate()
    assert is_drawn(page) and "Not drawn" not in capsys.readouterr().out


def test_a_signal_ends_the_wait_for_the_last_pages_and_they_are_drawn_all_the_same(run):
    pages, page = LossPages(beside=True), run("run")
    pages.submit(page)
    child, wait = pages.child, pages.child.wait

    def interrupted(limit: float) -> None:
        child.wait = wait
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    child.wait = interrupted
    pages.finish()
    assert pages.child is None
    child.wait(60)
    assert is_drawn(page)


def test_a_sweep_draws_no_page_itself_and_the_same_command_draws_one_that_is_missing(tmp_path, command):
    script = tmp_path / "train_and_tell.py"
    script.write_text(
        "import sys; from llama_exp.cli.main import CommandLine; CommandLine('train', sys.argv[1:]).run(); "
        "print('drawn here:', 'llama_exp.report.loss_page' in sys.modules)"
    )
    words = [word for word in small() if not word.startswith("sample=")]
    words = ["-m", *words, "sample=8,12", f"outputs={tmp_path}/o"]
    said = command(str(script), *words).stdout
    assert "drawn here: False" in said and said.count("losses.html in a moment.") == 2
    pages = sorted((tmp_path / "o").glob("squad/*/losses.html"))
    assert len(pages) == 2 == len(list((tmp_path / "o").glob("squad/*/losses.png")))
    text = pages[0].read_text()
    pages[0].unlink()
    assert "already finished" in command("train.py", *words).stdout
    assert pages[0].read_text() == text


def test_a_sweep_that_ctrl_c_ends_has_the_pages_of_the_cells_until_then(tmp_path, command):
    words = [word for word in small(**{"trainer.max_epochs": "3"}) if not word.startswith("sample=")]
    words = ["train.py", "-m", *words, "sample=4,16", f"outputs={tmp_path}/o", *killed_at(5, by="SIGINT")]
    stopped = command(*words, check=None)
    assert stopped.returncode == 130, stopped.stderr
    pages = {path.parent.name: path.read_text() for path in (tmp_path / "o").glob("squad/*/losses.html")}
    [finished] = (text for name, text in pages.items() if "tiny-4-" in name)
    [interrupted] = (text for name, text in pages.items() if "tiny-16-" in name)
    assert "Finished: 3 steps" in finished and "Interrupted after step 5 of 12" in interrupted


def test_nothing_that_draws_or_computes_statistics_is_imported_before_the_base_begins_to_load():
    code = (
        "import sys, llama_exp.cli.commands, llama_exp.training.train\n"
        "print(sorted({'matplotlib', 'scipy', 'numpy', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
