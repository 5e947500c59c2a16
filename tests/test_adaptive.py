"""A sweep that is asked a question: what is believed of settings that were not run, what is run next, when it stops."""

import json

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from llama_exp.adaptive.belief import DRAWS, Believer, Grid, Observed
from llama_exp.adaptive.budget import Budget
from llama_exp.adaptive.choose import verdict, worth
from llama_exp.adaptive.plan import Plan
from llama_exp.adaptive.questions import Best, Target, question_of
from llama_exp.errors import UserError
from tests.conftest import small

SIZES, RANKS = (100.0, 1000.0, 10000.0), (4, 64)
GRID = Grid({"lora.r": tuple(r for _ in SIZES for r in RANKS)}, np.repeat(SIZES, len(RANKS)))


def observed(scores: dict[int, list[float]], items: float = 0.0) -> Observed:
    settings = np.array([setting for setting, values in scores.items() for _ in values], int)
    return Observed(
        settings, np.array([v for values in scores.values() for v in values], float), np.eye(len(settings)) * items
    )


def test_without_runs_every_setting_is_as_likely_the_best_as_its_place_says_and_nothing_is_certain():
    belief = Believer(GRID, 100.0).after(observed({}))
    assert len(belief.scores[0]) == 6
    assert belief.scores.shape == (DRAWS, len(GRID)) and abs(belief.scores.mean() - 50) < 3
    found = verdict(Best(1.0).loss(belief.scores, GRID))
    assert found.certainty < 0.7 and found.loss > 0


def test_draws_agree_with_the_gaussian_that_one_prior_makes_of_the_runs():
    """Matheron's rule against conditioning by hand: the same mean and covariance, within Monte-Carlo error."""
    believer = Believer(GRID, 100.0)
    believer.priors = np.repeat(believer.priors[:1], len(believer.priors), axis=0)
    believer.roots = np.linalg.cholesky(believer.priors)
    believer.scatters[:] = 1.5
    scores = {0: [40.0, 43.0], 3: [62.0]}
    belief = believer.after(observed(scores, items=0.5))
    prior, at = believer.priors[0], [0, 3]
    luck = (1.5 * believer.luck[at]) ** 2
    noise = np.diag((luck + 0.5) / np.array([2, 1]))
    gain = prior[:, at] @ np.linalg.inv(prior[np.ix_(at, at)] + noise)
    mean = 50 + gain @ (np.array([41.5, 62.0]) - 50)
    covariance = prior - gain @ prior[at]
    spread = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(belief.scores.mean(axis=0) - mean) < 5 * spread / np.sqrt(DRAWS))
    assert np.allclose(
        np.cov(belief.scores.T) / np.outer(spread, spread), covariance / np.outer(spread, spread), atol=0.12
    )


def test_runs_that_repeat_a_setting_say_how_much_runs_scatter():
    quiet = Believer(GRID, 100.0).after(observed({3: [60.0, 60.1, 59.9, 60.0]}))
    lucky = Believer(GRID, 100.0).after(observed({3: [60.0, 66.0, 54.0, 60.0]}))
    assert np.median(lucky.scatters) > 3 * np.median(quiet.scatters)


def test_the_same_runs_give_the_same_draws():
    runs = observed({0: [40.0], 5: [70.0]})
    assert np.array_equal(Believer(GRID, 100.0).after(runs).scores, Believer(GRID, 100.0).after(runs).scores)


def test_a_clear_winner_is_known_and_what_is_already_known_is_worth_nothing():
    every = {setting: [score] * 4 for setting, score in enumerate([30.0, 31.0, 50.0, 51.0, 60.0, 75.0])}
    belief = Believer(GRID, 100.0).after(observed(every, items=0.01))
    losses = Best(1.0).loss(belief.scores, GRID)
    found = verdict(losses)
    assert found.answer == 5 and found.certainty > 0.99
    assert worth(belief, losses, range(6), 0.01).max() < 0.01


def test_the_open_contest_is_worth_more_than_a_setting_that_is_out_of_it():
    seen = {0: [30.0, 30.5], 1: [30.0, 31.0], 2: [45.0], 3: [44.0], 4: [60.0], 5: [60.5]}
    belief = Believer(GRID, 100.0).after(observed(seen, items=1.0))
    values = worth(belief, Best(0.5).loss(belief.scores, GRID), range(6), 1.0)
    assert min(values[4], values[5]) > 3 * max(values[0], values[1], 1e-9)


def test_target_is_the_smallest_size_that_reaches_it_or_none():
    scores = np.array([[40.0, 45.0, 69.0, 71.0, 80.0, 79.0], [40.0, 45.0, 60.0, 61.0, 69.9, 60.0]])
    losses = Target(70.0, 0.5).loss(scores, GRID)
    assert losses.shape == (2, 4)
    assert losses[0].tolist() == [24.5, 0.0, 0.5, 9.5]
    assert losses[1].tolist() == [24.5, 8.5, 0.0, 0.0], "within the tolerance either answer is right"
    lower = Target(1.0, 0.0).loss(-np.array([[3.0, 2.0, 1.5, 0.9, 0.5, 0.6]]), GRID, sign=-1.0)
    assert lower[0].argmin() == 1 and lower[0].min() == 0.0


def plan_of(*words: str) -> Plan:
    return Plan.of(OverridesParser.create().parse_overrides([*words]))


def test_a_plan_has_the_settings_without_seeds_and_without_the_untuned_model():
    plan = plan_of("dataset=squad", "sample=100,300,null", "lora.r=0,4,16", "seed=7")
    assert len(plan.settings) == 6 and plan.seeds == ("7", "8", "9", "10", "11") and plan.with_untuned
    assert plan.overrides(0, 1) == ["dataset=squad", "evaluate=true", "sample=100", "lora.r=4", "seed=8"]
    assert plan.overrides(-1, 0)[-3:] == ["sample=100", "lora.r=0", "seed=7"]
    grid = plan.grid(available=2500, fixed=None)
    assert sorted(set(grid.examples)) == [100, 300, 2500] and set(grid.axes["lora.r"]) == {4, 16}
    assert plan_of("sample=10,20", "seed=1,2").seeds == ("1", "2")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sample=100"], "values with commas"),
        (["sample=10,20", "optimizer.lr=interval(0,1)"], "separated by commas"),
        (
            [f"sample={','.join(map(str, range(1, 60)))}", f"max_length={','.join(map(str, range(1, 60)))}"],
            "200 at most",
        ),
    ],
)
def test_a_grid_that_no_question_can_be_asked_of_is_refused(words, told):
    with pytest.raises(UserError, match=told):
        plan_of(*words)


@pytest.mark.parametrize(
    ("typed", "seconds"), [("2h", 7200), ("30min", 1800), ("90 s", 90), (".5h", 1800), (None, None)]
)
def test_a_budget_is_a_time(typed, seconds):
    assert Budget.of(typed).seconds == seconds


@pytest.mark.parametrize("typed", ["2 days", "-1h", "0h", "h", "1e9h", "nan", "12.50"])
def test_what_is_no_budget_is_refused(typed):
    with pytest.raises(UserError, match="budget="):
        Budget.of(typed)


@pytest.mark.parametrize(
    "asked", [("worst", 1.0, None), ("best", 0.0, None), ("best", 1.0, 70.0), ("target", 1.0, None)]
)
def test_what_is_no_question_is_refused(asked):
    with pytest.raises(UserError):
        question_of(*asked)


def test_a_question_needs_a_sweep(command):
    done = command("train.py", *small(), "question=best", check=None)
    assert done.returncode == 2 and "add -m" in done.stderr


def test_a_question_that_nobody_would_answer_is_refused(command):
    """In place of a grid that trains for hours."""
    for words, told in (
        (["+experiment=null", "++question=best"], "typed on the command line of train"),
        (["budget=1h"], "belongs to a question"),
        (["question=best", "dataset.task=answer,x"], "same items"),
        (["question=best", "validations=0"], "validation Examples"),
    ):
        typed = [word for word in words if word != "+experiment=null"]
        done = command("train.py", *small(), "-m", "sample=8,16", *typed, check=None)
        assert done.returncode == 2 and told in done.stderr, done.stderr


def test_a_sweep_with_a_question_runs_what_its_budget_allows_and_takes_up_what_is_there(command):
    """A second has time for no second run, and a repetition runs nothing."""
    words = [*small(), "-m", "sample=8,16,24", "lora.r=0,2", "question=best", "within=5", "budget=1s", "eval_sample=4"]
    done = command("train.py", *words, f"outputs={command.outputs}")
    assert "within 5 of the best of this grid" in done.stdout and "Open: the budget of 1.0 s leaves" in done.stdout
    answer = json.loads((command.outputs / "report/adaptive.json").read_text())
    not_run = 2 - ("sample=8" not in answer["answer"])  # the answer itself may be a setting that was not run
    assert (answer["known"], answer["runs"], len(answer["not_run"])) == (False, 1, not_run)
    [decision] = (command.outputs / "report/decisions.jsonl").read_text().splitlines()
    assert "sample=8" in json.loads(decision)["cell"]
    again = command("train.py", *words, f"outputs={command.outputs}")
    assert "already finished" in again.stdout and "after 1 run" not in again.stdout
    assert json.loads((command.outputs / "report/adaptive.json").read_text())["runs"] == 1
    assert len((command.outputs / "report/decisions.jsonl").read_text().splitlines()) == 1
