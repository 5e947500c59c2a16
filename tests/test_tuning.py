"""What validation chooses: the learning rate of each cell, and the best cell; the test scores are only reported."""

import dataclasses
import json

import pytest

from benchmarks.choosing import WORLDS, measure
from llama_exp.report import findings
from llama_exp.report.answer import answer_of
from llama_exp.report.compare import comparisons
from llama_exp.report.costs import Prices
from llama_exp.report.load import load_runs
from llama_exp.report.tables import scores_table
from llama_exp.report.tuning import settings_table
from llama_exp.report.write import analyse_all, write_report
from tests.test_report import Page, write_run

RATES = (1e-4, 2e-4, 4e-4)


def write_tried(outputs, sample, r, test, validation=None, loss=1.9, rate=None, seed=0, items=100):
    """A run with its test score, and its score on validation Examples or the loss there."""
    name = f"{sample}-r{r}-lr{rate}-seed{seed}"
    more = {"optimizer.lr": rate} if rate else {}
    losses = {"train": 1.0, "validation": loss, "best_validation": loss}
    keys = {"sample": sample, "r": r, "seed": seed, "f1": test, "name": name if r else None}
    home = write_run(outputs, summary={"loss": losses}, **keys, **more)
    if validation is not None:
        write_validation(home, validation, items)
    return home


def write_validation(home, f1, items=100, **more):
    (tested,) = (home / "eval").glob("*-test-*")
    results = json.loads((tested / "results.json").read_text())
    results["scores"] |= {"squad/f1": f1}
    results |= {"split": "validation", "items": items, "groups": items} | more
    results["evaluation"] = results.get("evaluation", {}) | {"split": "validation", "eval_sample": items}
    folder = home / "eval" / f"squad-validation-{items}"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))


def compared(outputs):
    return analyse_all(comparisons(load_runs(outputs)[0]), outputs / "items")


def write_grid(outputs, validation=lambda sample, r, rate: 50 + 10 * (rate == (2e-4 if r == 8 else 4e-4)) + r / 8):
    for sample in (100, 1000):
        for r in (8, 16):
            for rate in RATES:
                score = validation(sample, r, rate)
                write_tried(outputs, sample, r, 40 + sample / 100, score, rate=rate)
    write_validation(write_run(outputs, r=0, f1=5.0), 4.0)


def test_each_rank_is_compared_at_the_rate_that_validation_finds_best_for_it(tmp_path):
    write_grid(tmp_path)
    (c,) = compared(tmp_path)  # the validation scores are no comparison of their own
    (panel,) = c.panels
    assert panel.keys == {} and panel.tuned == ("optimizer.lr",) and panel.tuned_by == "validation scores"
    chosen = {(cell.rank, cell.examples): cell.tuned["optimizer.lr"] for cell in panel.cells}
    assert chosen == {(8, 100): 2e-4, (8, 1000): 2e-4, (16, 100): 4e-4, (16, 1000): 4e-4}
    assert all(len(cell.others) == 2 for cell in panel.cells) and len(c.runs()) == 13
    lines = scores_table(c)
    assert [column.name for column in lines.columns][:5] == ["examples", "rank", "lr", "F1, validation", "F1"]
    answer = answer_of(c, Prices(), tmp_path)
    assert answer.chosen_by == "validation" and answer.spent.runs == 13
    assert answer.recommended.tuned["optimizer.lr"] == chosen[answer.recommended.rank, 1000]


def test_a_rate_at_the_edge_of_the_grid_is_warned_of(tmp_path):
    write_grid(tmp_path, lambda sample, r, rate: 50 + 1e4 * rate + r / 8)
    (c,) = compared(tmp_path)
    answer = answer_of(c, Prices(), tmp_path)
    assert answer.recommended.at_edge == ("optimizer.lr",)
    warned = "lr 0.0004 is the highest learning rate that was tried: more may be better. Add a higher value"
    assert any(line.startswith(warned) for line in answer.unknown)


def test_a_rate_within_the_grid_is_not_warned_of(tmp_path):
    write_grid(tmp_path, lambda sample, r, rate: 50 + 10 * (rate == 2e-4))
    (c,) = compared(tmp_path)
    answer = answer_of(c, Prices(), tmp_path)
    assert answer.recommended.at_edge == () and not any("tried: " in line for line in answer.unknown)


def test_without_validation_scores_the_validation_loss_chooses_the_rate_and_the_test_the_cell(tmp_path):
    for rate, loss, test in ((1e-4, 1.2, 40.0), (2e-4, 1.1, 38.0), (4e-4, 1.5, 60.0)):
        for sample in (100, 1000):
            write_tried(tmp_path, sample, 8, test + sample / 100, loss=loss, rate=rate)
    (c,) = compared(tmp_path)
    (panel,) = c.panels
    assert panel.tuned_by == "validation loss"
    assert {cell.tuned["optimizer.lr"] for cell in panel.cells} == {2e-4}, "the best loss, not the best test score"
    assert not c.validated and c.ranking.winner, "of the cells the test set chose the best: that is corrected"
    table = settings_table(panel, c)
    assert [[entry.chosen for entry in row] for _, row in table.rows] == [[False, True, False]] * 2
    assert [entry.share for entry in table.rows[0][1]] == [0.75, 1.0, 0.0] and table.lower_is_better


def test_of_unmeasured_validation_the_rates_stay_apart(tmp_path):
    for rate in RATES:
        write_tried(tmp_path, 100, 8, 50.0, loss=None, rate=rate)
    (c,) = compared(tmp_path)
    assert [panel.keys for panel in c.panels] == [{"optimizer.lr": rate} for rate in RATES]


def test_where_some_cells_have_no_validation_score_the_loss_chooses_and_nothing_is_hidden(tmp_path):
    write_tried(tmp_path, 100, 8, 50.0, 50.0, rate=1e-4)
    write_tried(tmp_path, 100, 8, 40.0, None, loss=1.0, rate=2e-4)
    test, validation = compared(tmp_path)
    assert test.panels[0].tuned_by == "validation loss" and not test.validated
    assert validation.split == "validation", "these scores are shown, as they choose nothing"


def test_the_number_of_epochs_is_chosen_as_well_and_seeds_are_averaged(tmp_path):
    for epochs, scores in ((1, (50.0, 60.0)), (3, (58.0, 58.0))):
        for seed, validation in enumerate(scores):
            home = write_run(tmp_path, f"{epochs}-{seed}", f1=50.0, seed=seed, **{"trainer.max_epochs": epochs})
            write_validation(home, validation)
    write_validation(write_run(tmp_path, r=0, f1=5.0), 4.0)
    (c,) = compared(tmp_path)
    (cell,) = c.panels[0].cells
    assert cell.tuned == {"trainer.max_epochs": 3} and len(cell.runs) == 2


def test_rates_of_other_models_and_other_keys_are_chosen_apart(tmp_path):
    for model in ("tiny", "other"):
        for warmup in (0.0, 0.1):
            for rate, score in ((1e-4, 60.0 - 100 * warmup), (2e-4, 55.0)):
                keys = {"optimizer.lr": rate, "optimizer.warmup": warmup, "model": model}
                write_validation(write_run(tmp_path, f"{model}-{warmup}-{rate}", f1=50.0, **keys), score)
    (c,) = compared(tmp_path)
    found = [(p.model, p.keys, [cell.tuned for cell in p.cells]) for p in c.panels]
    assert found == [
        (model, {"optimizer.warmup": warmup}, [{"optimizer.lr": rate}])
        for model in ("other", "tiny")
        for warmup, rate in ((0.0, 1e-4), (0.1, 2e-4))
    ]


def test_the_best_cell_is_chosen_by_validation_and_its_test_score_is_not_corrected(tmp_path):
    for sample, test, validation in ((100, 40.0, 41.0), (300, 70.0, 55.0), (1000, 60.0, 62.0)):
        write_tried(tmp_path, sample, 8, test, validation)
    write_validation(write_run(tmp_path, r=0, f1=5.0), 4.0)
    (c,) = compared(tmp_path)
    assert c.validated and c.best()[1].examples == 1000 and c.ranking.winner is None
    assert c.ranking.best == c.best()[1].key
    lines = findings.answer(c)
    assert lines[0].startswith("Best: F1 60.0")
    assert "It was chosen among 4 by its score on 100 validation items (62.0)" in lines[1]
    wide = scores_table(c)
    verdicts = [row[[one.name for one in wide.columns].index("against the best")] for row in wide.rows]
    assert verdicts[3] == "best" and verdicts[0].startswith("worse by") and "better" not in verdicts[1]


def test_a_cell_that_the_test_set_shows_to_be_better_than_the_chosen_one_is_named(tmp_path):
    for seed in range(4):
        write_tried(tmp_path, 300, 8, 70.0, 55.0, seed=seed)
        write_tried(tmp_path, 1000, 8, 40.0, 62.0, seed=seed)
    (c,) = compared(tmp_path)
    assert len(c.ranking.better) == 1 and not c.ranking.worse
    found = " ".join(findings.answer(c))
    assert "rank 8 on 300 examples (" in found and "scored significantly better" in found
    assert "significantly better than all" not in found
    write_report(tmp_path)
    text = Page(tmp_path / "report" / "index.html").text
    assert "better by 30" in text and "The best of 2 cells looks better" not in text


def test_validation_scores_on_other_examples_do_not_choose(tmp_path):
    write_tried(tmp_path, 100, 8, 40.0, 41.0)
    write_tried(tmp_path, 300, 8, 50.0, 55.0)
    write_tried(tmp_path, 1000, 8, 60.0, 50.0, items=60)
    c = next(c for c in compared(tmp_path) if c.split == "test")
    assert not c.validated and c.best()[1].examples == 1000


def test_more_validation_items_of_some_runs_do_not_undo_the_choice(tmp_path):
    for sample, validation in ((100, 41.0), (300, 55.0), (1000, 50.0)):
        home = write_tried(tmp_path, sample, 8, 40.0, validation)
        if sample > 100:
            write_validation(home, 10.0, items=400)
    c = next(c for c in compared(tmp_path) if c.split == "test")
    assert c.validated and c.best()[1].examples == 300


def test_a_lucky_run_at_one_rate_does_not_beat_the_mean_of_several_at_another(tmp_path):
    for seed, score in enumerate((62.0, 50.0, 51.0)):
        write_tried(tmp_path, 100, 8, 50.0, score, rate=1e-4, seed=seed)
    write_tried(tmp_path, 100, 8, 50.0, 60.0, rate=2e-4)
    (c,) = compared(tmp_path)
    (cell,) = c.panels[0].cells
    assert cell.tuned == {"optimizer.lr": 1e-4} and len(cell.runs) == 3, "compared on the seed that both have"


def test_of_equal_validation_scores_the_lower_validation_loss_decides(tmp_path):
    for rate, loss in ((1e-5, 1.0), (1e-4, 2.0)):
        home = write_tried(tmp_path, 100, 8, 50.0, rate=rate)
        write_validation(home, 0.0, scores={"squad/f1": 0.0, "loss": loss})
    (c,) = compared(tmp_path)
    assert c.panels[0].cells[0].tuned == {"optimizer.lr": 1e-5}


def test_where_the_test_set_shows_validation_to_be_wrong_about_tuning_nobody_is_told_that_it_did_not_help(tmp_path):
    write_validation(write_run(tmp_path, r=0, f1=5.0), 10.0)
    for sample in (100, 300):
        for seed in range(3):
            write_tried(tmp_path, sample, 8, 60.0, 9.0, seed=seed)
    (c,) = compared(tmp_path)
    assert c.best()[1].rank == 0 and c.ranking.better
    said = " ".join([*findings.answer(c), *answer_of(c, Prices(), tmp_path).sentences])
    assert "not helped" not in said and "No fine-tuned model is better" not in said
    assert "Validation chose the untuned model" in said and answer_of(c, Prices(), tmp_path).recommended.rank == 8


def test_where_lower_is_better_the_lowest_validation_score_chooses(tmp_path):
    for sample, test, loss in ((100, 40.0, 1.5), (1000, 60.0, 2.5)):
        home = write_tried(tmp_path, sample, 8, test)
        write_validation(home, 50.0, scores={"loss": loss})
    (c, *_) = comparisons(load_runs(tmp_path)[0], "loss")
    assert c.validated and c.best()[1].examples == 100


def test_the_page_shows_what_was_chosen_among_what(tmp_path):
    write_grid(tmp_path)
    write_report(tmp_path)
    text = Page(tmp_path / "report" / "index.html").text
    assert "Settings chosen by validation" in text and "(chosen)" in text
    assert "Each cell is shown at its own best learning rate, chosen by validation scores." in text
    stored = json.loads((tmp_path / "report" / "answer.json").read_text())["answers"]
    assert [one["chosen_by"] for one in stored] == ["validation"]


@pytest.mark.parametrize("rates", [("0.1", None), (None, 0.2)])
def test_odd_stored_rates_are_no_error(tmp_path, rates):
    for rate in rates:
        write_tried(tmp_path, 100, 8, 50.0, 50.0, rate=1e-3 if rate is None else 2e-3)
    for config in tmp_path.glob("squad/*/summary.json"):
        summary = json.loads(config.read_text())
        summary["identity"]["optimizer.lr"] = rates[0] if "0.001" in str(config) else rates[1]
        config.write_text(json.dumps(summary))
    write_report(tmp_path)
    assert dataclasses.asdict(answer_of(compared(tmp_path)[0], Prices(), tmp_path) or Prices())


def test_a_choice_by_validation_does_not_flatter_the_reported_score_and_one_by_the_test_set_is_corrected():
    found = measure(WORLDS[0], 120)
    error = {way: values[:, 0].std(ddof=1) / len(values) ** 0.5 for way, values in found.items()}
    bias = {way: values[:, 0].mean() for way, values in found.items()}
    assert abs(bias["validation"]) < 4 * error["validation"]
    assert bias["test"] > 4 * error["test"] and bias["test, corrected"] < bias["test"] / 2
    assert 0.25 < (found["test, corrected"][:, 0] > 0).mean() < 0.65, "about half of them lie above the truth"
