"""A dataset, a callback and a logger from outside the package, used from a folder that holds nothing else."""

import json
import os
import subprocess
import sys
from textwrap import dedent

import pytest

from llama_exp.config.compose import load_config
from llama_exp.errors import UserError
from llama_exp.runs.load import load_run

from .conftest import ROOT

FILES = {
    "my_parts.py": """
        import lightning as L
        from lightning.pytorch.loggers.logger import Logger

        from llama_exp import Example, ExampleDataModule


        class Sums(ExampleDataModule):
            columns = ("id", "question", "answer")

            def read(self, row):
                prompt, answer = self.fill(prompt=row["question"]), row["answer"]
                return [Example(row["id"], prompt, answer, (answer,), row["id"])]


        class CountSteps(L.Callback):
            def __init__(self, path):
                self.path = path

            def on_train_end(self, trainer, module):
                open(self.path, "w").write(str(trainer.global_step))


        class Lines(Logger):
            name = version = "lines"
            experiment = None

            def __init__(self, save_dir):
                super().__init__()
                self.path = f"{save_dir}/lines.txt"

            def log_hyperparams(self, *args, **kwargs):
                pass

            def log_metrics(self, metrics, step=None):
                print(step, *metrics, file=open(self.path, "a"))
        """,
    "my_conf/dataset/sums.yaml": """
        name: sums
        label: Sums to 60
        item: sum
        _target_: my_parts.Sums
        path: rows.jsonl
        """,
    "my_conf/trainer/counted.yaml": """
        defaults: [cpu]
        callbacks:
          - _target_: my_parts.CountSteps
            path: count.txt
        """,
    "my_conf/logger/lines.yaml": """
        # @package logger.lines
        _target_: my_parts.Lines
        """,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("elsewhere")
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(dedent(text).lstrip())
    rows = [{"id": f"r{n}", "question": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(60)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def typed(folder, program, *words, check=True):
    done = subprocess.run(
        [sys.executable, str(ROOT / program), "--config-dir", "my_conf", "dataset=sums", "model=tiny", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


RUN = ["sample=8", "batch=4", "lora.r=2", "trainer.max_epochs=1", "validation_sample=3"]


def test_all_three_work_in_one_command_and_the_run_is_found_again(folder):
    words = [*RUN, "eval_sample=3", "trainer=counted", "trainer.max_epochs=1", "logger=[csv,lines]"]
    typed(folder, "train.py", *words)
    [run] = [path.parent for path in folder.glob("outputs/sums/*/summary.json")]
    assert (folder / "count.txt").read_text() == "2"
    assert len((run / "lines.txt").read_text().splitlines()) >= 2 and (run / "csv/metrics.csv").is_file()
    typed(folder, "evaluate.py", "sample=8", "lora.r=2", "eval_sample=3")
    assert json.loads(next(run.glob("eval/*/results.json")).read_text())["items"] == 3
    report = subprocess.run(  # reads result files alone: no class, no --config-dir
        [sys.executable, "-m", "llama_exp", "report", "outputs"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "Sums to 60 (rows from rows.jsonl), test split, a sample of 3 sums" in report.stdout, report.stderr
    # the run's folder names the class, and loading the run imports nothing of that name
    assert "my_parts.Sums" in (run / "config.yaml").read_text()
    assert load_run(run).config.dataset._target_ is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset._target_=my_parts.Sum"], "dataset._target_=my_parts.Sum: my_parts has no Sum. Did you mean Sums?"),
        (["dataset._target_=other.Sums"], "there is no module 'other'"),
        (["dataset._target_=my_parts.Lines"], "wanted a subclass of llama_exp.ExampleDataModule"),
        (
            ["+trainer.callbacks=[{_target_: my_parts.Nothing}]"],
            "trainer.callbacks._target_=my_parts.Nothing: my_parts has no",
        ),
    ],
)
def test_an_import_path_that_is_wrong_is_one_line_and_nothing_is_written(words, said, folder):
    done = typed(folder, "train.py", *RUN, *words, "outputs=none", check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (folder / "none").exists()


def test_several_loggers_and_the_names_of_earlier_versions():
    assert load_config("logger=none").logger == load_config().logger == {}
    assert list(load_config("logger=[csv,wandb]").logger) == ["csv", "wandb"]
    assert load_config("logger=wandb", "logger.wandb.project=mine").logger["wandb"]["project"] == "mine"
    bare = {"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "p"}
    assert load_config("logger=none", *(f"+logger.{key}={value}" for key, value in bare.items())).logger == {
        "wandb": bare
    }
    with pytest.raises(UserError, match="come after its name: logger.wandb.project=mine"):
        load_config("logger=wandb", "+logger.project=mine")
