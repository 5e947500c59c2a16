"""The answer: rank and examples that suffice, what more data buys, and the run that tells most. In memory."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from llama_exp.config.compose import load_config
from llama_exp.report import costs, items
from llama_exp.report.analyse import analyse
from llama_exp.report.answer import Estimate, answer_of
from llama_exp.report.answer import _sentences as sentences
from llama_exp.report.compare import comparisons
from llama_exp.report.load import load_runs
from llama_exp.report.write import write_report
from llama_exp.statistics import Series
from llama_exp.statistics.learning_curve.advice import next_runs, rank_difference, recommend
from llama_exp.statistics.learning_curve.fit import fit_points
from llama_exp.statistics.run_luck import RunLuck
from tests.test_report import write_grid, write_run

SIZES = [100, 300, 1000, 3000]


def answered(outputs):
    (comparison,) = comparisons(load_runs(outputs)[0])
    comparison = analyse(comparison, lambda evaluation: items.load_items(evaluation, None))
    return answer_of(comparison, costs.Prices(), outputs)


def curves(truths, sizes=SIZES, seeds=3, noise=0.3):
    """Relative curves of ranks, from a function of n for each."""
    rng = np.random.default_rng(0)
    runs = [(n, seed) for n in sizes for seed in range(seeds)]
    series = {
        rank: Series(
            [n for n, _ in runs], [truth(n) + rng.normal(0, noise) for n, _ in runs], None, [s for _, s in runs]
        )
        for rank, truth in truths.items()
    }
    return fit_points({rank: one.points.on_these_items() for rank, one in series.items()}, (0, 100), rises=True)


def test_the_cheapest_cell_within_a_point_of_the_best_is_recommended():
    """Flat from 1,000 examples on, and rank 16 as good as rank 64: neither more examples nor more rank is bought."""
    truth = lambda top: lambda n: top - 30 * np.exp(-n / 300)  # noqa: E731
    choice = recommend(curves({1: truth(60.0), 16: truth(70.0), 64: truth(70.0)}), 1.0, lower_is_better=False)
    assert choice.sure >= 0.9 and choice.rank in (16, 64)
    assert 900 < choice.examples <= 2000, "70 - 30 exp(-n / 300) is within a point of its end from 1,020 on"


def test_a_curve_that_still_rises_needs_the_largest_size():
    choice = recommend(curves({8: lambda n: 10 + 8 * np.log(n)}), 1.0, lower_is_better=False)
    assert choice.examples >= 2600 and choice.sure >= 0.9


def test_what_is_not_known_is_not_called_sure():
    rising = lambda n: 40 + 6 * np.log(n)  # noqa: E731
    noisy = recommend(curves(dict.fromkeys((1, 4, 16, 64), rising), [100, 1000], seeds=1, noise=2.0), 1.0, False)
    assert noisy.sure < 0.9


def test_a_rank_is_compared_at_the_same_size():
    found = curves({1: lambda n: 30 + 5 * np.log(n), 16: lambda n: 33 + 5 * np.log(n)})
    gap = rank_difference(found, 16, 1, 1000)
    assert gap.low < 3 < gap.high and gap.high - gap.low < 3


def test_more_data_tells_more_about_doubling_than_the_same_again():
    runs = next_runs(curves({8: lambda n: 70 - 40 * np.exp(-n / 2000)}, seeds=1)[8], 8)
    assert runs[0].examples == 6000 and 0.2 < runs[0].narrowing < 1
    assert all(one.examples <= 4000 for one in next_runs(curves({8: lambda n: 50.0})[8], 8, available=4000))


def test_three_sizes_and_one_seed_have_an_answer(tmp_path):
    write_grid(tmp_path)
    answer = answered(tmp_path)
    found = answer.recommended
    assert found.rank in (8, 16) and 100 <= found.examples <= 1000 and 0.3 < found.sure <= 1
    assert [gain.factor for gain in answer.more_data] == [2, 10] and answer.more_data[1].examples == 10_000
    verdict = "Recommended" if found.sure >= 0.9 else "Best guess"
    assert answer.sentences[0].startswith(f"{verdict}: rank {found.rank} and {found.examples:,} examples. F1 ")
    assert "how much runs differ is assumed, not measured" in " ".join(answer.sentences)


def test_the_command_to_run_next_composes_to_the_cell_that_it_names(tmp_path):
    write_grid(tmp_path, samples=SIZES, available=50_000)
    step = answered(tmp_path).next
    program, *words = shlex.split(step.command)[1:]
    config = load_config(*words)
    assert program == "train.py" and config.evaluate
    assert (config.sample, config.lora.r) == (step.examples, step.rank)
    assert 0 < step.narrowing < 1 and step.seconds > 0


def test_a_test_set_of_few_groups_and_data_that_end_are_said(tmp_path):
    write_grid(tmp_path, samples=(100, 300, 1000), available=1000)
    (comparison,) = comparisons(load_runs(tmp_path)[0])
    comparison = analyse(comparison, lambda evaluation: items.load_items(evaluation, None))
    few = answer_of(replace(comparison, groups=6), costs.Prices(), tmp_path)
    assert few.available == 1000 and "The data have 1,000 examples." in " ".join(few.sentences)
    assert "The test set has 6 groups of items: the score depends on which they are." in " ".join(few.sentences)


def test_one_size_answers_about_ranks_alone(tmp_path):
    for rank, f1 in ((1, 40.0), (8, 60.0), (64, 60.0)):
        write_run(tmp_path, r=rank, sample=1000, f1=f1)
    answer = answered(tmp_path)
    assert (answer.recommended.rank, answer.recommended.examples) == (8, 1000) and not answer.more_data
    assert "Try sample=250,500,1000." in " ".join(answer.sentences) and answer.next.examples == 2000
    assert answer.next.narrowing is None, "there is no interval yet"


def test_of_ranks_that_do_not_differ_the_luckiest_is_a_guess(tmp_path):
    for rank, f1 in ((4, 60.0), (16, 60.3), (64, 61.3)):
        write_run(tmp_path, r=rank, sample=1000, f1=f1)
    answer = answered(tmp_path)
    assert answer.recommended.sure < 0.9 and answer.sentences[0].startswith("Best guess: rank ")


def test_what_more_data_would_do_is_said_as_far_as_it_is_known(tmp_path):
    write_grid(tmp_path)
    (comparison,) = comparisons(load_runs(tmp_path)[0])
    comparison = analyse(comparison, lambda evaluation: items.load_items(evaluation, None))
    answer = answer_of(comparison, costs.Prices(), tmp_path)
    said = {}
    for name, low, high in (("helps", 1.5, 4.0), ("harms", -4.0, -1.5), ("little", -0.3, 0.4), ("open", -2.0, 5.0)):
        gain = replace(answer.more_data[0], gain=Estimate((low + high) / 2, low, high))
        said[name] = sentences(replace(answer, more_data=(gain,)), comparison)[1].split(".")[0]
    assert said == {
        "helps": "More data would help",
        "harms": "More data would harm",
        "little": "Twice the data would change little",
        "open": "Whether more data would help is not known",
    }


def test_where_the_untuned_model_is_best_the_answer_says_so(tmp_path):
    write_run(tmp_path, sample=100, f1=20.0)
    write_run(tmp_path, r=0, f1=50.0)
    answer = answered(tmp_path)
    assert answer.recommended.rank == 0
    assert answer.sentences[0] == "The untuned model is best: F1 50.0. Fine-tuning has not helped on SQuAD."


def test_of_several_settings_the_answer_names_the_one_that_it_is_about(tmp_path):
    for warmup, lift in ((0.0, 0.0), (0.1, 9.0)):
        for sample, f1 in ((100, 40.0), (1000, 50.0)):
            write_run(tmp_path, f"{sample}-{warmup}", sample=sample, f1=f1 + lift, **{"optimizer.warmup": warmup})
    answer = answered(tmp_path)
    assert answer.setting == "warmup 0.1"
    assert " examples, with warmup 0.1 (the best of 2 settings)." in answer.sentences[0]


def test_one_cell_alone_has_no_answer(tmp_path):
    write_run(tmp_path, f1=50.0)
    assert answered(tmp_path) is None


def test_seeds_of_one_cell_tell_how_much_of_a_score_is_luck(tmp_path):
    for seed, lift in enumerate((-6, -3, -1, 1, 3, 6)):  # a standard deviation of 4.3 points
        write_run(tmp_path, sample=1000, seed=seed, f1=60.0 + lift)
    answer = answered(tmp_path)
    luck = answer.luck
    assert answer.recommended is None and answer.next is None and luck.runs == 6
    assert luck.spread.low < 4 < luck.spread.high and luck.spread.value > 1.5
    assert [one.difference for one in luck.seeds_needed] == [1, 2, 5]
    runs = [one.seeds for one in luck.seeds_needed]
    assert runs[0] > 3 * runs[1] > 3 * runs[2] >= 6, "half the difference needs four times the runs"
    assert answer.sentences[0].startswith("Luck of a run: F1 of the 6 runs of rank 16 on 1,000 examples ")
    assert "This answer cost" in answer.sentences[-1]


def test_the_runs_that_a_difference_needs_find_it_in_four_of_five():
    luck = RunLuck(2.0, 1.5, 3.0, 2.0, 5, 10)
    count = luck.seeds_needed(2.0)
    rng = np.random.default_rng(1)
    a, b = rng.normal(2, 2, (4000, count)), rng.normal(0, 2, (4000, count))
    assert np.mean(stats.ttest_ind(a, b, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)
    assert luck.seeds_needed(0.01) is None and luck.seeds_needed(100.0) == 2


def test_the_answer_heads_terminal_and_page_and_is_a_file(tmp_path, capsys):
    write_grid(tmp_path, samples=SIZES)
    page = write_report(tmp_path)
    printed = capsys.readouterr().out
    stored = json.loads((tmp_path / "report/answer.json").read_text())
    [answer] = stored["answers"]
    assert stored["schema"] == 1 and answer["sentences"][0].startswith(("Recommended: rank ", "Best guess: rank "))
    assert printed.startswith(answer["sentences"][0][:60])
    assert page.read_text().index(answer["sentences"][0][:30]) < page.read_text().index("Best: F1")


@pytest.mark.parametrize("lower", [False, True])
def test_lower_is_better_turns_everything_round(lower):
    sign = -1 if lower else 1
    truth = lambda n: 50 + sign * (20 - 30 * np.exp(-n / 300))  # noqa: E731
    runs = [(n, seed) for n in SIZES for seed in range(3)]
    series = Series([n for n, _ in runs], [float(truth(n)) for n, _ in runs], None, [s for _, s in runs])
    found = fit_points({8: series.points}, (0, 100), rises=not lower)
    choice = recommend(found, 1.0, lower)
    assert 900 < choice.examples <= 2000 and np.sign(found[8].gain(2).estimate) in (0, sign)
