"""What a run tells its loggers: scores with intervals, replies, files, and who it is; one run over all processes."""

import csv
import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, python, small
from tests.wandb_files import config_of, header, history, offline_files, summary

SAME = {"lora.r": "1,2", "eval_sample": "5"}


def run_command(*words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    import os

    done = subprocess.run(
        python(*words), cwd=ROOT, text=True, capture_output=True, timeout=280, env={**os.environ, **env}
    )
    assert done.returncode == 0 or not check, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """The outputs of two cells, trained, evaluated and logged by one command."""
    outputs = tmp_path_factory.mktemp("loggers") / "o"
    run_command("train.py", "-m", *small(**SAME), "logger=wandb", "evaluate=true", f"outputs={outputs}")
    return outputs


def runs_of(outputs: Path) -> list[Path]:
    return sorted(path for path in outputs.glob("squad/*") if path.is_dir())


def results_of(run: Path, evaluation: str) -> dict:
    return json.loads((run / "eval" / evaluation / "results.json").read_text())


def test_wandb_holds_every_score_with_its_interval_and_n(sweep):
    for run in runs_of(sweep):
        [file] = offline_files(run)
        found = summary(file)
        for split, evaluation in (("test", "squad-test-5"), ("validation", "squad-validation-4")):
            results = results_of(run, evaluation)
            assert found[f"{split}/items"] == results["items"]
            for name, value in results["scores"].items():
                ends = results["intervals"][name]
                shown = [found[f"{split}/{name}{end}"] for end in ("", "_low", "_high")]
                assert shown == pytest.approx([value, ends["low"], ends["high"]]), name
        with open(run / "metrics.csv", newline="", encoding="utf-8") as opened:
            losses = [float(row["validation_loss"]) for row in csv.DictReader(opened) if row["validation_loss"]]
        assert found["validation_loss.min"] == pytest.approx(min(losses), rel=1e-5)
        assert found["examples"] == 16 and found["tokens"] > 0 and found["peak_memory_bytes"] > 0


def test_the_cells_of_a_sweep_are_one_group_with_tags_and_a_config_to_filter_by(sweep):
    files = [offline_files(run)[0] for run in runs_of(sweep)]
    heads = [header(file) for file in files]
    [group] = {head.run_group for head in heads}
    assert {head.job_type for head in heads} == {"train"} and len({head.run_id for head in heads}) == 2
    for rank, file, head in zip((1, 2), files, heads, strict=True):
        assert set(head.tags) == {"squad", "tiny", f"rank:{rank}", "sample:16", f"sweep:{group}"}
        config = config_of(file)
        assert (config["lora"]["r"], config["sample"], config["seed"], config["examples"]) == (rank, 16, 0, 16)
        assert config["sweep"] == group and config["optimizer"]["lr"] == 0.004
        assert str(sweep).encode() not in file.read_bytes()


def test_a_later_evaluation_lands_in_the_same_run(sweep):
    run = runs_of(sweep)[0]
    words = [*small(**{**SAME, "lora.r": "1", "eval_sample": "3"}), f"outputs={sweep}", "logger=wandb"]
    run_command("evaluate.py", *words)
    before, after = offline_files(run)
    one, other = header(before), header(after)
    assert (one.run_id, one.run_group, one.job_type) == (other.run_id, other.run_group, other.job_type)
    assert set(one.tags) == set(other.tags) and config_of(before) == config_of(after)
    results = results_of(run, "squad-test-3")
    assert summary(after)["test/squad/f1"] == pytest.approx(results["scores"]["squad/f1"])
    assert summary(after)["test/items"] == 3
    assert not any("loss" in row for row in history(after))
