"""Train one run: read the data, load the base, fit the adapter, save it."""

import contextlib
import dataclasses
import functools

from llama_exp import metrics
from llama_exp.config.schema import Config
from llama_exp.data import sources
from llama_exp.errors import UserError
from llama_exp.model import hardware
from llama_exp.runs import run as runs
from llama_exp.runs.lock import alone


def train(config: Config) -> dict[str, str]:
    """Fine-tune an adapter, save it and say what came of it: {"said": …, "run": folder}."""
    if foreign := [key for key in ("trained_on", "predictions") if getattr(config, key)]:
        raise UserError(
            f"{foreign[0]}= belongs to evaluate.py: python evaluate.py … {foreign[0]}={getattr(config, foreign[0])}"
        )
    with contextlib.ExitStack() as working:  # the folder, from the first file to the last
        return _train(config, working)


def _train(config: Config, working: contextlib.ExitStack) -> dict[str, str]:
    hardware.check(config)
    sources.check(config.dataset)
    if config.evaluate:
        from llama_exp.evaluation.scoring import metric_settings

        metrics.check(config.dataset.metrics, metric_settings(config))
    folder = runs.folder_of(config)
    if config.preflight:
        from llama_exp.preflight.forecast import preflight

        return preflight(config, folder)
    if config.lora.r == 0:
        return untuned(config, folder)
    runs.check_owner(folder, config)
    if runs.finished(folder):
        if config.dataset.path:
            check_source(config, folder)
        print(f"{folder}: already finished", flush=True)
        return evaluated(config, {"said": "already finished", "run": str(folder)})

    clock = runs.Clock()
    with clock("import"):
        from llama_exp.model import base as models
        from llama_exp.model.kernels.warmup import warmed
        from llama_exp.model.tokenizer import load_tokenizer

        models.import_all()
    device = models.target_device(config.trainer)
    dtype, ready = models.asked_dtype(config.trainer, device), functools.partial(warmed, rank=config.lora.r)
    with models.loading(config.model, device, dtype, lambda: clock("load"), ready) as loaded:
        with clock("import"):
            from llama_exp.data import DATASETS
            from llama_exp.model.kernels.decoder_layer import held
            from llama_exp.model.lora import attach_lora, detach_lora
            from llama_exp.model.memory import choose
            from llama_exp.overlap import audit
            from llama_exp.training.module import Finetune
            from llama_exp.training.summary import summarise
            from llama_exp.training.trainer import build_trainer, fit
        with clock("data"):
            tokenizer = load_tokenizer(config.model)
            data = DATASETS[config.dataset.name].of(config, tokenizer)
            data.setup()
            print(data.describe(), flush=True)
        if config.sample and config.sample >= len(data.available):  # the same cell as sample=null: it has one name
            everything = len(data.available)
            print(f"sample={config.sample} is all {everything} Examples there are: the cell sample=null.", flush=True)
            return train(dataclasses.replace(config, sample=None))
        with clock("data"):
            steps = data.plan_steps(
                config.trainer.get("max_epochs"), config.trainer.get("max_steps"), config.max_tokens
            )
            if said := data.reaching_training():
                print(f"  {said}", flush=True)
            overlap = audit.look(config, data, folder)
    with clock("load"):
        base = loaded()
        models.check_length(base, config.max_length)
    working.enter_context(alone(folder))
    if runs.finished(folder):  # by another process, since this one looked
        return evaluated(config, {"said": "already finished", "run": str(folder)})
    runs.write_config(folder, config)
    runs.write_sample(folder, [example.id for example in data.train])
    audit.tell(config, data, overlap, folder)
    choice = choose(base, config, data.plan)
    data.micro_batch = choice.micro_batch
    if choice.why:
        print(f"  memory: {choice.why}", flush=True)
    model = attach_lora(base, config.lora, config.seed, choice.recompute)
    try:
        module = Finetune(model, config.optimizer, steps, config.seed, data.plan.usual_labels)
        trainer = build_trainer(config, folder, data, base)
        with clock("train"), held(base, choice.hold, choice.keep):
            outcome = fit(trainer, module, data, folder, config)
        said = summarise(folder, config, trainer, module, data, outcome, clock)
        if config.evaluate and trainer.is_global_zero:
            from llama_exp.evaluation.recipe import evaluate_model

            said = evaluate_model(config, config, folder, model, tokenizer, data)["said"]
        return {"said": said, "run": str(folder)}
    finally:
        detach_lora(model)


def check_source(config: Config, folder) -> None:
    """Stop where the files that a finished run learnt from are no longer the same: their path alone does not tell."""
    from llama_exp.data import DATASETS

    data = DATASETS[config.dataset.name].of(config)
    data.setup()
    data.check_content(runs.read_summary(folder).get("content"))


def untuned(config: Config, folder) -> dict[str, str]:
    """Rank 0: nothing to train; with evaluate=true the untuned model is scored, so a sweep may hold its own baseline."""
    if not config.evaluate:
        print("Nothing to train at lora.r=0, the untuned model; evaluate=true scores it.", flush=True)
    return evaluated(config, {"said": "untuned", "run": str(folder)})


def evaluated(config: Config, result: dict[str, str]) -> dict[str, str]:
    if config.evaluate:
        from llama_exp.evaluation.recipe import evaluate

        result["said"] += "; " + evaluate(config)["said"]
    return result
