"""summary.json and results.json come back as they were written; what somebody else put there is taken as absent."""

import json

import pytest

from llama_exp.errors import UserError
from llama_exp.report.load import load_runs
from llama_exp.runs.results import Results, read_results, write_results
from llama_exp.runs.summary import Summary, read_summary, write_summary

SUMMARY = Summary(status="finished", identity={"dataset.name": "squad", "lora.r": 4}, steps=3, seconds={"train": 1.5})
RESULTS = Results(scores={"squad/f1": 50.0, "loss": None}, intervals={"squad/f1": {"low": 40.0}}, items=4, split="test")


def test_what_is_written_is_read(tmp_path):
    write_summary(tmp_path, SUMMARY)
    write_results(tmp_path, RESULTS)
    assert (read_summary(tmp_path), read_results(tmp_path)) == (SUMMARY, RESULTS)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ({"steps": "many"}, Summary()),
        ({"steps": True, "tokens": 2.5, "status": 7}, Summary()),
        ({"seconds": {"train": 8, "load": None, "data": "1"}}, Summary(seconds={"train": 8.0})),
        ({"seconds": [1], "versions": {"torch": 2}}, Summary()),
        ({"unknown": 1, "loss": {"train": None}}, Summary(loss={"train": None})),
    ],
)
def test_values_of_another_type_are_taken_as_absent(stored, read, tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(stored))
    assert read_summary(tmp_path) == read


def test_a_file_of_a_newer_version_is_refused_and_costs_the_report_its_own_row_alone(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "eval" / "one").mkdir(parents=True)
        write_summary(tmp_path / name, SUMMARY)
        write_results(tmp_path / name / "eval" / "one", RESULTS)
    path = tmp_path / "new" / "eval" / "one" / "results.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(UserError, match="schema 99.*newer llama_exp"):
        read_results(path.parent)
    runs, [unread] = load_runs(tmp_path)
    assert {run.name: len(run.evaluations) for run in runs} == {"old": 1, "new": 0}
    assert unread.path == path and "schema 99" in unread.reason
