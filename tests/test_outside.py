"""A dataset, a callback and a logger from outside the package, used from a folder that holds nothing else."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from llama_exp.config.compose import load_config
from llama_exp.errors import UserError
from llama_exp.runs.load import load_run

from .conftest import ROOT

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8").split("## Arguments of the Trainer")[0]
TRAIN, EVALUATE = (shlex.split(line)[1:] for line in re.findall(r"^llama-exp .*", PAGE, re.M))


def files_of_the_page():
    """{name: text}: a block of code is the file that a comment names, else a part of my_parts.py."""
    files = {}
    for text in re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.S):
        named = re.search(r"^# (my_\w+[.\w/]+)", text, re.M)
        name = named[1] if named else "my_parts.py"
        files[name] = files.get(name, "") + text
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("elsewhere")
    for name, text in files_of_the_page().items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    rows = [{"id": f"r{n}", "question": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(60)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home


def typed(folder, *words, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "llama_exp", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


RUN = ["sample=8", "batch=4", "lora.r=2", "trainer.max_epochs=1", "validation_sample=3"]


@pytest.mark.parametrize(
    ("part", "block"), [("dataset", 0), ("dataset", 1), ("metric", 0), ("callback", 0), ("callback", 1)]
)
def test_the_page_counts_the_lines_that_it_shows(part, block):
    heading, text = re.search(rf"^## A {part}: (.*?)\n(.*?)^## ", PAGE, re.M | re.S).groups()
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.S)
    lines = [line for line in blocks[block].splitlines() if line and not line.startswith("#")]
    assert len(lines) == int(re.findall(r"\d+", heading)[block])


def test_all_three_work_in_one_command_and_the_run_is_found_again(folder):
    done = typed(folder, *TRAIN, *RUN)
    [run] = [path.parent for path in folder.glob("outputs/sums/*/summary.json")]
    assert "2" in done.stdout.splitlines()
    assert len((run / "lines.txt").read_text().splitlines()) >= 2 and (run / "csv/metrics.csv").is_file()
    typed(folder, *EVALUATE, "sample=8", "lora.r=2", "eval_sample=3", "dataset.metrics=[squad,my_parts.word_count]")
    results = json.loads(next(run.glob("eval/*/results.json")).read_text())
    assert results["items"] == 3 and "length/words" in results["scores"]
    missing = typed(folder, *EVALUATE, "sample=9", check=False).stderr
    assert "Train it first: llama-exp train --config-dir my_conf dataset=sums" in missing, missing
    shutil.rmtree(run / "eval")
    unscored = typed(folder, "report", "outputs").stdout
    assert "llama-exp evaluate --config-dir DIR dataset=sums model=tiny sample=8" in " ".join(unscored.split())
    typed(folder, *EVALUATE, "sample=8", "lora.r=2", "eval_sample=3")
    report = typed(folder, "report", "outputs")  # reads result files alone: no class, no --config-dir
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
    done = typed(folder, *TRAIN, *RUN, *words, "outputs=none", check=False)
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
