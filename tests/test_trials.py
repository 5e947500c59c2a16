"""hydra/sweeper=optuna: real studies in SQLite over real, tiny trainings."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import optuna
import pytest
import sqlalchemy
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from llama_exp.config.compose import load_config
from llama_exp.errors import UserError
from llama_exp.report.load import load_runs
from llama_exp.runs.lock import lock_folder
from llama_exp.runs.run import Run
from llama_exp.trials.space import Space
from llama_exp.trials.study import Settings, open_study, step_of
from tests.conftest import ROOT, small
from tests.killer import killed_at

# 4 steps of 4 Examples, a validation at 1, 2, 3 and 4
LEARN = ["hydra/sweeper=optuna", "hydra.sweeper.startup=1", "optimizer.lr=tag(log,interval(1e-5,1e-2))"]
USUAL = {
    **{"n_trials": 5, "metric": None, "pruner": "median", "rungs": [0.25, 0.5], "sampler": "tpe", "startup": 5},
    "seed": 0,
}


def sweep(outputs, *more: str) -> list[str]:
    return ["train.py", "-m", *small(validations="4"), *LEARN, f"outputs={outputs}", *more]


def study_in(outputs) -> optuna.Study:
    where = str(sqlalchemy.URL.create("sqlite", database=f"{outputs}/optuna.db"))
    [name] = optuna.get_all_study_names(where)
    return optuna.load_study(study_name=name, storage=where)


def states(outputs) -> list[str]:
    return [trial.state.name for trial in study_in(outputs).trials]


def space(*words: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(words)))


def test_commas_are_categories_intervals_are_numbers_and_keys_that_hold_whole_ones_get_them():
    found = space(
        "lora.r=4,16,64",
        "optimizer.lr=tag(log,interval(1e-5,1e-3))",
        "lora.dropout=interval(0,0.2)",
        "sample=interval(100,3000)",
        "batch=range(4,17,4)",
        "dataset=squad",
    )
    assert found.drawn == {
        "lora.r": CategoricalDistribution(["4", "16", "64"]),
        "optimizer.lr": FloatDistribution(1e-5, 1e-3, log=True),
        "lora.dropout": FloatDistribution(0, 0.2),
        "sample": IntDistribution(100, 3000),
        "batch": IntDistribution(4, 16, step=4),
    }
    drawn = {"lora.r": "16", "optimizer.lr": 0.000123456, "lora.dropout": 0.1, "sample": 200, "batch": 8}
    assert found.overrides(drawn)[0] == "dataset=squad" and "optimizer.lr=0.0001235" in found.overrides(drawn)


@pytest.mark.parametrize(
    ("word", "drawn"),
    [
        ("batch=range(16,0,-4)", IntDistribution(4, 16, step=4)),
        ("lora.r=range(2.0,9.0,2)", IntDistribution(2, 8, step=2)),
        ("lora.dropout=range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("lora.r=shuffle(64,16,4)", CategoricalDistribution(["16", "4", "64"])),
        ("sample=interval(1.5,8.5)", IntDistribution(2, 8)),
        ("lora.dropout=interval(0,1)", FloatDistribution(0, 1)),
        ("trainer.max_epochs=interval(1,3)", IntDistribution(1, 3)),
        ("+trainer.max_steps=tag(log,interval(10,1e3))", IntDistribution(10, 1000, log=True)),
    ],
)
def test_numbers_are_drawn_in_order_and_within_their_ends(word, drawn):
    assert list(space(word).drawn.values()) == [drawn]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("dataset=squad", "nothing to draw"),
        ("optimizer.lr=interval(1e-3,1e-5)", "first end below"),
        ("optimizer.lr=interval(nan,1e-5)", "first end below"),
        ("optimizer.lr=interval(1e-5,inf)", "wanted two numbers"),
        ("optimizer.lr=[interval(1e-5,1e-3)]", "without brackets"),
        ("optimizer.lr=interval(1e-5,1e-3),1", "no value among others"),
        ("optimizer.lr=tag(log,interval(0,1e-5))", "ends above 0"),
        ("batch=tag(log,range(1,9))", "goes with interval"),
        ("batch=range(1,3,0.5)", "whole numbers"),
        ("sample=interval(1.2,1.8)", "whole numbers"),
        ("sample=range(9,3)", "sample=range"),
        ("lora.r=0,4", "lora.r=0 trains nothing"),
        ("lora.r=range(0,9,4)", "lora.r=0 trains nothing"),
        ("lora.r=interval(0,9)", "lora.r=0 trains nothing"),
        ("data_seed=1,2", "data_seed decides how a trial is judged"),
        ("validation_sample=10,20", "validation_sample decides"),
        ("+trainer.limit_val_batches=0.5,1.0", "trainer.limit_val_batches decides"),
        ("early_stopping=2,3", "early_stopping decides"),
        ("dataset=squad,samsum", "dataset decides"),
        ("stop_at=0.5,1", "stop_at decides"),
        ("logger.wandb.project=a,b", "decides"),
    ],
)
def test_what_cannot_be_drawn_is_refused(word, said):
    with pytest.raises(UserError, match=re.escape(said)):
        space(word)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_trials": 0}, "n_trials=0: wanted a whole number"),
        ({"n_trials": "many"}, "n_trials=many: wanted a whole number"),
        ({"seed": -1}, "seed=-1: wanted a whole number of at least 0"),
        ({"rungs": 1.5}, "rungs=1.5: wanted growing shares"),
        ({"rungs": ["a", "b"]}, "rungs=['a', 'b']: wanted growing shares"),
        ({"trials": 3}, "hydra.sweeper.trials: no such key"),
        ({"sampler": "grid"}, "sampler=grid: wanted tpe, random."),
        ({"pruner": "hyperband"}, "pruner=hyperband: wanted median, asha, null."),
        ({"rungs": [0.5, 0.25]}, "rungs=[0.5, 0.25]: wanted growing shares"),
        ({"rungs": [0.5, 1.0]}, "wanted growing shares"),
        ({"rungs": [0.004, 0.5]}, "a percent or more apart"),
        ({"rungs": [0.25, 0.252]}, "a percent or more apart"),
        ({"rungs": [0.5, 0.999]}, "a percent or more apart"),
        ({"storage": "sqlite://"}, "hydra.sweeper.storage: no such key"),
        ({"metric": "squad/f1"}, "validation_scores=50"),
        ({"metric": ["validation_loss", "squad/f1"]}, "add hydra.sweeper.pruner=null"),
    ],
)
def test_what_a_study_cannot_do_is_refused(changed, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Settings.of({**USUAL, **changed}, load_config(*small()))


def test_a_score_that_is_measured_while_training_is_maximised():
    settings = Settings.of({**USUAL, "metric": "squad/f1"}, load_config(*small(validation_scores="2")))
    assert settings.directions == ["maximize"]
    both = Settings.of(
        {**USUAL, "metric": ["squad/f1", "validation_loss"], "pruner": None}, load_config(*small(validation_scores="2"))
    )
    assert both.directions == ["maximize", "minimize"] and both.rungs == ()


def test_metrics_that_the_data_choose_leave_the_loss_and_refuse_a_typed_score():
    config = load_config(*small(validation_scores="2"), "dataset.metrics=[auto]")
    assert Settings.of(USUAL, config).metric == ("validation_loss",)
    with pytest.raises(UserError, match="the data decide"):
        Settings.of({**USUAL, "metric": "squad/f1"}, config)


def test_only_a_database_that_cannot_be_opened_is_called_so(tmp_path):
    settings = Settings.of(USUAL, load_config(*small()))
    (tmp_path / "optuna.db").mkdir()
    with pytest.raises(UserError, match=r"optuna\.db, which holds the study, cannot be opened"):
        open_study(settings, tmp_path, "name")
    impossible = dataclasses.replace(settings, pruner="asha", rungs=(0.001,))
    with pytest.raises(ValueError, match="min_resource"):
        open_study(impossible, tmp_path, "name")


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_a_pruner_ends_what_is_worse_at_the_same_rung(pruner):
    settings = Settings.of({**USUAL, "pruner": pruner, "startup": 1}, load_config(*small()))
    study = optuna.create_study(pruner=settings.make_pruner())
    good, bad, better = study.ask(), study.ask(), study.ask()
    for rung in settings.rungs:
        good.report(2.0, step_of(rung))
        assert not good.should_prune()
    study.tell(good, 2.0)
    for trial, value in ((bad, 3.0), (better, 1.0)):
        trial.report(value, step_of(settings.rungs[0]))
    assert bad.should_prune() and not better.should_prune()


def test_bad_trials_are_pruned_at_a_rung_and_the_same_command_goes_on_with_the_study(tmp_path, command):
    """Drawn with this seed: 0.01, 0.01 once more, and 1e-05, which learns nothing by the first rung."""
    outputs = tmp_path / "o"
    words = [*sweep(outputs), "optimizer.lr=1e-2,1e-5", "hydra.sweeper.sampler=random", "hydra.sweeper.seed=6"]
    done = command(*words, "hydra.sweeper.n_trials=3", "evaluate=true")
    drawn = [(trial.params["optimizer.lr"], trial.state.name) for trial in study_in(outputs).trials]
    assert drawn == [("0.01", "COMPLETE"), ("0.01", "COMPLETE"), ("1e-05", "PRUNED")], done.stdout
    good, bad = sorted(load_runs(outputs)[0], key=lambda run: -run.identity["optimizer.lr"])
    assert (good.status, bad.status) == ("finished", "stopped at 25 %")
    assert good.evaluations and not bad.evaluations
    assert study_in(outputs).best_value == pytest.approx(good.summary.loss["validation"], rel=1e-6)
    # The second trial has what the first one's run came to, without a launch.
    assert "2 cells, 0 failed" in done.stdout and re.search(r"optimizer.lr=1e-05 +stopped at 25 %", done.stdout)
    assert "Trial 2: optimizer.lr=1e-05: pruned at 25 %" in done.stdout
    again = command(*words, "hydra.sweeper.n_trials=4").stdout
    assert len(states(outputs)) == 3 and "ended, because all that can be drawn has been" in again
    assert again.count("optimizer.lr=0.01: validation loss") == 1, again  # though two trials are the best


def test_runs_of_an_earlier_grid_are_trials_at_each_rung_unless_they_were_judged_by_something_else(tmp_path, command):
    """Drawn with this seed, as above: 0.01, 0.01, 1e-05."""
    outputs, rates = tmp_path / "o?100%", "optimizer.lr=1e-2,1e-5"  # a name that a URL would read otherwise
    command("train.py", "-m", *small(validations="4"), f"outputs={outputs}", rates)
    words = [*sweep(outputs), rates, "hydra.sweeper.sampler=random", "hydra.sweeper.seed=6", "hydra.sweeper.n_trials=3"]
    done = command(*words)
    good, _, bad = study_in(outputs).trials
    assert (good.state.name, bad.state.name) == ("COMPLETE", "PRUNED"), done.stdout
    losses = {
        run.config.optimizer.lr: [float(row["validation_loss"]) for row in run.metrics() if row["validation_loss"]]
        for run in map(Run.load, outputs.glob("squad/*"))
    }
    assert good.intermediate_values == {25: losses[0.01][0], 50: losses[0.01][1]} and good.value == losses[0.01][3]
    assert bad.intermediate_values == {25: losses[1e-5][0]} and "1e-05" not in done.stdout.split("3 trials of study")[1]

    other = command(*words, "validation_sample=5", check=None)
    assert other.returncode == 1 and "was validated with validation_sample=4 (here 5)" in other.stdout, other.stdout
    assert "3 cells, 3 failed" in other.stdout

    for run in map(Run.load, outputs.glob("squad/*")):
        lines = (run.folder / "metrics.csv").read_text().splitlines(keepends=True)
        (run.folder / "metrics.csv").write_text(lines[0])
    (outputs / "optuna.db").unlink()
    lost = command(*words, "hydra.sweeper.pruner=null", "hydra.sweeper.n_trials=1", check=None)
    assert lost.returncode == 1 and "holds no validation_loss at its last validation" in lost.stdout, lost.stdout
    assert "1 cell, 1 failed" in lost.stdout


def test_a_killed_study_goes_on_with_the_trial_that_it_was_in(tmp_path, command):
    outputs = tmp_path / "o"
    words = sweep(outputs, "hydra.sweeper.n_trials=2", "hydra.sweeper.pruner=asha", "checkpoint_every=1")
    process = subprocess.run([sys.executable, *words, *killed_at(2)], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stdout + process.stderr
    assert states(outputs) == ["RUNNING"]
    drawn = study_in(outputs).trials[0].params
    done = command(*words)
    first, *others = study_in(outputs).trials
    assert first.params == drawn and first.state.name == "COMPLETE" and len(others) == 1, done.stdout
    assert "Continuing from" in done.stdout and "2 cells, 0 failed" in done.stdout
    assert list(first.intermediate_values) == [25, 50]


def test_two_workers_run_two_trials_at_a_time_and_a_failed_one_fails_the_command(tmp_path, command):
    outputs = tmp_path / "o"
    words = [*sweep(outputs), "lora.r=2,-1", "hydra.sweeper.sampler=random", "hydra.sweeper.seed=1"]
    workers = ["hydra/launcher=gpus", "hydra.launcher.workers=2"]
    both = ["hydra.sweeper.metric=[squad/f1,validation_loss]", "validation_scores=2", "hydra.sweeper.pruner=null"]
    done = command(*words, *workers, *both, "hydra.sweeper.n_trials=4", check=None)
    trials = study_in(outputs).trials
    assert all(len(trial.values) == 2 for trial in trials if trial.state.name == "COMPLETE")
    failed = {trial.params["lora.r"] for trial in trials if trial.state.name == "FAIL"}
    assert failed == {"-1"} and {t.params["lora.r"] for t in trials if t.state.name == "COMPLETE"} == {"2"}, trials
    assert done.returncode == 1 and "lora.r=-1" in done.stdout and "4 cells" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stop_at=0.5"], "leave out stop_at="),
        (["question=best"], "question=best chooses the cells itself: leave out hydra/sweeper=optuna"),
        (["hydra.sweeper.trials=3"], "hydra.sweeper.trials"),
        (["preflight=true"], "preflight=true forecasts the cells of a grid"),
        (["validations=0"], "validations=0 makes none"),
        (["hydra.sweeper.metric=squad/f1"], "validation_scores=50"),
        (["+trainer.limit_val_batches=0"], "trainer.limit_val_batches=0 makes none"),
        (["lora.r=0"], "lora.r=0 trains nothing"),
        (["seed=0,1"], "seed=0,1: seed decides how a trial is judged"),
    ],
)
def test_what_goes_not_with_trials_is_said_before_anything_runs(words, said, tmp_path, command):
    done = command(*sweep(tmp_path / "o", *words), check=None)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.glob("o/squad/*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "optimizer.lr=interval(1e-5,1e-3)"], "let hydra/sweeper=optuna draw from it"),
        (["hydra/sweeper=optuna"], "draws the cells of a sweep: add -m"),
    ],
)
def test_half_of_what_it_takes_is_refused_with_the_other_half(words, said, tmp_path, command):
    done = command("train.py", *small(), f"outputs={tmp_path}/o", *words, check=None)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


PLUGIN = """
from dataclasses import dataclass, field
from hydra.core.config_store import ConfigStore

@dataclass
class Theirs:
    _target_: str = "hydra_plugins.theirs.Sweeper"
    defaults: list = field(default_factory=lambda: [{"sampler": "tpe"}])
    n_jobs: int = 2

ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=Theirs)
ConfigStore.instance().store(group="hydra/launcher", name="ray", node=Theirs)
"""


@pytest.mark.parametrize("name", ["sweeper=optuna", "launcher=ray"])
def test_a_released_plugin_of_the_same_name_is_not_in_the_way(name, tmp_path, command):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/theirs.py").write_text(PLUGIN)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    section = f"hydra.{name.partition('=')[0]}"
    words = ["train.py", *small(), f"hydra/{name}", "--cfg", "hydra", "-p", section]
    done = command(*words, env={"PYTHONPATH": path})
    assert "_target_: llama_exp." in done.stdout and "n_jobs" not in done.stdout, done.stdout + done.stderr


def test_a_run_that_another_command_trains_leaves_its_trial_for_the_next_command(tmp_path, command):
    outputs = tmp_path / "o"
    words = [*sweep(outputs)[:-2], f"outputs={outputs}", "lora.r=2,2", "hydra.sweeper.n_trials=1"]
    with lock_folder(Run.of(load_config(*small(validations="4"), f"outputs={outputs}")).folder):
        done = command(*words, check=None)
    assert done.returncode == os.EX_TEMPFAIL and states(outputs) == ["RUNNING"], done.stdout
    assert "1 trial of study" in command(*words).stdout and states(outputs) == ["COMPLETE"]
    assert json.loads(next(outputs.glob("squad/*/summary.json")).read_text())["status"] == "finished"
