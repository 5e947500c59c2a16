"""The report reads what runs leave on disk; the folders here are written in the same formats, without any run."""

import csv
import io
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from rich.console import Console

from llama_exp.report import labels, next_command, tables, terminal
from llama_exp.report.compare import comparisons
from llama_exp.report.load import load_item_ids, load_runs
from llama_exp.sanitize import clean, spreadsheet_cell
from tests.conftest import python

ROOT = Path(__file__).parent.parent
ITEMS = 300
COLUMNS = ("step", "epoch", "tokens", "seconds", "loss", "validation_loss", "lr", "grad_norm", "tokens_per_second")


def identity(dataset="squad", model="tiny", sample=300, r=16, seed=0, data_seed=0, **more):
    if r == 0:
        return {"dataset.name": dataset, "model.name": model, "model.path": f"llama_exp/{model}", "lora.r": 0}
    return {
        "dataset.name": dataset,
        "dataset.task": "answer",
        "dataset.source": "synthetic",
        "dataset.path": None,
        "model.name": model,
        "model.path": f"llama_exp/{model}",
        "model.quantisation": "nf4_dequantised",
        "lora.r": r,
        "lora.alpha": 16,
        "lora.targets": "all",
        "optimizer.name": "adamw",
        "optimizer.lr": 0.005,
        "trainer.max_epochs": 3,
        "sample": sample,
        "seed": seed,
        "data_seed": data_seed,
        "batch": 16,
        "max_length": 512,
        **more,
    }


def folder_of(outputs, i, name=None):
    words = [i["model.name"], "r0"]
    if i["lora.r"]:
        words = [words[0], "all" if i["sample"] is None else str(i["sample"]), f"r{i['lora.r']}", f"seed{i['seed']}"]
    words += [f"data_seed{i['data_seed']}"] if i.get("data_seed") else []
    return outputs / i["dataset.name"] / (name or "-".join(words))


def write_run(
    outputs,
    name=None,
    status="finished",
    reason=None,
    f1=None,
    half=4.0,
    examples=None,
    summary=None,
    evaluation=None,
    summary_written=True,
    available=3800,
    steps=56,
    **cell,
):
    """A run folder as train.py and evaluate.py leave it. `f1=None`: not evaluated; `half=None`: no interval stored."""
    i = identity(**cell)
    home = folder_of(outputs, i, name)
    home.mkdir(parents=True)
    examples = examples or min(i.get("sample") or available, available)
    rng = random.Random(str(i))
    if i["lora.r"]:
        write_training(home, i, examples, available, status, reason, summary or {}, summary_written, rng, steps)
    if f1 is not None:
        write_evaluation(home, i, examples, f1, half, evaluation or {}, outputs)
    return home


def write_training(home, i, examples, available, status, reason, more, summary_written, rng, steps):
    nested = {}
    for key, value in i.items():
        *sections, leaf = key.split(".")
        at = nested
        for section in sections:
            at = at.setdefault(section, {})
        at[leaf] = value
    (home / "config.yaml").write_text(json.dumps({**nested, "outputs": "outputs"}))  # JSON is YAML
    with open(home / "metrics.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for step in range(1, steps + 1):
            fall = 2.2 * 0.5 ** (3 * step / steps * (0.6 + i["lora.r"] / 40)) + rng.gauss(0, 0.08)
            rows.writerow([step, step / 19, step * 900, step * 0.4, round(1.4 + fall, 4), "", 0.005, 0.9, 2200])
            if step % max(1, steps // 8) == 0:
                up = 0.5 * (step / steps) ** 2 if examples < 150 else 0
                rows.writerow([step, "", "", "", "", round(1.6 + 0.9 * fall + up, 4), "", "", ""])
    if not summary_written:
        return
    dropped = {"answer too long": 2} if examples > 200 else {}
    summary = {
        "run": f"{i['dataset.name']}/{home.name}",
        "status": status,
        "reason": reason,
        "identity": i,
        "counts": {
            "train": {
                "available": available,
                "asked": i["sample"],
                "sampled": examples,
                "encoded": examples - sum(dropped.values()),
                "dropped": dropped,
                "shortened": examples // 100,
                "answers_lost": 0,
                "tokens": examples * 160,
                "label_tokens": examples * 5,
            },
            "cleaning": {"whitespace": {"rows": 3, "characters": 17}},
        },
        "lora": {"r": i["lora.r"], "alpha": 16, "scale": 16 / i["lora.r"], "targets": "all"},
        "trainable_parameters": 21504 * i["lora.r"],
        "steps": steps,
        "epochs": 3.0,
        "tokens": examples * 480,
        "label_tokens": examples * 15,
        "tokens_per_second": 2210.5,
        "mfu": None,
        "seconds": {"import": 7.2, "load": 2.1, "data": 1.4, "train": 6 + examples / 30, "save": 0.1, "evaluate": 11},
        "peak_memory_bytes": 734003200 + 2**20 * i["lora.r"],
        "loss": {"train": 1.5, "validation": 1.9, "best_validation": 1.8},
        "device": "cpu",
        "quantisation": "nf4_dequantised",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "commit": "0123abc",
        "started": "2025-01-01T10:00:00",
        "finished": "2025-01-01T10:05:00",
        **more,
    }
    (home / "summary.json").write_text(json.dumps(summary))


def write_evaluation(home, i, examples, f1, half, more, outputs):
    rank = i["lora.r"]
    source = i.get("dataset.source", "synthetic")
    at = home / "eval" / ("squad-test-300" if rank else f"squad-test-300-source{source}")  # says what differs
    at.mkdir(parents=True)
    lines = answers(f1, random.Random(f"{i}-answers"))
    f1 = 100 * sum(line["reply"] == "yes" for line in lines) / ITEMS
    scores = {
        "squad/f1": f1,
        "squad/exact_match": f1,
        "squad/precision": f1,
        "squad/recall": f1,
        "loss": 4 - f1 / 25,
        "perplexity": 2.718 ** (4 - f1 / 25),
    }
    intervals = {}
    if half is not None:
        note = "test set only; one training seed"
        interval = {
            "estimate": f1,
            "low": max(f1 - half, 0),
            "high": f1 + half,
            "clusters": 75,
            "items": ITEMS,
            "method": "clustered t",
            "note": note,
        }
        intervals = {"squad/f1": interval, "squad/exact_match": interval}
    results = {
        "scores": scores,
        "intervals": intervals,
        "items": ITEMS,
        "groups": 75,
        "dataset": "squad",
        "trained_on": i["dataset.name"] if rank else None,
        "split": "test",
        "model": i["model.name"],
        "r": rank,
        "sample": i.get("sample"),
        "train_examples": examples if rank else None,
        "seed": i.get("seed", 0),
        "data_seed": i.get("data_seed", 0),
        "run": str(home.relative_to(outputs)),
        "identity": i,
        "seconds": 11.0,
        "tokens": 48000,
        "peak_memory_bytes": None,
        "evaluation": {
            "dataset.name": "squad",
            "dataset.source": source,
            "split": "test",
            "eval_sample": 300,
            "eval_seed": 0,
            "eval_batch": 32,
        },
        "trainable_parameters": 21504 * rank,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "commit": "0123abc",
        **more,
    }
    (at / "results.json").write_text(json.dumps(results))
    (at / "predictions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def answers(f1, rng):
    """Right or wrong, so that `f1` percent are right: hard items are hard for every run, and a group is hard
    together."""
    hard = random.Random("items")
    groups = [hard.gauss(0, 0.5) for _ in range(ITEMS // 4)]
    odds = [groups[n // 4] + hard.gauss(0, 1) + rng.gauss(0, 0.4) for n in range(ITEMS)]
    right = set(sorted(range(ITEMS), key=odds.__getitem__)[: round(ITEMS * f1 / 100)])
    return [
        {
            "id": f"q{n}",
            "prompt": "p",
            "references": ["yes"],
            "reply": "yes" if n in right else "no",
            "group": f"article {n // 4}",
        }
        for n in range(ITEMS)
    ]


def f1_of(sample, rank, noise=0.0):
    return 70 - 160 * (sample or 3800) ** -0.33 + {4: -3, 8: 0, 16: 1, 64: 1.5}[rank] + noise


def write_grid(outputs, samples=(100, 300, 1000), ranks=(8, 16), seeds=1, **cell):
    """The sweep that a reader would run: sizes x ranks x data seeds, and the untuned model."""
    for sample in samples:
        for rank in ranks:
            for seed in range(seeds):
                noise = random.Random(f"{sample}-{rank}-{seed}").gauss(0, 2.0) if seeds > 1 else 0
                write_run(outputs, sample=sample, r=rank, data_seed=seed, f1=f1_of(sample, rank, noise), **cell)
    write_run(outputs, r=0, f1=5.4, half=1.4, model=cell.get("model", "tiny"))


class Page(HTMLParser):
    """The text a reader sees, the tags, and whatever the page would fetch."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.words.append(data)


def run_report(*arguments, **environment):
    command = python("-m", "llama_exp", "report", *map(str, arguments), env=environment)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """3 sizes x 2 ranks x 3 data seeds and the untuned model; one run interrupted, one running, one not evaluated."""
    outputs = tmp_path_factory.mktemp("sweep") / "outputs"
    write_grid(outputs, seeds=3)
    write_run(outputs, sample=3000, r=8, status="interrupted", reason="stopped by the user at step 41")
    write_run(outputs, sample=3000, r=16, summary_written=False)
    write_run(outputs, sample=3000, r=64, seed=2)
    done = run_report(outputs)
    assert done.returncode == 0, done.stderr
    return outputs, done.stdout, Page(outputs / "report" / "index.html")


def test_the_answer_comes_first_with_its_interval_and_the_untuned_model(sweep):
    _, printed, page = sweep
    best = "Best: F1 55.9 (95 % CI 49.7 to 62.0), rank 16 on 1,000 examples, mean of 3 runs. "
    assert printed.startswith("Recommended: rank 16 and 1,000 examples. F1 ")
    assert best + "Untuned model: 5.3 (95 % CI 3.9 to 6.7)." in page.text
    order = ("Recommended rank 16, 1,000 examples", "Expected F1", "F1 from twice the data, 2,000 examples")  # in large
    order += ("Recommended: rank 16", "Run next", "python train.py dataset=squad", "with 100 and 55.9 ± 6.2 with 1,000")
    order += ("Best: ", "tokens")
    places = [page.text.index(text) for text in order]
    assert places == sorted(places)
    assert (
        "On the same 300 items there is no significant difference from rank 8 on 1,000 examples (54.0 ± 5.8, p = "
        in page.text
    )
    assert "It is significantly better than the other 5 cells." in page.text
    assert "300 held-out items in 75 groups" in page.text
    assert "± or a range in brackets is a 95 % confidence interval (CI) over test items and, where a cell" in page.text
    shown = "test-set (CR2) plus between-run variance and clustered t."
    assert f"Method: {shown}" in page.text  # of settings of several runs, and of the untuned model
    assert "never seen in training" not in page.text  # whether that is so, the audit says


def test_the_table_has_a_row_per_setting_and_groups_seeds(sweep):
    _, printed, page = sweep
    starts = ("untuned", "100 ", "300 ", "1,000 ")
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith(starts)]
    shown = ["untuned 0 1", "300 8 3", "1,000 8 3", "300 16 3", "1,000 16 3"]
    assert [" ".join(row[:3]) for row in rows] == shown and "questions, 5 of 7 cells" in printed
    assert rows[2][3:7] == ["54.0", "±", "5.8", "tied"] and rows[1][6] == "worse"
    assert rows[4][3:7] == ["55.9", "±", "6.2", "best"] and rows[0][3:7] == ["5.3", "±", "1.4", "worse"]
    for size, rank in ((100, 8), (300, 8), ("1,000", 8), (100, 16), (300, 16), ("1,000", 16)):
        assert f"rank {rank} on {size} examples" in page.text
    assert "172.0 k" in page.text and "708 MiB" in page.text
    assert "no significant difference: 1.9 ±" in page.text and "worse by 50.6 ±" in page.text


def test_runs_without_a_score_are_listed_with_what_to_type(sweep):
    _, printed, page = sweep
    continued = "python train.py dataset=squad model=tiny sample=3000 lora.r=8"
    assert "squad/tiny-3000-r8-seed0 (interrupted: stopped by the user at step 41)" in printed
    assert "squad/tiny-3000-r16-seed0 (no summary yet: still running, or killed)" in printed
    evaluated = "python evaluate.py dataset=squad model=tiny sample=3000 lora.r=64 dataset.source=synthetic"
    for text in (printed, page.text):
        assert continued in text and evaluated in text and "seed=2" in text
    assert "3 of 22 runs have no score in these figures" in page.text


def test_the_page_is_one_file_that_fetches_nothing(sweep):
    outputs, _, page = sweep
    home = outputs / "report"
    assert page.tags.count("svg") == 4 + 3, "scores, costs and times have a figure for a phone as well"
    assert {"script", "img", "link", "iframe", "object"}.isdisjoint(page.tags)
    links = [value for tag, name, value in page.attributes if name in ("href", "src") and not value.startswith("#")]
    assert sorted(links) == [
        "cost-SQuAD-synthetic-squad-f1.png",
        "loss-squad-tiny.png",
        "runs.csv",
        "score-SQuAD-synthetic-squad-f1.png",
        "seconds.png",
    ]
    assert all((home / link).is_file() for link in links)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 10
    assert "prefers-color-scheme: dark" in (home / "index.html").read_text()
    for png in home.glob("*.png"):
        assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5000
    assert not list(home.glob(".*"))  # written aside, then renamed


def test_at_1280_pixels_no_table_is_cut_and_a_phone_scrolls_a_table_in_its_own_box(sweep, browse):
    outputs, _, _ = sweep
    cut = "tables => tables.map(t => t.scrollWidth - t.parentElement.clientWidth).filter(over => over > 0)"
    for width in (1280, 390):
        page = browse((outputs / "report" / "index.html").as_uri(), viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert (page.locator("table").evaluate_all(cut) == []) == (width == 1280)


def test_a_long_name_of_a_run_stands_on_one_line_and_groups_of_one_item_are_not_said(tmp_path, browse):
    name = "tiny-300-r16-seed0-dataset_pathguanaco_llama2_1k_635ebc-max_epochs3"
    write_run(tmp_path, name=name, f1=50.0, evaluation={"groups": ITEMS})
    run_report(tmp_path)
    page = browse((tmp_path / "report" / "index.html").as_uri(), viewport={"width": 1280, "height": 800})
    page.get_by_text("The runs of each cell").click()
    cell = page.locator("details td.run").get_by_text(f"squad/{name}")
    height, line = cell.evaluate("td => [td.clientHeight, parseFloat(getComputedStyle(td).lineHeight)]")
    assert height < 2 * line
    assert "300 held-out items." in page.locator("main").inner_text()


def test_every_run_and_metric_is_in_the_csv(sweep):
    outputs, _, _ = sweep
    with open(outputs / "report" / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 22
    one = next(row for row in rows if row["run"] == "squad/tiny-300-r8-seed0-data_seed2")
    assert float(one["squad/f1_low"]) == pytest.approx(float(one["squad/f1"]) - 4)
    assert one["rank"] == "8" and one["trainable_parameters"] == "172032" and one["config.optimizer.lr"] == "0.005"
    assert next(row for row in rows if row["status"] == "interrupted")["reason"] == "stopped by the user at step 41"


def test_the_report_never_imports_torch_and_reads_runs_before_numpy_is_needed(sweep):
    outputs, _, _ = sweep
    code = f"""
import sys
from llama_exp.cli.commands import report
from llama_exp.report import compare, load
from llama_exp.report.command import ReportOptions
runs, _ = load.load_runs({str(outputs)!r})
compare.comparisons(runs)
print("early", [m for m in ("matplotlib", "scipy", "numpy", "statsmodels") if m in sys.modules])
report(ReportOptions({str(outputs)!r}))
print("heavy", [m for m in ("torch", "lightning", "transformers", "datasets", "pandas") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "heavy []" in done.stdout and "early []" in done.stdout


def test_no_runs_is_a_message_with_what_to_type_and_exit_code_2(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        done = run_report(folder)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"No runs in {folder}")
        assert "python train.py experiment=quickstart" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_without_room_leaves_columns_out_and_never_cuts_a_number(tmp_path):
    write_run(tmp_path, f1=50.0)
    write_run(tmp_path, r=0, f1=5.0)
    compared = comparisons(load_runs(tmp_path)[0])
    wanted = ["F1", "exact match", "precision", "recall", "loss", "trainable", "tokens", "training", "memory"]
    for width, kept in ((200, 9), (110, 7), (60, 2)):
        console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
        terminal.print_tables(console, compared)
        lines = console.file.getvalue().splitlines()
        head = next(line for line in lines if line.startswith("examples"))
        assert "…" not in "".join(lines[:5])
        shown = [name for name in wanted if re.search(rf"\b{name}\b", head)]
        assert len(shown) == kept and shown[0] == "F1"
        assert max(map(len, lines[lines.index(head) :])) <= width


def test_an_unknown_metric_names_the_known_ones(tmp_path):
    write_run(tmp_path, f1=50.0)
    done = run_report(tmp_path, "metric=rogue")
    assert done.returncode == 2
    assert "No evaluation has the metric rogue. Known: loss, perplexity, squad/exact_match" in done.stderr
    assert "One cell so far: exact match 50.0" in run_report(tmp_path, "metric=squad/exact_match").stdout


def test_one_run_alone_and_the_untuned_model_alone_have_a_page(tmp_path):
    write_run(tmp_path / "one", f1=57.1)
    write_run(tmp_path / "untuned", r=0, f1=0.4, half=0.3)
    one, untuned = run_report(tmp_path / "one"), run_report(tmp_path / "untuned")
    assert "One cell so far: F1 57.0 (95 % CI" in one.stdout
    for alone in (one, untuned):
        assert "best" not in alone.stdout.lower(), "there is nothing to be the best of"
    assert (
        "57.0 (95 % CI 53.0 to 61.0), rank 16 on 300 examples. The untuned model has not been evaluated." in one.stdout
    )
    assert "Untuned model: F1 0.33 (95 % CI 0.03 to 0.63). No fine-tuned model has been evaluated" in untuned.stdout
    page = Page(tmp_path / "one" / "report" / "index.html")
    assert (
        "Its interval covers the test items only, because there is one run: another training seed could change the "
        "score" in page.text
    )
    assert (
        "To add it: python evaluate.py dataset=squad model=tiny lora.r=0 dataset.source=synthetic eval_sample=300"
        in page.text
    )
    assert "svg" in Page(tmp_path / "untuned" / "report" / "index.html").tags


def test_without_intervals_and_items_the_page_says_so(tmp_path):
    write_run(tmp_path, f1=50.0, half=None)
    write_run(tmp_path, sample=100, f1=40.0, half=None)
    for predictions in tmp_path.rglob("predictions.jsonl"):
        predictions.unlink()
    run_report(tmp_path)
    text = Page(tmp_path / "report" / "index.html").text
    assert "No interval is stored with these scores, so small differences may be chance." in text
    assert "Not compared item by item: predictions.jsonl is not there." in text
    assert "No intervals are stored." in text


def test_broken_and_foreign_files_are_named_with_the_reason_and_stop_nothing(tmp_path):
    write_run(tmp_path, f1=50.0)
    half = write_run(tmp_path, sample=100, f1=40.0)
    results = half / "eval" / "squad-test-300" / "results.json"
    results.write_text(results.read_text()[:100])
    foreign = {"a": "[1, 2]", "b": '{"accuracy": 1}', "c": "", "d": '{"scores": {"f1": "high"}}', "e": "[" * 100_000}
    for name, text in foreign.items():
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "results.json").write_text(text)
    (tmp_path / "other" / "config.yaml").write_text("port: 80")
    (tmp_path / "other" / "a" / "config.yaml").write_text("a: [")
    lone = write_run(tmp_path, sample=1000)
    (lone / "metrics.csv").write_text("epoch\n1\n")
    done = run_report(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Not read: {results} (not whole JSON, line 1:" in done.stdout
    for reason in (
        "wanted an object, got list",
        'no "scores"',
        "the file is empty",
        "not a number: f1 = high",
        "nested too deeply",
        "wanted the columns step, loss and validation_loss",
    ):
        assert reason in done.stdout, reason
    assert "One cell so far: F1 50.0" in done.stdout
    assert "squad/tiny-100-r16-seed0 (finished, not evaluated)" in done.stdout


def test_of_equal_scores_the_untuned_model_is_best_and_a_better_loss_is_said(tmp_path):
    write_run(tmp_path, f1=0.0, half=0.0)
    write_run(tmp_path, r=0, f1=0.0, half=0.0)
    tuned = tmp_path / "squad" / "tiny-300-r16-seed0" / "eval" / "squad-test-300" / "results.json"
    tuned.write_text(tuned.read_text().replace('"loss": 4.0', '"loss": 2.5'))
    printed = run_report(tmp_path).stdout
    text = Page(tmp_path / "report" / "index.html").text
    assert printed.startswith("The untuned model is best: F1 0.0.")
    assert "Best: the untuned model, F1 0.0 ± 0. No fine-tuned model is better." in text
    assert "The loss did improve: 4.000 untuned, 2.500 with rank 16 on 300 examples." in text


def test_a_score_that_is_undefined_is_left_out_and_never_averaged(tmp_path):
    write_run(tmp_path, f1=50.0)
    at = next(tmp_path.rglob("results.json"))
    at.write_text(at.read_text().replace('"squad/recall": 50.0', '"squad/recall": NaN'))
    (run,), unread = load_runs(tmp_path)
    assert unread == [] and run.evaluations[0].undefined == ("squad/recall",)
    assert "squad/recall" not in run.evaluations[0].scores


def test_a_score_from_outside_is_printed_with_the_decimals_that_it_declares(tmp_path):
    for name, decimals in (("mine/error", 3), ("mine/words", 0)):
        scores = {"scores": {name: 0.1254}, "declared": {name: {"name": name, "decimals": decimals}}}
        write_run(tmp_path / name, f1=50.0, evaluation={**scores, "intervals": {}})
    assert "mine/error 0.125" in run_report(tmp_path / "mine/error").stdout
    assert "mine/words 0" in run_report(tmp_path / "mine/words").stdout


def test_a_run_whose_score_is_undefined_is_named_and_counts_in_no_mean(tmp_path):
    for seed, f1 in enumerate((40.0, 50.0, 60.0)):
        write_run(tmp_path, f1=f1, seed=seed)
    at = next(tmp_path.rglob("*seed2*/eval/*/results.json"))
    stored = json.loads(at.read_text())
    stored["scores"]["squad/f1"] = float("nan")
    at.write_text(json.dumps(stored))
    printed = run_report(tmp_path).stdout
    assert (
        "F1 is undefined, or was not computed, in 1 of 3 runs, which count in no mean here: "
        "squad/tiny-300-r16-seed2." in Page(tmp_path / "report" / "index.html").text
    )
    assert "mean of 2 runs." in printed


def test_keys_that_decide_nothing_in_a_run_are_no_difference_to_it(tmp_path):
    """Where validation stops nothing, a run's identity is without the keys of validation."""
    stopping = {"validations": 8, "validation_sample": 200, "eval_seed": 0}
    write_run(tmp_path, r=4, f1=50.0, **{"early_stopping.patience": 2}, **stopping)
    write_run(tmp_path, r=16, f1=55.0)
    (c,) = comparisons(load_runs(tmp_path)[0])
    (panel,) = c.panels
    assert panel.keys == {} and panel.follows_rank == {"early_stopping.patience": {4: 2, 16: None}}
    write_run(tmp_path, r=8, f1=52.0, **{"early_stopping.patience": 2}, **stopping | {"eval_seed": 3})
    (c,) = comparisons(load_runs(tmp_path)[0])
    assert "eval_seed" in c.panels[0].follows_rank, "two that stop differ in it"


def test_different_models_data_and_training_keys_never_share_a_line(tmp_path):
    for r in (8, 16):
        for sample in (100, 1000):
            for warmup in (0.0, 0.1):
                more = {"optimizer.warmup": warmup, "lora.alpha": 2 * r}
                name = f"tiny-{sample}-r{r}-warmup{warmup}"
                write_run(tmp_path, sample=sample, r=r, name=name, f1=f1_of(sample, r), **more)
    write_run(tmp_path, sample=100, f1=44.0, model="other")
    write_run(tmp_path, sample=100, f1=20.0, dataset="guanaco")
    write_run(tmp_path, sample=100, f1=44.0, name="hub", **{"dataset.source": "hub"})
    write_run(tmp_path, r=0, f1=5.0)
    squad, squad_hub, transfer = comparisons(load_runs(tmp_path)[0])  # the largest first
    assert squad.keys == {"dataset.source": "synthetic"} and squad_hub.keys == {"dataset.source": "hub"}
    assert (transfer.trained_on, transfer.dataset) == ("guanaco", "squad")
    named = [(p.model, p.keys, len(p.cells)) for p in squad.panels]
    assert named == [("other", {}, 1), ("tiny", {"optimizer.warmup": 0.0}, 4), ("tiny", {"optimizer.warmup": 0.1}, 4)]
    assert squad.panels[1].follows_rank == {"lora.alpha": {8: 16, 16: 32}}
    done = run_report(tmp_path)
    assert done.returncode == 0
    text = Page(tmp_path / "report" / "index.html").text
    assert "lora.alpha differs between the lines: 16 at rank 8 and 32 at rank 16." in text
    assert "SQuAD after training on Guanaco" in text


def test_titles_say_in_one_way_how_many_items_were_asked(tmp_path):
    for name, asked in (("some", 300), ("every", None), ("other", 300)):
        evaluation = {
            "dataset.name": "squad",
            "dataset.source": "synthetic",
            "split": "test",
            "eval_sample": asked,
            "eval_seed": 1 if name == "other" else 0,
        }
        home = write_run(tmp_path, name=name, f1=50.0, sample=len(name) * 100, evaluation={"evaluation": evaluation})
        if asked is None:
            path = next(home.rglob("results.json"))
            path.write_text(path.read_text().replace('"items": 300', '"items": 400'))
    found = [f"{labels.title(c)}, {labels.split_of(c)}" for c in comparisons(load_runs(tmp_path)[0])]
    assert sorted(found) == [
        "SQuAD (synthetic), test split, all 400 questions",
        "SQuAD (synthetic, eval_seed 0), test split, a sample of 300 questions",
        "SQuAD (synthetic, eval_seed 1), test split, a sample of 300 questions",
    ]


def test_the_untuned_model_is_drawn_only_beside_the_items_that_it_answered(tmp_path):
    for source in ("synthetic", "hub"):
        write_run(tmp_path, f1=50.0, name=f"tuned-{source}", **{"dataset.source": source})
    untuned = write_run(tmp_path, r=0, f1=5.0)  # synthetic
    by_source = {c.keys["dataset.source"]: c for c in comparisons(load_runs(tmp_path)[0])}
    assert by_source["synthetic"].panels[0].baseline.mean("squad/f1") == 5.0
    assert by_source["hub"].panels[0].baseline is None
    predictions = next(untuned.rglob("predictions.jsonl"))
    predictions.write_text(predictions.read_text().replace('"id": "q', '"id": "other'))
    baselines = [p.baseline for c in comparisons(load_runs(tmp_path)[0]) for p in c.panels if p.cells]
    assert baselines == [None, None]


def test_sizes_that_much_was_dropped_of_are_said_by_the_figure_in_the_headline_and_in_the_tables(tmp_path):
    counts = {"available": 3800, "dropped_response_too_long": 60}
    for sample, encoded in ((100, 40), (1000, 960)):  # 60 and 4 %
        summary = {"counts": {"train": {**counts, "sampled": sample, "encoded": encoded}}}
        write_run(tmp_path, sample=sample, f1=60 - sample / 100, summary=summary)
    printed = run_report(tmp_path).stdout
    said = "Fewer examples reached training: 40 of 100. The responses of the others are empty or do not fit"
    page = Page(tmp_path / "report" / "index.html").text
    assert "rank 16 on 100 examples (40 of them reached training)." in page
    assert page.count(said) == 2, "in the answer and by the figure"
    rows = [line.split()[:3] for line in printed.splitlines() if line.lstrip().startswith(("100 ", "1,000 "))]
    assert rows == [["100", "40", "16"], ["1,000", "960", "16"]]
    assert "training examples sampled, up to 60 % of them dropped" in (tmp_path / "report" / "index.html").read_text()


HOSTILE = "</td><script>alert(1)</script>$x_1^2$ \x1b[31m\x07\u202eevil\ud800"


def evaluated_again(home, name, f1=None, **changed):
    """Another evaluation of the same run: `changed` are its keys, which its folder's name says."""
    first, *_ = sorted((home / "eval").iterdir())
    shutil.copytree(first, home / "eval" / name)
    results = json.loads((first / "results.json").read_text())
    results["evaluation"] |= changed
    results["scores"]["squad/f1"] = results["scores"]["squad/f1"] if f1 is None else f1
    (home / "eval" / name / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset.max_new_tokens": 4},
        {"dataset.hub": "another/copy"},
        {"dataset.validation": 0.2},
        {"dataset.cleaning.urls": True},
        {},  # a folder that somebody copied
    ],
)
def test_two_evaluations_of_one_run_are_never_averaged(changed, tmp_path):
    usual = {"dataset.max_new_tokens": 32, "dataset.hub": "rajpurkar/squad", "dataset.validation": 0.05}
    for seed in (0, 1):
        evaluated_again(write_run(tmp_path, sample=100, f1=60, seed=seed), "squad-test-300-first", **usual)
        home = folder_of(tmp_path, identity(sample=100, seed=seed))
        shutil.rmtree(home / "eval" / "squad-test-300")
        (home / "eval" / "squad-test-300-first").rename(home / "eval" / "squad-test-300")
        evaluated_again(home, "squad-test-300-other", f1=20, **changed)
    settings = [s for c in comparisons(load_runs(tmp_path)[0]) for _, s in c.cells()]
    assert sorted(round(s.mean("squad/f1")) for s in settings) == [20, 60]
    for setting in settings:
        assert len({s.run.folder for s in setting.runs}) == len(setting.runs) == setting.seeds("squad/f1") == 2


def test_the_untuned_model_beside_a_run_was_asked_with_its_row_length(tmp_path):
    home = write_run(tmp_path, r=0, f1=5)
    evaluated_again(home, "squad-test-300-a", f1=3, max_length=128)
    evaluated_again(home, "squad-test-300-b", f1=9, max_length=512)
    shutil.rmtree(home / "eval" / "squad-test-300-sourcesynthetic")
    for length in (128, 512, 256):
        home = write_run(tmp_path, f"length{length}", f1=60, max_length=length)
        evaluated_again(home, "new", max_length=length)
        shutil.rmtree(home / "eval" / "squad-test-300")
    [comparison] = comparisons(load_runs(tmp_path)[0])
    beside = {p.keys["max_length"]: p.baseline and p.baseline.mean("squad/f1") for p in comparison.panels if p.cells}
    assert beside == {128: 3, 512: 9, 256: None}
    assert sorted(s.mean("squad/f1") for _, s in comparison.cells() if s.rank == 0) == [3, 9]


def test_strings_from_data_and_models_do_no_harm_in_terminal_page_or_spreadsheet(tmp_path):
    i = {"lora.targets": HOSTILE, "optimizer.name": "=cmd|'/c calc'!A1"}
    write_run(tmp_path, f1=30.0, model="$m_a^x<script>alert(2)</script>", name="=1+1", summary={"commit": HOSTILE}, **i)
    write_run(tmp_path, sample=100, f1=20.0, model="[red]tiny[/red]", evaluation={"split": HOSTILE})
    write_run(tmp_path, sample=100, r=8, status="failed", reason="@SUM(1) " + HOSTILE)
    done = run_report(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout and "\u202e" not in done.stdout
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert "script" not in Page(tmp_path / "report" / "index.html").tags
    with open(tmp_path / "report" / "runs.csv", newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=cmd|'/c calc'!A1" in cells and any(cell.startswith("'@SUM(1)") for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


STORED = {"=1": "'=1", "+1": "'+1", "-a": "'-a", "@a": "'@a", "＝1": "'＝1", " =1": "' =1", "a=1": "a=1", -1.5: -1.5}
BLANKS = "\u00a0 \u200b \ufeff \u2007 \u3000 \u200d \u2060 \u00ad \u180e \u034f \ufe0f \u3164 \u2800 \u202e".split(" ")
STORED |= {"\u00a0=1": "'\u00a0=1", "\u200b=1": "'=1", "\ufeff@a": "'@a", "\t+1": "' +1", "﹢1": "'﹢1", "−a": "'−a"}


@pytest.mark.parametrize("value, stored", STORED.items())
def test_a_string_that_would_start_a_formula_gets_an_apostrophe(value, stored):
    assert spreadsheet_cell(value) == stored


@pytest.mark.parametrize("start", "=+-@")
def test_no_blank_hides_the_start_of_a_formula(start):
    for blank in [*BLANKS, "\t", "\r\n", "\x00", "".join(BLANKS)]:
        cell = spreadsheet_cell(f"{blank}{start}cmd|'/c calc'!A1")
        assert cell.startswith("'"), (blank, cell)


def test_clean_removes_control_characters_and_keeps_the_rest():
    assert clean("a\x00b\x1b[0m\u202e\ud800é\n中\u200d") == "ab[0mé 中\u200d"
    assert len(clean("x" * 10_000)) == 400


def test_ids_are_read_from_whole_lines_only(tmp_path):
    write_run(tmp_path, f1=1.0)
    (run,), _ = load_runs(tmp_path)
    assert load_item_ids(run.evaluations[0]) == {f"q{n}" for n in range(ITEMS)}


def composed(words):
    """The config that a printed command means, read by a shell and by Hydra."""
    from hydra import compose, initialize_config_dir

    from llama_exp.config.compose import CONF, register, resolve

    typed = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True).stdout
    program, *overrides = typed.split("\0")[1:-1]
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return program, resolve(compose("config", overrides))


ODD = [
    ("model=tiny", "trainer.max_epochs=2", "dataset.path=data/squad", "eval_sample=50", "sample=60", "seed=3"),
    ("model=tiny", "lora=attention", "lora.r=2", "optimizer.lr=5e-5", "optimizer.betas=[0.8,0.9]", "max_tokens=4000"),
    ("model=tiny", "dataset=guanaco", "max_length=200", "+dataset.cleaning.urls=true", "trainer=cpu", "evaluate=true"),
    ("experiment=quickstart", "sample=30", "data_seed=1", "+trainer.gradient_clip_algorithm=value"),
    ("model=llama2_7b", "dataset=medical", "model.revision='1e5'", "early_stopping=2", "lora.scaling=constant"),
]


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("status", ["interrupted", "finished"])
def test_a_printed_command_means_that_very_cell(words, status, tmp_path, monkeypatch):
    from llama_exp.config.identity import flat, identity
    from llama_exp.runs.files import write_json
    from llama_exp.runs.run import Run

    monkeypatch.chdir(tmp_path)
    _, config = composed(" ".join(["python", "train.py", *map(shlex.quote, words)]))
    config.outputs = "my results"
    config.dataset.template = "It's\n\tone: {context}\\'s \u202e${question} {message}"
    folder = Run.of(config).folder
    Run(config, folder).write_config()
    write_json(folder / "summary.json", {"status": status, "identity": identity(config)})
    done = run_report(Path("my results").absolute(), PYTHONPATH=str(ROOT))
    assert "\u202e" not in done.stdout and "\t" not in done.stdout
    (typed,) = (line.strip() for line in done.stdout.splitlines() if line.strip().startswith("python "))
    program, meant = composed(typed)
    assert identity(meant) == identity(config)
    assert Run.of(meant).folder == folder.absolute()
    if status == "finished":
        assert program == "evaluate.py" and meant.eval_sample == config.eval_sample
    else:
        here = {"outputs", "out"}
        assert program == "train.py"
        assert {k: v for k, v in flat(meant).items() if k not in here} == {
            k: v for k, v in flat(config).items() if k not in here
        }


def test_a_run_in_a_folder_of_its_own_is_named_by_it(tmp_path):
    write_run(tmp_path, name="../mine/here", seed=3)
    (run,), _ = load_runs(tmp_path / "mine")
    assert f"out={tmp_path}/mine/here" in next_command.next_command(run, tmp_path / "mine", [])


def test_what_is_not_evaluated_yet_is_evaluated_like_the_others_and_the_untuned_model_too(tmp_path):
    write_run(tmp_path, f1=50.0)
    write_run(tmp_path, sample=1000)
    assert run_report(tmp_path).returncode == 0
    page = Page(tmp_path / "report" / "index.html").text
    found = re.findall(r"python evaluate.py (?!out=).*? outputs=\S+", page)  # not the recommended run's
    assert len(found) == 2
    for _, meant in map(composed, found):
        assert (meant.eval_sample, meant.eval_seed, meant.dataset.source.value) == (300, 0, "synthetic")
        assert meant.outputs == str(tmp_path)


def test_a_read_only_folder_is_a_message(tmp_path):
    write_run(tmp_path, f1=50.0)
    (tmp_path / "report").write_text("a file where the folder should be")
    done = run_report(tmp_path)
    assert done.returncode == 2 and "Cannot write the report to" in done.stderr and "Traceback" not in done.stderr


def test_two_hundred_runs_are_one_page(tmp_path):
    write_grid(tmp_path, samples=(50, 100, 200, 400, 800, 1600, 3200, None), ranks=(4, 8, 16, 64), seeds=6)
    done = run_report(tmp_path)
    assert done.returncode == 0, done.stderr
    page = Page(tmp_path / "report" / "index.html")
    assert "all 3,800 examples" in page.text
    assert page.tags.count("svg") == 4 + 3 and page.tags.count("tr") > 33
    assert (tmp_path / "report" / "index.html").stat().st_size < 3_000_000


def test_pictures_of_an_earlier_report_do_not_stay(tmp_path):
    write_run(tmp_path, f1=50.0)
    home = tmp_path / "report"
    home.mkdir()
    (home / "score-old.png").write_bytes(b"")
    (home / "mine.png").write_bytes(b"")
    assert run_report(tmp_path).returncode == 0
    assert not (home / "score-old.png").exists() and (home / "mine.png").exists()


def write_encoder(home: Path, model: str, layer: int = 6, rescaled: bool = False, f1: float = 50.0) -> None:
    """Add a BERTScore with its facts to a run's evaluation, as evaluate.py stores them."""
    [path] = home.glob("eval/*/results.json")
    results = json.loads(path.read_text())
    results["scores"]["bertscore/f1"] = f1
    results["facts"] = {
        "bertscore": {"model": model, "layer": layer, "rescaled": rescaled, "language": "en", "replies_cut": layer}
    }
    path.write_text(json.dumps(results))


def test_scores_of_two_encoders_are_never_compared_and_the_page_says_why(tmp_path):
    alike = [write_run(tmp_path, sample=sample, f1=50.0) for sample in (100, 300)]
    others = [write_run(tmp_path, sample=sample, r=8, f1=50.0) for sample in (100, 300, 1000)]
    for home in alike:
        write_encoder(home, "roberta-large", 17, True)
    for home, facts in zip(
        others, (("minilm",), ("roberta-large", 16, True), ("roberta-large", 17, False)), strict=True
    ):
        write_encoder(home, *facts, f1=90.0)
    untuned = write_run(tmp_path, r=0, f1=5.0)
    write_encoder(untuned, "minilm", f1=10.0)
    found = comparisons(load_runs(tmp_path)[0], "bertscore/f1")
    assert sorted(len(c.panels[0].cells) for c in found) == [1, 1, 1, 2]
    [with_untuned] = [c for c in found if c.panels[0].baseline]
    assert with_untuned.panels[0].cells[0].runs[0].run.folder == others[0]
    done = run_report(tmp_path, "metric=bertscore/f1")
    assert done.returncode == 0 and "BERTScore's model minilm" in done.stdout
    text = Page(tmp_path / "report" / "index.html").text
    assert "BERTScore's layer 16" in text and "BERTScore's rescaled False" in text
    assert (
        "Other BERTScore results of this dataset were computed with other settings and cannot be compared with these."
        in text
    )
    assert "The untuned model has not been evaluated with this BERTScore." in text


def test_one_encoder_alone_sets_nothing_apart_and_is_named_beside_its_scores(tmp_path):
    for sample in (100, 300):
        write_encoder(write_run(tmp_path, sample=sample, f1=50.0), "minilm", f1=sample / 10)
    run_report(tmp_path, "metric=bertscore/f1")
    text = Page(tmp_path / "report" / "index.html").text
    assert "cannot be compared" not in text and "BERTScore's model" not in text
    named = "BERTScore settings: minilm, layer 6, not rescaled."
    assert text.count(named) == 2, "in the answer and by the table"
    with open(tmp_path / "report" / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["bertscore.model"] for row in rows} == {"minilm"} and {row["bertscore.layer"] for row in rows} == {"6"}
    assert {row["bertscore.rescaled"] for row in rows} == {"False"}


def test_a_bertscore_whose_encoder_is_not_recorded_is_compared_with_none(tmp_path):
    write_encoder(write_run(tmp_path, f1=50.0), "minilm")
    untuned = write_run(tmp_path, r=0, f1=5.0)
    write_encoder(untuned, "minilm")
    [path] = untuned.glob("eval/*/results.json")
    for facts, beside in ((json.loads(path.read_text())["facts"], True), ({}, False)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": facts}))
        baselines = [p.baseline for c in comparisons(load_runs(tmp_path)[0]) for p in c.panels if p.cells]
        assert [bool(b) for b in baselines] == [beside]


def test_of_how_many_items_the_loss_is_and_how_many_replies_are_empty_is_said(tmp_path):
    write_run(tmp_path, f1=0.0, evaluation={"unmeasured": 105, "empty_replies": 300})
    write_run(tmp_path, r=0, f1=5.0, half=1.4, evaluation={"unmeasured": 105, "empty_replies": 15})
    run_report(tmp_path)
    text = Page(tmp_path / "report" / "index.html").text
    assert "loss (195 items)" in text and "perplexity (195 items)" in text
    said = (
        "Loss and perplexity are of 195 of these items: "
        "the responses of the others are empty or do not fit in max_length."
    )
    assert said in text
    assert "Empty replies: 300 of 300 with rank 16 on 300 examples." in text, "5 % are not worth a line"
    with open(tmp_path / "report" / "runs.csv", newline="", encoding="utf-8") as file:
        assert [(row["items"], row["loss_items"]) for row in csv.DictReader(file)] == [("300", "195")] * 2


def test_what_people_prefer_is_on_the_page_and_a_broken_study_stops_nothing(tmp_path):
    from llama_exp.human.store import RatingStore
    from llama_exp.records import Rating
    from tests.test_human_study import evaluation, make, predictions

    outputs = tmp_path / "outputs"
    write_run(outputs, f1=50.0)
    assert run_report(outputs).returncode == 0
    assert "What people prefer" not in Page(outputs / "report" / "index.html").text
    tuned, plain = (
        evaluation(tmp_path / n, predictions(24, wording)) for n, wording in (("a", "{year}"), ("b", "no {n}"))
    )
    name = "first #1 <script>alert(1)</script>".replace("/", "-")
    folder, study = make(
        {
            "study": str(outputs / "human" / name),
            "tuned": str(tuned),
            "plain": str(plain),
            "items": "16",
            "raters": "2",
            "repeats": "0",
            "controls": "0",
        }
    )
    for rater, queue in enumerate(study.queues, 1):
        for place, trial in enumerate(queue, 1):
            verdict = "left" if trial.left == "tuned" else "right"
            RatingStore(folder).save(rater, place, Rating(str(rater), str(place), verdict), complete=True)
    (outputs / "human" / "broken").mkdir()
    (outputs / "human" / "broken" / "study.json").write_text("{")
    done = run_report(outputs)
    assert done.returncode == 0, done.stderr
    assert f"People, in the study {name}: tuned is preferred to plain with a win rate of 100 %" in done.stdout
    assert "Not read: " in done.stdout and "broken/study.json: not a study" in done.stdout
    page = Page(outputs / "report" / "index.html")
    assert "tuned is preferred to plain with a win rate of 100 %" in page.text and "What people prefer" in page.text
    assert "script" not in page.tags
    [link] = [value for tag, key, value in page.attributes if tag == "a" and "human" in value]
    assert (outputs / "report" / unquote(link)).resolve() == (folder / "report" / "index.html").resolve()


def test_real_evaluations_are_compared_item_by_item_on_bertscore_and_rouge(speaker, command):
    words, outputs = speaker
    words = [*words, "eval_sample=12", "bertscore.model=minilm"]
    command("evaluate.py", "-m", *words, "lora.r=0,2")
    paths = [next(outputs.glob(f"tweetsumm/{name}/eval/*12*/scores.jsonl")) for name in ("tiny-16-r2*", "tiny-r0*")]
    tuned, untuned = ([json.loads(line) for line in path.read_text().splitlines()] for path in paths)
    assert len(tuned) == len(untuned) == 12
    for metric in ("bertscore/f1", "rouge/rougeL"):
        command("llama-exp", "report", str(outputs), f"metric={metric}")
        gap = sum(a[metric] - b[metric] for a, b in zip(tuned, untuned, strict=True)) / 12
        text = Page(outputs / "report" / "index.html").text
        assert "Not compared item by item" not in text
        assert "n the same 12 items" in text and "the untuned model" in text
        shown = re.search(r"(?:worse by|no significant difference:) ([\d.]+)", text).group(1)
        assert float(shown) == round(abs(gap), len(shown.partition(".")[2]))


@pytest.mark.parametrize(
    ("scores", "shown"),
    [
        ("squad/f1 squad/exact_match length/words loss perplexity", "squad/f1 squad/exact_match length/words loss"),
        ("rouge/1 rouge/2 rouge/L bertscore/f1 bertscore/recall loss", "rouge/1 rouge/2 bertscore/f1 loss"),
        ("squad/f1 squad/exact_match squad/recall loss", "squad/f1 squad/exact_match squad/recall loss"),
    ],
)
def test_a_narrow_table_shows_the_first_score_of_every_metric(scores, shown):
    metrics = tuple(scores.split())
    assert tables._shown_metrics(SimpleNamespace(metric=metrics[0], metrics=metrics), wide=False) == shown.split()
