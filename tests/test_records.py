"""Files appear whole or not at all, and predictions come back as they were written."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from llama_exp.errors import UserError
from llama_exp.records import Prediction, Turn
from llama_exp.runs.files import atomic_write, json_line, read_predictions, write_json

BEFORE = (Turn("user", "Hi <b>"), Turn("assistant", "ÿ?"))
ONE = Prediction("a", "p\n</s>", ("x", "ÿ"), 'r"', "g", 1.5, 3, False, True, {"k": "v"}, "x", "Be brief.", BEFORE)


def test_predictions_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text(json_line(ONE) + json_line(ONE), encoding="utf-8")
    assert read_predictions(path) == [ONE, ONE]


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
