"""Score one run on held-out Examples: find it, let it reply, score the replies."""

import dataclasses
from pathlib import Path
from typing import Any

from llama_exp import metrics
from llama_exp.config.schema import Config
from llama_exp.data import sources
from llama_exp.errors import UserError
from llama_exp.evaluation.replies import COST, reply_to_all
from llama_exp.evaluation.request import as_asked, check_same, folder_name
from llama_exp.evaluation.results import is_up_to_date, read_results, write_results
from llama_exp.evaluation.scoring import answers_lost, metric_settings, read_official_predictions, score, scores_line
from llama_exp.formatting import plural
from llama_exp.model import hardware
from llama_exp.runs import run as runs
from llama_exp.runs.files import read_predictions
from llama_exp.runs.find import find as find_run
from llama_exp.runs.lock import alone


def evaluate(config: Config) -> dict[str, str]:
    """Find the run that the words mean, let it answer the held-out Examples, score the answers."""
    if config.predictions:
        return evaluate_file(config)
    run = find_run(config) if config.lora.r else runs.untuned_folder(config)
    trained = runs.load_config(run) if config.lora.r else config
    asked = as_asked(config, trained)
    folder = run / "eval" / folder_name(asked, trained)
    if (results := read_results(folder)) is not None:
        return again(folder, results, asked, trained, run)
    hardware.check(asked)
    sources.check(asked.dataset)
    metrics.check(asked.dataset.metrics, metric_settings(asked))

    from llama_exp.data import DATASETS
    from llama_exp.model import base as models
    from llama_exp.model.lora import detach_lora, load_lora
    from llama_exp.model.tokenizer import load_tokenizer

    models.import_all()
    device = models.target_device(asked.trainer)
    with models.loading(trained.model, device, models.asked_dtype(asked.trainer, device)) as loaded:
        tokenizer = load_tokenizer(trained.model)
        data = DATASETS[asked.dataset.name].of(asked, tokenizer)
        data.setup()
    base = loaded()
    models.check_length(base, asked.max_length)
    model = load_lora(base, run / "adapter") if trained.lora.r else base
    try:
        return evaluate_model(asked, trained, run, model, tokenizer, data)
    finally:
        detach_lora(model)


def evaluate_model(asked: Config, trained: Config, run: Path, model, tokenizer, data) -> dict[str, str]:
    """The same for a model in memory."""
    folder = run / "eval" / folder_name(asked, trained)
    if (results := read_results(folder)) is not None:
        return again(folder, results, asked, trained, run)
    examples = data.held_out(asked.split.value, asked.eval_sample)
    if asked.eval_sample and asked.eval_sample > len(examples):
        print(
            f"  eval_sample={asked.eval_sample}: there are {len(examples)} held-out Examples; all are used.", flush=True
        )
    with alone(folder):
        if (results := read_results(folder)) is not None:  # by another process, since this one looked
            return again(folder, results, asked, trained, run)
        predictions, cost = reply_to_all(folder, asked, examples, model, tokenizer)
        lost = answers_lost(asked, examples, predictions, data.tokenizer)
        results = write_results(folder, asked, trained, run, predictions, cost, {"answers_lost": lost})
    if lost or results["unmeasured"]:
        print(
            f"  {lost} answers were cut away with their context; {results['unmeasured']} responses have no loss, being "
            f"empty or too long for max_length={asked.max_length}.",
            flush=True,
        )
    print(f"{folder}: {scores_line(results)}", flush=True)
    return {"said": scores_line(results), "run": str(run)}


def again(folder: Path, results: dict[str, Any], asked: Config, trained: Config, run: Path) -> dict[str, str]:
    """An evaluation that is there already: scored anew from its predictions where other metrics or settings are asked."""
    check_same(folder, results, asked)
    told = "already evaluated"
    if not is_up_to_date(folder, results, asked):
        cost = {key: results.get(key) for key in (*COST, "answers_lost")}
        predictions = read_predictions(folder / "predictions.jsonl")
        if len(predictions) != results.get("items", len(predictions)):
            raise UserError(
                f"{folder}/predictions.jsonl holds {len(predictions):,} of the {results['items']:,} answers that were "
                "scored. Delete results.json there, and the same command answers the rest."
            )
        results = write_results(folder, asked, trained, run, predictions, cost)
        told = "scored anew from its predictions"
    print(f"{folder}: {told}: {scores_line(results)}", flush=True)
    return {"said": f"{told}: {scores_line(results)}", "run": str(run)}


def evaluate_file(config: Config) -> dict[str, str]:
    """Score a predictions file in the official format, {id: text}, against the held-out references."""
    if config.dataset.name != "squad":
        raise UserError(
            f"predictions=FILE is SQuAD's format; dataset={config.dataset.name} has none. Type dataset=squad."
        )
    from llama_exp.data import DATASETS

    path = Path(config.predictions)
    if not path.is_file():
        raise UserError(f"predictions={path}: no such file.")
    data = DATASETS[config.dataset.name].of(config)
    data.setup()
    examples = data.held_out(config.split.value, config.eval_sample)
    everything = data.held_out(config.split.value)
    predictions, counts = read_official_predictions(path, examples, {example.id for example in everything})
    scored = score(predictions, config)
    for name, value in scored.values.items():
        print(f"{name} {value:.10f}  ({scored.intervals[name]}, {plural(scored.intervals[name].clusters, 'article')})")
    for why in dict.fromkeys(of.note for of in scored.intervals.values() if of.low is None):
        print(f"No interval: {why}.")
    drawn = f"{counts['not_drawn']} answers to questions that eval_sample={config.eval_sample} did not draw left out; "
    print(
        f"{len(examples)} questions; {counts['missing_ids']} without an answer (they score 0); "
        f"{drawn if counts['not_drawn'] else ''}{counts['unknown_ids']} unknown ids left out.",
        flush=True,
    )
    intervals = {name: dataclasses.asdict(of) for name, of in scored.intervals.items()}
    return {"said": scores_line({"scores": scored.values, "intervals": intervals}), "run": str(path)}
