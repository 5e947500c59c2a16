"""Score one cell, or a grid of them: python evaluate.py dataset=squad sample=1000

python evaluate.py -m dataset=squad sample=100,1000,null lora.r=0,8,16,64    same words as training; rank 0 is untuned
python evaluate.py dataset=squad trained_on=guanaco lora.r=8                 transfer
python evaluate.py dataset=squad predictions=FILE.json                       score {id: text} without a model
"""

import dataclasses
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from llama_exp import cli, metrics
from llama_exp import evaluation as cell
from llama_exp.asking import as_asked, check_same, folder_name
from llama_exp.config.compose import register, resolve
from llama_exp.config.schema import Config
from llama_exp.data import sources
from llama_exp.errors import UserError
from llama_exp.model.base import hardware
from llama_exp.report.words import plural
from llama_exp.runs.files import read_predictions
from llama_exp.runs.run import find
from llama_exp.runs.run import run as runs

register()


def evaluate(config: Config) -> dict[str, str]:
    """Find the run that the words mean, let it answer the held-out Examples, score the answers."""
    if config.predictions:
        return evaluate_file(config)
    run = find.find(config) if config.lora.r else runs.untuned_folder(config)
    trained = runs.load_config(run) if config.lora.r else config
    asked = as_asked(config, trained)
    folder = run / "eval" / folder_name(asked, trained)
    if (results := cell.done(folder)) is not None:
        return again(folder, results, asked, trained, run)
    hardware.check(asked)
    sources.check(asked.dataset)
    metrics.check(asked.dataset.metrics, cell.metric_settings(asked))

    from llama_exp.model.base.lora import detach_lora, load_lora

    from llama_exp.data import DATASETS
    from llama_exp.model.base import base as models

    models.import_all()
    device = models.target_device(asked.trainer)
    with models.loading(trained.model, device, models.asked_dtype(asked.trainer, device)) as loaded:
        tokenizer = models.load_tokenizer(trained.model)
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
    if (results := cell.done(folder)) is not None:
        return again(folder, results, asked, trained, run)
    examples = data.held_out(asked.split.value, asked.eval_sample)
    if asked.eval_sample and asked.eval_sample > len(examples):
        print(
            f"  eval_sample={asked.eval_sample}: there are {len(examples)} held-out Examples; all are used.", flush=True
        )
    with runs.alone(folder):
        if (results := cell.done(folder)) is not None:  # by another process, since this one looked
            return again(folder, results, asked, trained, run)
        predictions, cost = cell.answer(folder, asked, examples, model, tokenizer)
        lost = cell.answers_lost(asked, examples, predictions, data.tokenizer)
        results = cell.write_results(folder, asked, trained, run, predictions, cost, {"answers_lost": lost})
    if lost or results["unmeasured"]:
        print(
            f"  {lost} answers were cut away with their context; {results['unmeasured']} responses have no loss, being "
            f"empty or too long for max_length={asked.max_length}.",
            flush=True,
        )
    print(f"{folder}: {cell.said(results)}", flush=True)
    return {"said": cell.said(results), "run": str(run)}


def again(folder: Path, results: dict[str, Any], asked: Config, trained: Config, run: Path) -> dict[str, str]:
    """An evaluation that is there already: scored anew from its predictions where other metrics or settings are asked."""
    check_same(folder, results, asked)
    told = "already evaluated"
    if not cell.up_to_date(folder, results, asked):
        cost = {key: results.get(key) for key in (*cell.COST, "answers_lost")}
        predictions = read_predictions(folder / "predictions.jsonl")
        if len(predictions) != results.get("items", len(predictions)):
            raise UserError(
                f"{folder}/predictions.jsonl holds {len(predictions):,} of the {results['items']:,} answers that were "
                "scored. Delete results.json there, and the same command answers the rest."
            )
        results = cell.write_results(folder, asked, trained, run, predictions, cost)
        told = "scored anew from its predictions"
    print(f"{folder}: {told}: {cell.said(results)}", flush=True)
    return {"said": f"{told}: {cell.said(results)}", "run": str(run)}


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
    predictions, counts = cell.official_predictions(path, examples, {example.id for example in everything})
    scored = cell.score(predictions, config)
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
    return {"said": cell.said({"scores": scored.values, "intervals": intervals}), "run": str(path)}


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@cli.one_job
def main(cfg: DictConfig) -> dict[str, str]:
    return evaluate(resolve(cfg))


if __name__ == "__main__":
    cli.run(main)
