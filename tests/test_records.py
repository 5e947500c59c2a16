"""Files appear whole or not at all, and predictions come back as they were written."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from benchmarks.soak.commands import differences, results
from llama_exp.errors import UserError
from llama_exp.records import Prediction, Turn
from llama_exp.runs.files import HOST, atomic_write, json_line, read_predictions, remove_leftovers, write_json

BEFORE = (Turn("user", "Hi <b>"), Turn("assistant", "ÿ?"))
ONE = Prediction("a", "p\n</s>", ("x", "ÿ"), 'r"', "g", 1.5, 3, False, True, {"k": "v"}, "x", "Be brief.", BEFORE)


def test_predictions_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json_line(ONE) + json_line(ONE), encoding="utf-8")
    assert read_predictions(path) == [ONE, ONE]
    assert json_line(ONE) == json.dumps(asdict(ONE), ensure_ascii=False) + "\n"


def test_predictions_of_an_earlier_version_are_read_without_what_came_before_the_prompt(tmp_path):
    values = json.loads(json_line(ONE))
    for lacking in ("response", "system", "history"):
        del values[lacking]
    (tmp_path / "predictions.jsonl").write_text(json.dumps(values) + "\n", encoding="utf-8")
    [read] = read_predictions(tmp_path / "predictions.jsonl")
    assert (read.response, read.system, read.history) == ("", "", ()) and not read.has_context and ONE.has_context
    assert replace(read, response="x", system="Be brief.", history=BEFORE) == ONE


def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json_line(ONE) + json_line(ONE)[:25], encoding="utf-8")
    assert read_predictions(path) == [ONE]


def test_any_other_broken_line_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("{broken\n" + json_line(ONE), encoding="utf-8")
    with pytest.raises(UserError, match="predictions.jsonl:1"):
        read_predictions(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="NaN|not JSON"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"old": 1})
    code = (
        "import os, sys; from llama_exp.runs.files import atomic_write\n"
        f"with atomic_write({str(path)!r}) as file:\n    file.write('half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert json.loads(path.read_text()) == {"old": 1}


def test_written_files_can_be_read_by_the_team(tmp_path):
    with atomic_write(tmp_path / "x") as file:
        file.write("x")
    assert (tmp_path / "x").stat().st_mode & 0o044


WRITES = (
    "import os, sys, time; from llama_exp.runs.files import atomic_write\nwith atomic_write(sys.argv[1]) as file:\n"
)


def half_written(path, then):
    """A process that has begun to write a file."""
    code = f"{WRITES}    file.write('half'); file.flush(); print(flush=True); {then}"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    killed = half_written(tmp_path / "eval" / "predictions.jsonl", "os.kill(os.getpid(), 9)")
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    live = half_written(tmp_path / "losses.png", "time.sleep(999)")
    [dead], [kept] = (tmp_path / "eval").iterdir(), tmp_path.glob(".losses.png.*")
    of_another_machine = kept.with_name(dead.name.replace(HOST, f"{HOST}x"))
    of_somebody = kept.with_name(".losses.png.abcdefgh")
    for path in (of_another_machine, of_somebody):
        path.write_text("half")
    remove_leftovers(tmp_path)  # the killed one has no parent yet that has asked how it ended
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {kept, of_another_machine, of_somebody}
    killed.wait()
    live.kill()
    live.wait()
    remove_leftovers(tmp_path)
    assert not kept.exists() and of_another_machine.exists()


@pytest.mark.parametrize("name", ["score-squad f1.png", "x", "é.jsonl", "n" * 150])
def test_whatever_a_file_is_called_its_leftover_is_known(name, tmp_path):
    half_written(tmp_path / name, "os.kill(os.getpid(), 9)").wait()
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_soak_test_sees_other_losses_a_lost_file_and_a_leftover(tmp_path):
    run = tmp_path / "o" / "squad" / "run"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("step,seconds,loss,validation_loss\n1,0.5,2.25,\n")
    (run / "losses.html").write_text("drawn")
    whole = results(tmp_path)
    (run / "metrics.csv").write_text("step,seconds,loss,validation_loss\n1,9.5,2.25,\n")
    assert differences(tmp_path, whole) == [], "time is no result"
    (run / "metrics.csv").write_text("step,seconds,loss,validation_loss\n1,0.5,2.26,\n")
    (run / "losses.html").rename(run / f".losses.html.{HOST}-1.abcdefgh")
    assert [line.partition(": ")[0].rpartition("/")[2] for line in differences(tmp_path, whole)] == [
        f".losses.html.{HOST}-1.abcdefgh",
        "losses.html",
        "metrics.csv",
    ]
