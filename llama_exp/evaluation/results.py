"""One evaluation of one cell: the replies, the scores and what its folder holds. `evaluate.py` is the recipe that uses it.

eval/squad-test-300/predictions.jsonl    a line a reply, written as they come: a killed evaluation continues
eval/squad-test-300/cost.json            what the answers have cost so far, those before a kill included
eval/squad-test-300/scores.jsonl         every item's scores, for tables and comparisons
eval/squad-test-300/results.json         scores, config, cost; written last and whole
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_exp.config.identity import flat, identity
from llama_exp.config.schema import Config
from llama_exp.evaluation.scoring import score, score_clean_items, scoring_settings
from llama_exp.overlap import audit
from llama_exp.records import Prediction
from llama_exp.runs import run as runs
from llama_exp.runs.files import write_json
from llama_exp.runs.provenance import provenance
from llama_exp.runs.scores import SCORES, write_scores


def read_results(folder: Path) -> dict[str, Any] | None:
    """This evaluation's results; None where there are none. Damaged ones are made again, from the replies that are there."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        print(f"  {path} is damaged: scored anew.", flush=True)
        return None
    return results if isinstance(results, dict) else None


def write_results(
    folder: Path,
    asked: Config,
    trained: Config,
    run: Path,
    predictions: Sequence[Prediction],
    cost: dict,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score the predictions and write scores.jsonl, then results.json; returns the latter."""
    scored = score(predictions, asked)
    write_scores(folder, predictions, scored.items)
    summary = runs.read_summary(run) or {}
    of_train = summary.get("counts", {}).get("train", {})
    results = {
        "scores": scored.values,
        "intervals": {name: dataclasses.asdict(of) for name, of in scored.intervals.items()},
        "facts": scored.facts,
        "clean": score_clean_items(predictions, audit.clean_items(run, asked, trained, predictions), asked),
        **scoring_settings(asked),
        "items": len(predictions),
        "groups": len({prediction.group for prediction in predictions}),
        "empty_replies": sum(not prediction.reply.strip() for prediction in predictions),
        "unfinished": sum(not prediction.finished for prediction in predictions),
        "shortened": sum(prediction.shortened for prediction in predictions),
        "unmeasured": sum(prediction.nll is None for prediction in predictions),  # no response, or too long for its row
        "dataset": asked.dataset.name,
        "trained_on": trained.dataset.name if trained.lora.r else None,
        "split": asked.split.value,
        "model": trained.model.name,
        "r": trained.lora.r,
        "sample": trained.sample if trained.lora.r else None,
        "train_examples": of_train.get("sampled"),
        "examples_in_training": of_train.get("encoded"),  # less those whose response is empty or does not fit
        "seed": trained.seed,
        "data_seed": trained.data_seed,
        "run": f"{run.parent.name}/{run.name}",
        "identity": identity(trained),
        "evaluation": {
            key: value
            for key, value in flat(asked).items()
            if key.startswith(("dataset.", "eval_", "max_length", "split"))
        },
        "trainable_parameters": summary.get("trainable_parameters", 0),
        **cost,
        **(extra or {}),
        **provenance(),
    }
    write_json(folder / "results.json", results)
    return results


def is_up_to_date(folder: Path, results: dict[str, Any], asked: Config) -> bool:
    """Whether results.json and scores.jsonl hold what would be scored now."""
    wanted = scoring_settings(asked)
    return {key: results.get(key) for key in wanted} == wanted and (folder / SCORES).is_file()
