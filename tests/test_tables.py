"""Scores by kind of question: counts and means a person can check, intervals, files that are not whole."""

import dataclasses
import subprocess
import sys

import pytest

from llama_exp.errors import UserError
from llama_exp.records import Prediction
from llama_exp.report import breakdown
from llama_exp.runs import scores
from llama_exp.runs.files import write_jsonl

KINDS = ["symptoms", "treatment", "symptoms", "treatment", "symptoms", "causes"]
F1 = {"squad/f1": [100.0, 0.0, 50.0, 100.0, 30.0, 80.0]}


def predictions() -> list[Prediction]:
    return [
        Prediction(
            f"q{place}",
            "",
            ("a",),
            "a",
            f"article {place % 4}",
            nll=2.0 + place,
            tokens=2,
            tags={"qtype": kind, "id": f"q{place}", "split": "test"},
        )
        for place, kind in enumerate(KINDS)
    ]


def test_a_row_a_value_the_commonest_first_with_its_counts_and_mean():
    rows = breakdown.by_tag(predictions(), F1)["qtype"]
    assert [(row.value, row.items, row.groups) for row in rows] == [
        ("symptoms", 3, 2),
        ("treatment", 2, 2),
        ("causes", 1, 1),
    ]
    assert [row.scores["squad/f1"].estimate for row in rows] == pytest.approx([60, 50, 80])
    assert rows[0].scores["loss"].estimate == pytest.approx((2 + 4 + 6) / 6)
    low, high = rows[0].scores["squad/f1"].low, rows[0].scores["squad/f1"].high
    assert 0 <= low < 60 < high <= 100
    assert rows[2].scores["squad/f1"].low is None  # one item says nothing of another


def test_tags_that_tell_nothing_apart_have_no_table():
    assert set(breakdown.by_tag(predictions(), F1)) == {"qtype"}  # "split" has one value, "id" one an item


def test_scores_below_nothing_have_an_interval_too():
    rows = breakdown.by_tag(predictions(), {"bertscore/f1": [-20.0, 5.0, 30.0, 40.0, 10.0, 3.0]})["qtype"]
    assert rows[0].scores["bertscore/f1"].low < 20 / 3


def test_the_command_reads_an_evaluations_folder_and_needs_no_torch(tmp_path):
    write_jsonl(tmp_path / "predictions.jsonl", predictions())
    scores.write_scores(tmp_path, predictions(), F1)
    program = (
        "import sys; from llama_exp.report.command import BreakdownOptions, breakdown; "
        "breakdown(BreakdownOptions([sys.argv[1]])); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stdout.strip().split("\n")
    assert lines[0].split() == ["qtype", "items", "groups", "squad/f1", "loss"]
    assert lines[1].startswith("symptoms       3       2  60")
    assert len(lines) == 4


def test_a_score_without_an_interval_keeps_its_columns_digits_and_a_loss_says_of_how_many_items_it_is():
    made = predictions()
    made[0] = dataclasses.replace(made[0], nll=None, tokens=0)  # a response that does not fit
    [head, *lines] = breakdown.format_tables(
        breakdown.by_tag(made, {"squad/f1": [100.0, 0.0, 50.0, 100.0, 30.0, 22.0]})
    ).splitlines()
    symptoms, treatment, causes = (line[head.index("squad/f1") :] for line in lines)
    assert causes.split("  ")[0] == "22.0 (no interval)" and causes.endswith("3.500 (no interval)")
    assert symptoms.endswith(", 2 items") and not treatment.endswith("items")


def test_scores_are_joined_to_predictions_by_id(tmp_path):
    scores.write_scores(tmp_path, predictions(), F1)
    assert scores.read_scores(tmp_path, predictions()[::-1]) == {"squad/f1": F1["squad/f1"][::-1]}


@pytest.mark.parametrize("text", ['{"id": "q0", "squad/f1": 1}\n', "[1]\n", '{"id": "q0"', '{"id": 3}\n{"x": 1}\n'])
def test_scores_that_are_not_those_of_the_predictions_are_refused(tmp_path, text):
    (tmp_path / "scores.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="does not hold the scores"):
        scores.read_scores(tmp_path, predictions())


def test_a_folder_that_is_no_evaluation_is_said_to_be_none(tmp_path):
    with pytest.raises(UserError, match="Wanted an evaluation's folder"):
        breakdown.load_breakdown(tmp_path)
    write_jsonl(tmp_path / "predictions.jsonl", predictions())
    with pytest.raises(UserError, match="Run the same evaluate command again"):
        breakdown.load_breakdown(tmp_path)


def test_control_characters_of_the_data_do_not_reach_the_terminal():
    kinds = ("a\x1b[2J", "b", "b", "a\x1b[2J")
    rows = breakdown.by_tag(
        [Prediction(str(n), "", ("a",), "a", "g", tags={"qtype": k}) for n, k in enumerate(kinds)], {}
    )
    assert "\x1b" not in breakdown.format_tables(rows)
