"""A sweep that is asked a question: what is believed of settings that were not run, what is run next, when it stops."""

import json

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from llama_exp.adaptive.belief import DRAWS, Believer, Grid, Observed
from llama_exp.adaptive.budget import Budget
from llama_exp.adaptive.choose import verdict, worth
from llama_exp.adaptive.importance import SPREAD, ImportanceSampler
from llama_exp.adaptive.plan import Plan
from llama_exp.adaptive.questions import Best, Curve, Target, question_of
from llama_exp.adaptive.replay import replay
from llama_exp.adaptive.search import with_room_for
from llama_exp.config.schema import Split
from llama_exp.errors import UserError
from llama_exp.report.question import load_question
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
    assert belief.scores.shape == (DRAWS, len(GRID)) and abs(belief.scores.mean() - 50) < 3
    found = verdict(Best(1.0).loss(belief.scores, GRID))
    assert found.certainty < 0.7 and found.loss > 0


def test_draws_agree_with_the_gaussian_that_one_prior_makes_of_the_runs():
    """Matheron's rule against conditioning by hand: the same mean and covariance, within Monte-Carlo error."""
    believer = Believer(GRID, 100.0)
    one = np.zeros((1, believer.search.prior.shape[1]))  # the median of every hyperparameter
    believer.search.draw = lambda log_likelihood, count: np.repeat(one, count, axis=0)
    scores = {0: [40.0, 43.0], 3: [62.0]}
    belief = believer.after(observed(scores, items=0.5))
    prior, at = believer._priors(one, np.arange(len(GRID)))[0], [0, 3]
    luck = (believer._scatters(one) * believer._luck(one, np.array(at))[0]) ** 2
    noise = np.diag((luck + 0.5) / np.array([2, 1]))
    gain = prior[:, at] @ np.linalg.inv(prior[np.ix_(at, at)] + noise)
    mean = 50 + gain @ (np.array([41.5, 62.0]) - 50)
    covariance = prior - gain @ prior[at]
    spread = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(belief.scores.mean(axis=0) - mean) < 5 * spread / np.sqrt(DRAWS))
    assert np.allclose(
        np.cov(belief.scores.T) / np.outer(spread, spread), covariance / np.outer(spread, spread), atol=0.12
    )


def test_importance_sampling_finds_a_posterior_that_the_prior_hardly_touches():
    """Against the exact posterior of a narrow Gaussian likelihood, far out in the prior."""
    centre, spread = np.array([2.5, -2.0, 0.0, 1.0, 0.0, 0.0]), np.array([0.05, 0.1, 0.3, 0.05, 1.0, 0.2])
    sampler = ImportanceSampler(6, np.random.default_rng(0))

    def log_likelihood(values):
        return -0.5 * (((values - centre) / spread) ** 2).sum(axis=1)

    values, weights = sampler.weigh(log_likelihood)
    variance = 1 / (1 + 1 / spread**2)
    mean, found = centre / spread**2 * variance, weights @ values
    assert 1 / (weights**2).sum() > 200, "effective draws"
    assert np.all(np.abs(found - mean) < 0.25 * np.sqrt(variance))
    assert np.allclose(weights @ (values - found) ** 2, variance, rtol=0.35)


def test_runs_of_few_examples_that_agree_do_not_say_that_runs_of_many_do():
    """Near the bottom of a scale runs scatter little, whatever they do above it."""
    sizes = Grid({}, np.array([25.0, 1000.0]))
    apart = Believer(sizes, 100.0).after(observed({0: [5.0, 5.4, 4.8, 5.1, 5.2], 1: [60.0]}, items=0.01))
    assert np.median(apart.run_variance(0)) < 1.0
    assert np.quantile(apart.run_variance(1), 0.9) > 1.0


def test_a_budget_keeps_time_to_run_the_likeliest_answer():
    found, seconds = {0: 0, 1: 0, 2: 1}, np.array([10.0, 40.0, 100.0])
    assert with_room_for(2, found, seconds, 145.0) == {0: 0, 1: 0, 2: 1}
    assert with_room_for(2, found, seconds, 120.0) == {0: 0, 2: 1}
    assert with_room_for(2, found, seconds, 101.0) == {2: 1}
    assert with_room_for(2, found, seconds, 50.0) == {0: 0, 1: 0}  # there is none to keep
    assert with_room_for(None, found, seconds, 120.0) == found


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
    losses = Target(within=0.5, target=70.0).loss(scores, GRID)
    assert losses.shape == (2, 4)
    assert losses[0].tolist() == [24.5, 0.0, 0.5, 9.5]
    assert losses[1].tolist() == [24.5, 8.5, 0.0, 0.0], "within the tolerance either answer is right"
    lower = Target(within=0.0, target=1.0).loss(-np.array([[3.0, 2.0, 1.5, 0.9, 0.5, 0.6]]), GRID, sign=-1.0)
    assert lower[0].argmin() == 1 and lower[0].min() == 0.0


def plan_of(*words: str) -> Plan:
    return Plan.of(OverridesParser.create().parse_overrides([*words]))


def test_a_plan_has_the_settings_without_seeds_and_without_the_untuned_model():
    plan = plan_of("dataset=squad", "sample=100,300,null", "lora.r=0,4,16", "seed=7")
    assert len(plan.settings) == 6 and plan.seeds == ("7", "8", "9", "10", "11") and plan.with_untuned
    tested = ["validation_sample=null", "sample=100", "lora.r=4", "seed=8"]
    assert plan.overrides(0, 1, Split.test) == ["dataset=squad", "evaluate=true", *tested]
    assert "split=validation" in plan.overrides(0, 1)
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
        (["question=best", "split=validation"], "validation Examples"),
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
    assert "sample=8" in json.loads(decision)["overrides"]
    again = command("train.py", *words, f"outputs={command.outputs}")
    assert "already finished" in again.stdout and "after 1 run" not in again.stdout
    assert json.loads((command.outputs / "report/adaptive.json").read_text())["runs"] == 1
    assert len((command.outputs / "report/decisions.jsonl").read_text().splitlines()) == 1


def test_a_curve_is_measured_until_it_is_known_and_every_decision_can_be_made_again(command):
    """And what one of them rests on, once changed, is told."""
    words = [*small(), "-m", "sample=8,16,32", "seed=0,1", "question=curve", "within=20", f"outputs={command.outputs}"]
    done = command("train.py", *words)
    assert "Asked what 10 times the data buys, ± 20 in F1 (squad): 10 times the data, 320 Examples:" in done.stdout
    report = command.outputs / "report"
    found = json.loads((report / "answer.json").read_text())["question"]
    assert found == json.loads((report / "adaptive.json").read_text())
    assert (found["known"], found["runs"] >= 2) == (True, True) or found["runs"] == 6
    assert "Asked what 10 times the data buys" in (report / "index.html").read_text()
    decisions = [json.loads(line) for line in (report / "decisions.jsonl").read_text().splitlines()]
    assert len(decisions) == found["runs"] and [one["cell"] for one in decisions[:2]] == [0, 1], "two sizes first"
    replayed = list(replay(command.outputs))
    assert [line["cell"] for line, _ in replayed] == [chosen for _, chosen in replayed]
    decisions[1]["runs"][0]["score"] += 1.0
    (report / "decisions.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in decisions))
    with pytest.raises(UserError, match="scored anew"):
        list(replay(command.outputs))


def test_the_gain_of_ten_times_the_data_is_known_where_the_draws_agree():
    question, scores = Curve(within=1.0), np.zeros((100, len(GRID) + 1))
    scores[:, -1] = np.linspace(2.0, 3.8, 100)
    losses = question.loss(scores, GRID)
    found = verdict(losses)
    assert found.certainty == 1.0
    scores[:, -1] = np.linspace(0.0, 10.0, 100)
    assert verdict(question.loss(scores, GRID)).certainty == pytest.approx(0.2, abs=0.02)


def test_a_curve_is_asked_of_sizes_alone():
    Curve(within=1.0).check(plan_of("sample=10,20", "lora.r=4"))
    for words in (["sample=10,20", "lora.r=4,8"], ["lora.r=4,8", "sample=10"]):
        with pytest.raises(UserError, match="lora.r one value each"):
            Curve(within=1.0).check(plan_of(*words))


def test_on_two_workers_a_setting_that_fails_is_left_out_and_a_size_beyond_the_data_is_all_of_them(command):
    """Two processes run the whole sweep, and two the test set, which the setting that is the answer answers alone."""
    grid = ["sample=8,500", "max_length=512,3", "seed=0,1"]  # 80 rows; 3 tokens have no room for a prompt
    words = [*small(), "-m", *grid, "question=best", "within=3", f"outputs={command.outputs}"]
    done = command("train.py", *words, "hydra/launcher=gpus", "hydra.launcher.workers=2", timeout=900, check=None)
    assert done.returncode == 1 and "2 failed" in done.stdout, done.stdout + done.stderr
    answer = json.loads((command.outputs / "report/adaptive.json").read_text())
    assert "max_length=512" in answer["answer"] and 2 <= answer["runs"] <= 4
    assert sum("failed" in why for why in answer["not_run"].values()) == 2
    assert "groups: the score depends on which they are" in done.stdout
    shown = {path.parents[2].name for path in command.outputs.glob("squad/*/eval/*-test-*/results.json")}
    assert len({name.partition("-seed")[0] for name in shown}) == 1, shown
    assert list(command.outputs.glob("squad/tiny-all-*/adapter")) and not list(command.outputs.glob("squad/tiny-500-*"))
    validation = list(command.outputs.glob("squad/*/eval/*-validation-*"))
    assert len(validation) == len(list(command.outputs.glob("squad/*/adapter"))), "answered once by each run"
    launched = next(command.outputs.glob(".launch/train-*"))
    assert len(list(launched.glob("worker*.log"))) == 2 + len(shown)
    replayed = list(replay(command.outputs))
    assert [line["cell"] for line, _ in replayed] == [now for _, now in replayed]
    assert replayed[-1][0]["left_out"] and len(replayed) >= 4
    with open(command.outputs / "report/decisions.jsonl", "a") as file:
        file.write('{"question": {"na')
    with pytest.raises(UserError, match="line .*: it is damaged"):
        list(replay(command.outputs))


def test_two_sizes_beyond_the_data_are_one_run(command):
    words = [*small(), "-m", "sample=500,null", "seed=0", "question=best", "within=3", f"outputs={command.outputs}"]
    command("train.py", *words)
    answer = json.loads((command.outputs / "report/adaptive.json").read_text())
    assert (answer["runs"], answer["known"]) == (1, True), answer
    assert len(list(command.outputs.glob("squad/*/adapter"))) == 1


def test_importance_sampling_goes_on_where_few_draws_carry_the_weight():
    """Twelve parameters, of which the prior's own draws show next to nothing."""
    centre, spread = np.linspace(-2, 2, 12), np.full(12, 0.2)
    sampler = ImportanceSampler(12, np.random.default_rng(0))
    values, weights = sampler.weigh(lambda v: -0.5 * (((v - centre) / spread) ** 2).sum(axis=1))
    variance = 1 / (1 + 1 / spread**2)
    assert 1 / (weights**2).sum() >= SPREAD
    assert np.all(np.abs(weights @ values - centre / spread**2 * variance) < 0.6 * np.sqrt(variance))


def test_what_a_report_cannot_read_of_a_question_is_listed(tmp_path):
    good = {"question": "q", "answer": "a", "certainty": 0.97, "known": True, "ended": "e", "runs": 3, "groups": 40}
    good |= {"seconds": 2.0, "seconds_of_whole_grid": 9.0, "not_run": {}}
    (tmp_path / "adaptive.json").write_text(json.dumps(good))
    assert "Asked q: a, 97 % certain" in load_question(tmp_path)[0].sentence
    for damage in ({"certainty": 7.5}, {"runs": -3}, {"answer": None}, {"seconds": float("nan")}):
        (tmp_path / "adaptive.json").write_text(json.dumps(good | damage))
        found, [unread] = load_question(tmp_path)
        assert found is None and unread.reason
    (tmp_path / "adaptive.json").write_text("{")
    assert load_question(tmp_path)[1]
