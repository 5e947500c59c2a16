"""`forgetting=`: the loss on data that a run was not tuned on, measured by real runs and by hand."""

import json
import re

import numpy as np
import pytest

from llama_exp.config.compose import load_config
from llama_exp.data import DATASETS
from llama_exp.errors import UserError
from llama_exp.evaluation.after_training import forgetting_request
from llama_exp.report.compare import comparisons
from llama_exp.report.load import load_runs
from llama_exp.report.tables import scores_table
from llama_exp.report.write import analyse_all, write_report
from llama_exp.runs.run import Run
from llama_exp.training.train import train
from tests.test_report import Page

TINY = (
    *("dataset=squad", "dataset.source=synthetic", "model=tiny", "trainer=cpu", "dataset.rows=80", "validations=0"),
    *("max_length=256", "trainer.max_steps=4", "eval_sample=12", "evaluate=true", "audit=false"),
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A run on 16 examples and the untuned model, both measured on guanaco."""
    folder = tmp_path_factory.mktemp("forgetting")
    for rank in (0, 4):
        train(load_config(*TINY, "sample=16", f"lora.r={rank}", "forgetting=guanaco", f"outputs={folder}"))
    return folder


def losses(folder):
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return {row["id"]: (row["nll"], row["tokens"], row["group"]) for row in map(json.loads, lines)}


def test_the_change_of_the_loss_is_that_of_the_stored_items_and_its_interval_that_of_the_groups(outputs):
    (c,) = analyse_all(comparisons(load_runs(outputs)[0]), outputs / "items")
    (cell,) = c.panels[0].cells
    tuned, untuned = (losses(next(outputs.glob(f"squad/{run}/eval/guanaco-*"))) for run in ("tiny-16*", "tiny-r0"))
    assert tuned.keys() == untuned.keys() and cell.forgot.items == len(tuned) == 12
    tokens = sum(count for _, count, _ in tuned.values())
    change = sum(nll - untuned[name][0] for name, (nll, _, _) in tuned.items()) / tokens
    assert cell.forgot.change == pytest.approx(change) and cell.forgot.low < change < cell.forgot.high
    groups = {}
    for name, (nll, count, group) in tuned.items():
        groups.setdefault(group, []).append(nll - untuned[name][0] - change * count)
    sums = np.array([sum(values) for values in groups.values()])
    plain = np.sqrt((sums**2).sum()) / tokens  # of the test set alone, without small-sample corrections
    half = (cell.forgot.high - cell.forgot.low) / 2
    assert 1.9 * plain < half < 12 * plain, "wider by few groups, and by the assumed luck of one run"


def test_nothing_is_generated_for_it_and_it_is_a_column_and_a_picture_not_a_comparison(outputs):
    folder = next(outputs.glob("squad/tiny-16*/eval/guanaco-test-12-loss*"))
    results = json.loads((folder / "results.json").read_text())
    assert (
        results["empty_replies"] is None
        and results["metrics"] == []
        and set(results["scores"]) == {"loss", "perplexity"}
    )
    (c,) = analyse_all(comparisons(load_runs(outputs)[0]), outputs / "items")
    column = [one.name for one in scores_table(c).columns].index("loss on Guanaco, change")
    assert [bool(re.match(r"[+-]?[0-9.]+ [(]", row[column])) for row in scores_table(c).rows] == [False, True]
    write_report(outputs)
    text = Page(outputs / "report" / "index.html").text
    assert "Gain against forgetting" in text and "on which it was not tuned" in text
    assert any(path.name.startswith("forgetting-") for path in (outputs / "report").iterdir())


def test_a_text_file_is_continued_from_the_middle_of_its_passages(tmp_path):
    words = [f"word{number}" for number in range(400)]
    file = tmp_path / "prose.TXT"
    paragraphs = [" ".join(words[start : start + 40]) for start in range(0, 360, 9)] + ["Too short.", " ".join(words)]
    file.write_text("\r\n \r\n\r\n".join(paragraphs), encoding="utf-8")
    run = Run.of(load_config(*TINY, "sample=16", "lora.r=4", f"outputs={tmp_path}"))
    request = forgetting_request(run, load_config(*TINY, "sample=16", f"forgetting={file}"))
    data = DATASETS.of(request.config)
    data.setup()
    examples = data.held_out("test") + data.available + data.held_out("validation")
    assert len(examples) == 44, "40 paragraphs, and one of 400 words in four passages"
    assert all(abs(len(e.prompt.split()) - len(e.response.split())) <= 1 for e in examples)
    assert {f"{e.prompt} {e.response}" for e in examples} >= set(paragraphs[:40])
    assert data.counts["dropped"]["train"]["fewer than 16 words"] == 1
    assert request.folder.name.startswith("text-test-12-loss")


def test_a_text_that_has_changed_is_another_evaluation_and_other_items(tmp_path):
    file = tmp_path / "prose.txt"
    run = Run.of(load_config(*TINY, "sample=16", "lora.r=4", f"outputs={tmp_path}"))
    found = []
    for word in ("sea", "land"):
        file.write_text("\n\n".join(f"{word} {number} " * 20 for number in range(40)))
        request = forgetting_request(run, load_config(*TINY, "sample=16", f"forgetting={file}"))
        data = DATASETS.of(request.config)
        data.setup()
        found.append((request.folder, {example.id for example in data.held_out("test")}))
    assert found[0][0] != found[1][0] and not found[0][1] & found[1][1]


def test_a_text_without_passages_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "short.txt").write_text("Too short.\n\nThis as well.")
    with pytest.raises(UserError, match="No Example is left|too few Examples"):
        words = ("sample=16", "lora.r=4", f"forgetting={tmp_path}/short.txt", f"outputs={tmp_path}/o")
        train(load_config(*TINY, *words))
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("guanco", "no such file, and no such dataset. Did you mean guanaco? Known: guanaco"),
        ("squad", "is what the run is tuned on"),
        ("table", "has no data yet"),
        ("nowhere/prose.txt", "no such file"),
    ],
)
def test_what_cannot_be_forgotten_is_refused_before_anything_is_trained(name, wanted, tmp_path):
    with pytest.raises(UserError, match=re.escape(wanted)):
        train(load_config(*TINY, "sample=16", "lora.r=4", f"forgetting={name}", f"outputs={tmp_path}"))
    assert not any(tmp_path.iterdir())


def test_it_needs_the_evaluation(tmp_path):
    with pytest.raises(UserError, match="add evaluate=true"):
        train(load_config(*TINY, "evaluate=false", "sample=16", "forgetting=guanaco", f"outputs={tmp_path}"))
