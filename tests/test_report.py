"""The report reads what runs leave on disk; the folders here are written in the same formats, without any run."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llama_exp import report as reporting
from llama_exp.results import clean, collect, item_ids
from llama_exp.settings import comparisons

ROOT = Path(__file__).parent.parent


def identity(dataset="squad", model="tiny", sample=300, r=16, seed=0, data_seed=0, **more):
    if r == 0:
        return {"dataset.name": dataset, "model.name": model, "model.path": f"llama_exp/{model}", "lora.r": 0}
    return {
        "dataset.name": dataset, "dataset.task": "answer", "dataset.source": "synthetic", "dataset.path": None,
        "model.name": model, "model.path": f"llama_exp/{model}", "model.quantisation": "nf4_dequantised",
        "lora.r": r, "lora.alpha": 16, "lora.targets": "all", "optimizer.name": "adamw", "optimizer.lr": 0.005,
        "trainer.max_epochs": 3, "sample": sample, "seed": seed, "data_seed": data_seed, "batch": 16, "max_length": 512,
        **more,
    }  # fmt: skip


def folder_of(outputs, i, name=None):
    words = [i["model.name"], "r0"]
    if i["lora.r"]:
        words = [words[0], "all" if i["sample"] is None else str(i["sample"]), f"r{i['lora.r']}", f"seed{i['seed']}"]
    words += [f"data_seed{i['data_seed']}"] if i.get("data_seed") else []
    return outputs / i["dataset.name"] / (name or "-".join(words))


def write_run(outputs, name=None, status="finished", reason=None, f1=None, half=4.0, examples=None, summary=None,
              evaluation=None, summary_written=True, available=3800, steps=56, **cell):  # fmt: skip
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
        rows.writerow("step,epoch,tokens,seconds,loss,validation_loss,lr,grad_norm,tokens_per_second".split(","))
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
        "run": f"{i['dataset.name']}/{home.name}", "status": status, "reason": reason, "identity": i,
        "counts": {"train": {"available": available, "asked": i["sample"], "sampled": examples,
                             "encoded": examples - sum(dropped.values()), "dropped": dropped, "shortened": examples // 100,
                             "answers_lost": 0, "tokens": examples * 160, "label_tokens": examples * 5},
                   "cleaning": {"whitespace": {"rows": 3, "characters": 17}}},
        "lora": {"r": i["lora.r"], "alpha": 16, "scale": 16 / i["lora.r"], "targets": "all"},
        "trainable_parameters": 21504 * i["lora.r"], "steps": steps, "epochs": 3.0, "tokens": examples * 480,
        "label_tokens": examples * 15, "tokens_per_second": 2210.5, "mfu": None,
        "seconds": {"import": 7.2, "load": 2.1, "data": 1.4, "train": 6 + examples / 30, "save": 0.1, "evaluate": 11.0},
        "peak_memory_bytes": 734003200 + 2**20 * i["lora.r"], "loss": {"train": 1.5, "validation": 1.9,
                                                                       "best_validation": 1.8},
        "device": "cpu", "quantisation": "nf4_dequantised", "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "commit": "0123abc", "started": "2025-01-01T10:00:00", "finished": "2025-01-01T10:05:00", **more,
    }  # fmt: skip
    (home / "summary.json").write_text(json.dumps(summary))


def write_evaluation(home, i, examples, f1, half, more, outputs, name="squad-test-300"):
    at = home / "eval" / name
    at.mkdir(parents=True)
    scores = {"squad/f1": f1, "squad/exact_match": f1 * 0.7, "squad/precision": f1 * 1.02, "squad/recall": f1 * 0.98,
              "loss": 4 - f1 / 25, "perplexity": 2.718 ** (4 - f1 / 25)}  # fmt: skip
    note = "test set only; one training seed"
    intervals = {} if half is None else {
        "squad/f1": {"low": max(f1 - half, 0), "high": f1 + half, "method": "clustered t", "note": note}}  # fmt: skip
    rank = i["lora.r"]
    results = {
        "scores": scores, "intervals": intervals, "items": 300, "groups": 75, "dataset": "squad",
        "trained_on": i["dataset.name"], "split": "test", "model": i["model.name"], "r": rank, "sample": i.get("sample"),
        "train_examples": examples if rank else None, "seed": i.get("seed", 0), "data_seed": i.get("data_seed", 0),
        "run": str(home.relative_to(outputs)), "identity": i, "seconds": 11.0, "tokens": 48000, "peak_memory_bytes": None,
        "trainable_parameters": 21504 * rank, "versions": {"python": "3.11.7", "torch": "2.13.0"}, "commit": "0123abc",
        **more,
    }  # fmt: skip
    (at / "results.json").write_text(json.dumps(results))
    lines = [{"id": f"q{n}", "prompt": "p", "references": ["a"], "reply": "b", "group": "g"} for n in range(20)]
    (at / "predictions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


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
