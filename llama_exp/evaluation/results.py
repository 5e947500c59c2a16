"""From predictions to results.json: the scores, what was evaluated and what it cost."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_exp import metrics
from llama_exp.config.identity import flat
from llama_exp.evaluation.request import EvaluationRequest
from llama_exp.evaluation.scoring import intervals_as_dicts, score, score_clean_items, scoring_settings
from llama_exp.overlap.audit import clean_predictions
from llama_exp.records import Prediction
from llama_exp.runs.files import read_predictions
from llama_exp.runs.provenance import provenance
from llama_exp.runs.results import Results, read_results, write_results
from llama_exp.runs.scores import SCORES, write_scores
from llama_exp.sanitize import reason


def save_results(
    request: EvaluationRequest, predictions: Sequence[Prediction], cost: dict[str, Any], answers_lost: int | None
) -> Results:
    """Score the predictions; write scores.jsonl, then results.json."""
    run, config = request.run, request.config
    scored = score(predictions, config)
    write_scores(request.folder, predictions, scored.items)
    summary, training = run.summary, run.training_examples
    results = Results(
        scores={**scored.values},
        intervals=intervals_as_dicts(scored),
        facts=scored.facts,
        clean=score_clean_items(predictions, clean_predictions(run, config, predictions), config),
        declared=metrics.declarations(config.dataset.metrics),
        **scoring_settings(config),
        generated=request.generate,
        items=len(predictions),
        groups=len({prediction.group for prediction in predictions}),
        empty_replies=sum(not prediction.reply.strip() for prediction in predictions) if request.generate else None,
        unfinished=sum(not prediction.finished for prediction in predictions) if request.generate else None,
        shortened=sum(prediction.shortened for prediction in predictions),
        unmeasured=sum(prediction.nll is None for prediction in predictions),
        answers_lost=answers_lost,
        dataset=config.dataset.name,
        trained_on=None if run.is_untuned else run.config.dataset.name,
        split=config.split.value,
        model=run.config.model.title,
        r=run.config.lora.r,
        sample=None if run.is_untuned else run.config.sample,
        train_examples=training.get("sampled"),
        examples_in_training=training.get("encoded"),
        seed=run.config.seed,
        data_seed=run.config.data_seed,
        run=run.name,
        identity=run.identity,
        evaluation={
            key: value
            for key, value in flat(config).items()
            if key.startswith(("dataset.", "eval_", "max_length", "split"))
        },
        trainable_parameters=summary.trainable_parameters if summary else 0,
        **cost,
        **provenance(),
    )
    write_results(request.folder, results)
    return results


def stored_results(folder: Path) -> Results | None:
    """The results of an earlier evaluation; None where there are none. Damaged ones are announced and scored again, as
    are those whose replies are no longer all there."""
    try:
        results = read_results(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        print(f"  {folder / 'results.json'} is damaged ({reason(error)}): scoring again.", flush=True)
        return None
    path = folder / "predictions.jsonl"
    found = len(read_predictions(path)) if os.path.lexists(path) else 0
    if results.items in (None, found):
        return results
    print(f"  {path} holds {found:,} of {results.items:,} replies: the others are generated again.", flush=True)
    return None


def is_up_to_date(request: EvaluationRequest, results: Results) -> bool:
    """Whether results.json and scores.jsonl hold what would be computed now."""
    wanted = scoring_settings(request.config)
    stored = {key: getattr(results, key) for key in wanted}
    return stored == wanted and (request.folder / SCORES).is_file()
