"""runs.csv: every run and every score, a row each, in a form that no spreadsheet computes."""

import csv
from pathlib import Path
from typing import Any

from llama_exp.report.compare import comparable_facts
from llama_exp.report.labels import seconds_by_stage
from llama_exp.report.load import EvaluationRecord, RunRecord
from llama_exp.runs.files import atomic_write
from llama_exp.runs.results import Results
from llama_exp.sanitize import spreadsheet_cell

OF_TRAINING = (
    *("trainable_parameters", "steps", "epochs", "tokens", "label_tokens", "tokens_per_second", "mfu"),
    *("peak_memory_bytes", "device", "quantisation", "commit", "started", "finished"),
)


def write_csv(path: Path, runs: list[RunRecord]) -> None:
    """A row per run and evaluation, with everything that was measured; strings cannot become formulas."""
    rows = [_csv_row(run, e) for run in runs for e in run.evaluations or (None,)]
    names = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writerow({name: spreadsheet_cell(name) for name in names})
        writer.writerows({k: spreadsheet_cell(v) for k, v in row.items()} for row in rows)


def _csv_row(run: RunRecord, evaluation: EvaluationRecord | None) -> dict[str, Any]:
    results = evaluation.results if evaluation else Results()
    row: dict[str, Any] = {
        "run": run.name,
        "status": run.status,
        "reason": run.reason,
        "dataset": run.dataset,
        "model": run.model,
        "rank": run.rank,
        "sample": run.sample,
        "examples": run.examples,
        "examples_in_training": run.encoded,
        "seed": run.seed,
        "data_seed": run.data_seed,
    }
    if evaluation:
        row |= {
            "evaluated_on": evaluation.dataset,
            "split": evaluation.split,
            "items": evaluation.items,
            "groups": evaluation.groups,
            "loss_items": evaluation.measured,
            "empty_replies": evaluation.empty_replies,
        }
        row |= {key: value for key, value in comparable_facts(evaluation).items() if value != "not recorded"}
        for name, score in evaluation.scores.items():
            interval = evaluation.intervals.get(name)
            row |= {name: score} | ({f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {})
    row |= {key: getattr(run.summary, key) for key in OF_TRAINING}
    for key in ("trainable_parameters", "peak_memory_bytes", "commit"):  # of an untuned model, the evaluation's
        row[key] = getattr(results, key) if row[key] is None else row[key]
    row |= {f"seconds_{k}": v for k, v in seconds_by_stage(run).items()}
    row |= {"evaluation_seconds": results.seconds, "evaluation_tokens": results.tokens}
    return row | {f"config.{k}": v for k, v in run.identity.items()}
