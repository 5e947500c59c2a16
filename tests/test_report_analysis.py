"""What the report makes of items: intervals over runs, shared first places, curves, cost. In memory, no processes."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from llama_exp.errors import UserError
from llama_exp.metrics import squad
from llama_exp.report import costs, findings, items, tables
from llama_exp.report.analyse import analyse
from llama_exp.report.captions import cost_caption, cost_notes, curve_sentences, target_score
from llama_exp.report.cells import ExactTest
from llama_exp.report.compare import comparisons
from llama_exp.report.load import load_runs
from llama_exp.runs.files import read_predictions
from llama_exp.runs.scores import write_scores
from llama_exp.statistics.ranking import Contender, rank_cells
from llama_exp.statistics.variance import RunSums
from tests.test_report import write_grid, write_run

F1 = "squad/f1"


def weighed(outputs, cache=None):
    (comparison,) = comparisons(load_runs(outputs)[0])
    return analyse(comparison, lambda evaluation: items.load_items(evaluation, cache))


def at(comparison, rank, examples):
    return next(s for _, s in comparison.cells() if (s.rank, s.examples) == (rank, examples))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """4 sizes x 2 ranks x 3 data seeds."""
    outputs = tmp_path_factory.mktemp("grid")
    write_grid(outputs, samples=(100, 300, 1000, 3000), seeds=3)
    return outputs


def test_the_interval_of_several_runs_holds_more_than_the_test_set_and_says_how_much(grid):
    interval = at(weighed(grid), 8, 1000).interval(F1)
    assert interval.note.startswith("test set and 3 data samples with one training seed each")
    assert [name for name, *_ in interval.shares] == ["test set", "training and sampling"]
    assert sum(share for _, share, *_ in interval.shares) == pytest.approx(1)
    assert all(0 <= low <= share <= high <= 1 for _, share, low, high in interval.shares)


def test_runs_that_scatter_widen_the_interval(tmp_path):
    for name, f1s in (("steady", (50.0, 50.0, 50.0)), ("wild", (35.0, 50.0, 65.0))):
        for seed, f1 in enumerate(f1s):
            write_run(tmp_path / name, f1=f1, data_seed=seed)
    steady, wild = (weighed(tmp_path / name).best()[1].interval(F1) for name in ("steady", "wild"))
    assert wild.high - wild.low > 2 * (steady.high - steady.low)
    [(_, share, low, _)] = [one for one in wild.shares if one[0] == "training and sampling"]
    assert share > 0.7 and low > 0.1


def test_one_run_says_test_set_only_one_training_seed(tmp_path):
    write_run(tmp_path, f1=50.0)
    c = weighed(tmp_path)
    assert c.best()[1].interval(F1).note == "test set only; one training seed"
    assert "Its interval covers the test items only, because there is one run" in " ".join(findings.answer(c))


def test_the_best_and_what_cannot_be_told_from_it_are_named_and_the_rest_is_worse(grid):
    c = weighed(grid)
    best, tied = c.best()[1], [(s.rank, s.examples) for _, s in c.rivals()]
    assert (best.rank, best.examples) == (8, 3000) and tied == [(16, 3000), (16, 1000)]
    assert len(c.ranking.worse) == 6 and 4 < c.ranking.detectable < 12
    said = " ".join(findings.answer(c))
    tied = (
        r"rank 16 on 3,000 examples \(60.0 ± \d.\d, p = [01]\.\d+\) "
        r"and rank 16 on 1,000 examples \(55.9 ± \d.\d, p = 0\.\d+\)"
    )
    assert re.search(f"On the same 300 items there is no significant difference from {tied}", said)
    assert "It is significantly better than the other 6 cells." in said and "smallest true difference" in said
    table = tables.scores_table(c)
    assert len(table.tied) == 2 and sum("no significant difference" in cell for row in table.rows for cell in row) == 2


def test_pairing_tells_apart_what_overlapping_intervals_leave_open(tmp_path):
    write_run(tmp_path, sample=3000, f1=50.0, half=6.0)
    write_run(tmp_path, sample=3500, f1=59.0, half=6.0)
    c = weighed(tmp_path)
    assert c.rivals() == [] and len(replace(c, ranking=None).rivals()) == 1


def test_runs_of_few_examples_must_differ_by_more_because_they_scatter_farther(tmp_path):
    for sample, f1 in ((50, 50.0), (60, 59.0)):
        write_run(tmp_path, sample=sample, f1=f1)
    assert len(weighed(tmp_path).rivals()) == 1, "9 points: as above, but of runs that scatter by 5"


def test_settings_with_other_items_are_not_paired_and_the_ids_are_named(tmp_path):
    write_run(tmp_path, sample=100, f1=50.0)
    write_run(tmp_path, sample=300, f1=50.0)
    other = write_run(tmp_path, sample=1000, f1=40.0)
    path = next(other.rglob("predictions.jsonl"))
    path.write_text(path.read_text().replace('"id": "q7"', '"id": "z7"'))
    c = weighed(tmp_path)
    assert len(c.ranking.against) == 1 and c.ranking.refused[0][0] == at(c, 16, 1000).key
    assert "answered different items" in c.unpaired and "(q7)" in c.unpaired and "(z7)" in c.unpaired
    assert c.unpaired in findings.answer(c)
    assert "not compared" in [cell for row in tables.scores_table(c).rows for cell in row]


def test_predictions_that_do_not_give_the_stored_score_are_not_used(tmp_path):
    home = write_run(tmp_path, f1=50.0)
    path = next(home.rglob("predictions.jsonl"))
    path.write_text(path.read_text().replace('"reply": "no"', '"reply": "yes"', 30))
    (run,), _ = load_runs(tmp_path)
    assert items.load_items(run.evaluations[0]) == (
        "item by item squad/exact_match is 60 where results.json says 50: not the same answers"
    )


def test_items_are_kept_for_the_next_report_and_read_anew_when_the_file_changes(tmp_path):
    home = write_run(tmp_path / "outputs", f1=50.0)
    (run,), _ = load_runs(tmp_path / "outputs")
    first = items.load_items(run.evaluations[0], tmp_path / "kept")
    (kept,) = (tmp_path / "kept").glob("*.json")
    assert items.load_items(run.evaluations[0], tmp_path / "kept") == first
    kept.write_text("half a fi")
    assert items.load_items(run.evaluations[0], tmp_path / "kept") == first
    path = next(home.rglob("predictions.jsonl"))
    path.write_text(path.read_text() + "{broken\n")
    assert "cannot be read" in items.load_items(run.evaluations[0], tmp_path / "kept")


def test_a_metric_that_needs_a_model_falls_back_to_what_is_stored_and_says_so(tmp_path):
    for sample, f1 in ((100, 50.0), (1000, 60.0)):
        write_run(tmp_path, sample=sample, f1=f1)
    for path in tmp_path.rglob("results.json"):
        values = json.loads(path.read_text())
        values["scores"] = {"bertscore/f1": values["scores"][F1]}
        values["intervals"] = {"bertscore/f1": values["intervals"][F1]}
        path.write_text(json.dumps(values))
    c = weighed(tmp_path)
    assert c.ranking is None and c.rivals() == []
    assert c.unpaired == "Not compared item by item: bertscore/f1 is not stored item by item."


def test_curves_say_what_more_data_buys(grid):
    c = weighed(grid)
    said = " ".join(curve_sentences(c.panels[0].curves[16], target_score(c, costs.Prices())))
    for part in ("Twice the data, 6,000 examples: +", "Ten times the data, 30,000 examples: +", "Examples for 70:"):
        assert part in said
    assert target_score(c, costs.Prices(targets={F1: 65.0})) == 65.0


PARETO = [
    ([(1, 10), (2, 20), (3, 15), (4, 30)], False, [0, 1, 3]),
    ([(1, 5.0), (2, 4.0), (3, 4.5)], True, [0, 1]),
    ([(1, 10), (1, 12), (2, 12)], False, [1]),
    ([], False, []),
]


@pytest.mark.parametrize("points, lower, front", PARETO)
def test_the_front_holds_what_nothing_cheaper_equals(points, lower, front):
    assert costs.pareto(points, lower) == front


def test_the_cheapest_that_is_tied_with_the_best_is_said(grid):
    c = weighed(grid)
    _, cheapest, spent = costs.cheapest_tied(c, costs.Prices())
    assert (cheapest.rank, cheapest.examples) == (16, 1000) and spent == pytest.approx(39.3, abs=0.1)
    said = " ".join(findings.answer(c))
    assert "Cheapest of these: rank 16 on 1,000 examples, 39 s of training instead of 1 min 46 s." in said
    worst = c.ranking.against[cheapest.key][0].high
    assert f"It may score up to {worst:.1f} lower." in said
    assert "55.9 for 39 s (rank 16 on 1,000 examples)" in cost_caption(c, costs.Prices())


def test_money_and_energy_are_unknown_until_they_are_known(tmp_path):
    gpu = {"device": "NVIDIA H100", "energy_joules": 720_000, "world_size": 2, "seconds": {"train": 1800}}
    write_run(tmp_path / "gpu", f1=50.0, summary=gpu)
    write_run(tmp_path / "cpu", f1=50.0)
    price = costs.Prices(price_per_gpu_hour=3.0)
    row = tables.cost_table(weighed(tmp_path / "gpu"), price).rows[0]
    assert row[-2:] == ("200 Wh", "3.00 EUR")
    for folder, prices, known in (("gpu", price, 2), ("gpu", costs.Prices(), 1), ("cpu", price, 0)):
        heads = [column.name for column in tables.cost_table(weighed(tmp_path / folder), prices).columns]
        assert [name for name in heads if name in ("energy", "money")] == ["energy", "money"][:known]
    write_run(tmp_path / "cpu", f1=50.0, sample=1000, summary=gpu)
    table = tables.cost_table(weighed(tmp_path / "cpu"), price)
    assert [row[-2:] for row in table.rows] == [("unknown", "unknown"), ("200 Wh", "3.00 EUR")]


def test_wrong_prices_are_one_message(tmp_path):
    path = tmp_path / "report.yaml"
    path.write_text("price_per_gpu_hour: two\npriec: 1\n")
    with pytest.raises(UserError, match=r"unknown: priec(.|\n)*wanted a number or null, got 'two'"):
        costs.load(path)
    assert costs.load() == costs.Prices()


def test_the_score_on_clean_items_stands_beside_the_full_one(tmp_path):
    clean = {"items": 280, "scores": {F1: 48.0}, "intervals": {F1: {"low": 44.0, "high": 52.0}}}
    write_run(tmp_path, f1=50.0, evaluation={"clean": clean})
    c = weighed(tmp_path)
    said = "On the test items that do not overlap with training data (280 of 300): 48.0 ± 4.0."
    assert said in findings.answer(c)
    table = tables.scores_table(c)
    assert "F1, clean items" in [column.name for column in table.columns] and "48.0 ± 4.0" in table.rows[0]


AUDITS = [
    (None, "Whether the training data contain test items is not known"),
    ({"items": 300}, "The audit found no test item, and none much like one, in the training data."),
    ({"items": 0}, "All test items, or items much like them, are in the training data"),
    (
        {"items": 280, "scores": {F1: 48.0}},
        "Up to 6.7 % of the test items, or items much like them, are in the training data",
    ),
]


@pytest.mark.parametrize("clean, said", AUDITS)
def test_what_the_audit_found_is_said_also_where_it_found_nothing(clean, said, tmp_path):
    write_run(tmp_path, f1=50.0, evaluation={"clean": clean})
    assert said in findings.description(weighed(tmp_path))


def test_on_a_busy_machine_the_cost_says_that_the_clock_ran_for_all(tmp_path):
    for sample, rate in ((100, 900.0), (300, 2100.0)):
        write_run(tmp_path / "cpu", sample=sample, f1=50.0, summary={"tokens_per_second": rate})
        write_run(tmp_path / "gpu", sample=sample, f1=50.0, summary={"device": "NVIDIA H100"})
    said = " ".join(cost_notes(weighed(tmp_path / "cpu")))
    assert "Times are wall-clock times" in said and "at 900 to 2,100 tokens/s" in said
    assert "wall-clock" not in " ".join(cost_notes(weighed(tmp_path / "gpu")))


def test_equal_recipes_are_seldom_told_apart_and_a_worse_one_is():
    """8 equal recipes x 3 runs whose scatter differs fourfold; at full size 1 to 7 of 100 such grids name a worse
    one."""
    rng, weights, alarms, found = np.random.default_rng(0), np.full(40, 5.0), 0, 0
    for _ in range(100):
        hard, runs = rng.normal(50, 8, 40), tuple((seed, 0) for seed in range(3))
        grid = []
        for recipe, scatter in enumerate(np.linspace(4, 1, 8)):
            luck, noise = rng.normal(0, scatter, (3, 1)), rng.normal(0, 12, (3, 40))
            grid.append(Contender(recipe, RunSums((hard + luck + noise) * weights, weights, 200), runs))
        alarms += bool(rank_cells(sorted(grid, key=lambda one: -one.sums.means.mean())).worse)
        bad = grid[-1].sums.sums - 15 * weights
        grid[-1] = replace(grid[-1], sums=RunSums(bad, weights, 200))
        found += 7 in rank_cells(sorted(grid, key=lambda one: -one.sums.means.mean())).worse
    assert alarms <= 12 and found >= 65


def test_equal_recipes_whose_runs_share_no_seed_are_seldom_told_apart():
    """What runs scatter by (a standard deviation of 4) counts there too: left out, 29 of 100 equal pairs were told
    apart."""
    rng, weights, alarms = np.random.default_rng(0), np.full(40, 5.0), 0
    for _ in range(200):
        hard, pair = rng.normal(50, 8, 40), []
        for recipe in range(2):
            scores = hard + rng.normal(0, 4, (3, 1)) + rng.normal(0, 12, (3, 40))
            pair.append(
                Contender(recipe, RunSums(scores * weights, weights, 200), tuple((3 * recipe + i, 0) for i in range(3)))
            )
        alarms += bool(rank_cells(sorted(pair, key=lambda one: -one.sums.means.mean())).worse)
    assert alarms <= 24  # 16 of 200 with shared seeds, about


@pytest.mark.parametrize(
    ("good", "groups", "said"),
    [
        (100.0, 8, "significantly better than"),
        (100.0, 1, "All these items belong to one group, so differences cannot be tested."),
        (0.0, 8, "Every cell has the same score in every group of items."),
    ],
)
def test_differences_without_spread_are_judged_by_sign_or_not_at_all(good, groups, said):
    weights = np.full(groups, 5.0)
    one, other = (
        Contender(key, RunSums((np.full(groups, score) * weights)[None], weights, 5 * groups), ((0, 0),))
        for key, score in (("a", good), ("b", 0.0))
    )
    found = rank_cells([one, other])
    difference, p = found.against["b"]
    assert found.worse == (("b",) if good and groups > 1 else ())
    assert p == pytest.approx(2.0 ** (1 - groups) if good else 1.0)
    comparison = SimpleNamespace(
        ranking=found, metric="squad/f1", unpaired="", exact=None, cells=lambda: [], rivals=lambda: []
    )
    assert difference.difference == good and said in " ".join(findings._ranking(comparison, comparison.ranking))


def test_the_untuned_model_is_compared_without_luck_of_its_own(tmp_path):
    for seed in range(3):
        write_run(tmp_path, f1=50.0 + random.Random(seed).gauss(0, 2), data_seed=seed)
    write_run(tmp_path, r=0, f1=20.0)
    c = weighed(tmp_path)
    ((difference, p),) = c.ranking.against.values()
    assert p < 0.01 and 25 < difference.difference < 35 and c.ranking.worse


def test_a_metric_that_needs_a_model_is_compared_by_the_scores_that_were_stored(tmp_path):
    """BERTScore's items, some below 0, are read from scores.jsonl; the predictions alone do not hold them."""
    rng, hard = random.Random(0), [random.Random(n).gauss(0, 20) for n in range(300)]
    values = {}
    for sample, level in ((2000, 5.0), (3000, 11.0)):
        home = write_run(tmp_path, sample=sample, f1=50.0)
        [folder] = home.glob("eval/*")
        made = read_predictions(folder / "predictions.jsonl")
        values[sample] = [level + hard[n] + rng.gauss(0, 2) for n in range(300)]
        results = json.loads((folder / "results.json").read_text())
        results["scores"] = {"bertscore/f1": float(np.mean(values[sample])), "loss": 1.0}
        (folder / "results.json").write_text(json.dumps(results))
        if sample == 2000:
            (comparison,) = comparisons(load_runs(tmp_path)[0])
            (one,) = (s.evaluation for _, setting in comparison.cells() for s in setting.runs)
            assert not items.load_items(one, tmp_path / "kept").can("bertscore/f1")
        write_scores(folder, made, {"bertscore/f1": values[sample]})
    assert min(values[2000]) < 0
    c = weighed(tmp_path, tmp_path / "kept")
    assert c.metric == "bertscore/f1" and c.unpaired == ""
    ((difference, p),) = c.ranking.against.values()
    assert difference.difference == pytest.approx(np.mean(values[3000]) - np.mean(values[2000]))
    assert p < 0.05 and len(c.ranking.worse) == 1, "6 points, where the scores of items scatter by 20"
    [broken] = tmp_path.glob("squad/*-2000-*/eval/*/scores.jsonl")
    broken.write_text(broken.read_text()[:500])
    assert "scores.jsonl does not hold the scores of predictions.jsonl" in weighed(tmp_path, tmp_path / "kept").unpaired


def test_several_runs_on_a_scale_without_ends_have_an_interval(tmp_path):
    for seed in range(3):
        home = write_run(tmp_path, f1=50.0, data_seed=seed)
        [folder] = home.glob("eval/*")
        made = read_predictions(folder / "predictions.jsonl")
        scores = [-30.0 + seed + random.Random(n).gauss(0, 20) for n in range(len(made))]
        write_scores(folder, made, {"bertscore/f1": scores})
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps(results | {"scores": {"bertscore/f1": float(np.mean(scores))}}))
    interval = weighed(tmp_path).best()[1].interval("bertscore/f1")
    assert interval.high < 0 and interval.shares


def test_an_exact_test_by_right_or_wrong_stands_beside_the_intervals(tmp_path):
    a, b = (
        next(write_run(tmp_path, sample=n, f1=f1).rglob("predictions.jsonl")) for n, f1 in ((100, 50.0), (1000, 59.0))
    )
    c = weighed(tmp_path)
    right = [{p.id: squad.score(p.reply, p.references)[0] for p in read_predictions(path)} for path in (a, b)]
    groups = {p.id: p.group for p in read_predictions(a)}
    gaps = Counter()
    for item, group in groups.items():
        gaps[group] += right[1][item] - right[0][item]
    signs = stats.permutation_test(
        ([g for g in gaps.values() if g],),
        np.sum,
        permutation_type="samples",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    assert c.exact.metric == "squad/exact_match" and c.exact.other == at(c, 16, 100).key
    assert c.exact.p == pytest.approx(signs.pvalue, abs=0.01)
    [said] = [line for line in findings.answer(c) if line.startswith("Exact test of these two runs on right or wrong")]
    assert "(exact match): rank 16 on 1,000 examples 59.0 % right, " in said
    assert signs.pvalue < 0.05
    assert "rank 16 on 100 examples 50.0 %; these two runs differ (p " in said
    write_run(tmp_path, sample=300, f1=55.0)
    assert weighed(tmp_path).exact.comparisons == 3


@pytest.mark.parametrize(
    ("mine", "theirs", "p", "verdict"),
    [
        (90.0, 60.0, 0.001, "90.0 % right, the untuned model 60.0 %; these two runs differ (p = 0.001, corrected for"),
        (60.0, 90.0, 0.001, "60.0 % right, the untuned model 90.0 %; these two runs differ"),  # best by F1, not by this
        (60.0, 61.0, 0.5, "60.0 % right, the untuned model 61.0 %; no significant difference"),
    ],
)
def test_an_exact_test_says_which_is_ahead(mine, theirs, p, verdict, tmp_path):
    write_run(tmp_path, f1=60.0)
    write_run(tmp_path, r=0, f1=5.0)
    c = weighed(tmp_path)
    untuned = next(s for _, s in c.cells() if s.rank == 0)
    assert verdict in findings._exact(replace(c, exact=ExactTest("squad/exact_match", untuned.key, mine, theirs, p, 3)))


def test_settings_of_several_runs_have_no_exact_test_in_which_a_seeds_luck_would_be_skill(grid):
    c = weighed(grid)
    assert c.ranking.runs == 3 and c.exact is None


def test_no_metric_of_right_or_wrong_no_exact_test(tmp_path):
    for sample in (100, 1000):
        write_run(tmp_path, sample=sample, f1=50.0)
    (c,) = comparisons(load_runs(tmp_path)[0])
    c = analyse(replace(c, metrics=(F1, "loss")), lambda evaluation: items.load_items(evaluation, None))
    assert c.ranking and c.exact is None
