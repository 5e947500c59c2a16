"""Fine-tune one cell, or a grid of them: python train.py dataset=squad sample=1000

    python train.py -m dataset=squad sample=100,1000,null lora.r=8,16,64     a sweep; again, and only what is missing runs
    python train.py experiment=quickstart                                    small, on any machine, evaluated and reported

Every key stands in conf/; --help lists the choices, --cfg job prints what a command would do.
"""

import contextlib
import dataclasses
import functools

import hydra
from omegaconf import DictConfig

from llama_exp import cli, metrics
from llama_exp.config.compose import register, resolve
from llama_exp.config.schema import Config
from llama_exp.data import sources
from llama_exp.errors import UserError
from llama_exp.model.base import hardware
from llama_exp.runs.run import run

register()


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
        from llama_exp.evaluation import metric_settings

        metrics.check(config.dataset.metrics, metric_settings(config))
    folder = run.folder_of(config)
    if config.preflight:
        from llama_exp.preflight.forecast import preflight

        return preflight(config, folder)
    if config.lora.r == 0:
        return untuned(config, folder)
    run.check_owner(folder, config)
    if run.finished(folder):
        if config.dataset.path:
            check_source(config, folder)
        print(f"{folder}: already finished", flush=True)
        return evaluated(config, {"said": "already finished", "run": str(folder)})

    clock = run.Clock()
    with clock("import"):
        from llama_exp.model.base.kernels.warmup import warmed

        from llama_exp.model.base import base as models

        models.import_all()
    device = models.target_device(config.trainer)
    dtype, ready = models.asked_dtype(config.trainer, device), functools.partial(warmed, rank=config.lora.r)
    with models.loading(config.model, device, dtype, lambda: clock("load"), ready) as loaded:
        with clock("import"):
            from llama_exp.model.base.kernels.decoder_layer import held
            from llama_exp.model.base.lora import attach_lora, detach_lora
            from llama_exp.model.base.memory import choose

            from llama_exp.data import DATASETS
            from llama_exp.finetune import Finetune
            from llama_exp.fitting import build_trainer, fit, summarise
            from llama_exp.overlap import audit
        with clock("data"):
            tokenizer = models.load_tokenizer(config.model)
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
    working.enter_context(run.alone(folder))
    if run.finished(folder):  # by another process, since this one looked
        return evaluated(config, {"said": "already finished", "run": str(folder)})
    run.write_config(folder, config)
    run.write_sample(folder, [example.id for example in data.train])
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
            from evaluate import evaluate_model

            said = evaluate_model(config, config, folder, model, tokenizer, data)["said"]
        return {"said": said, "run": str(folder)}
    finally:
        detach_lora(model)


def check_source(config: Config, folder) -> None:
    """Stop where the files that a finished run learnt from are no longer the same: their path alone does not tell."""
    from llama_exp.data import DATASETS

    data = DATASETS[config.dataset.name].of(config)
    data.setup()
    data.check_content(run.read_summary(folder).get("content"))


def untuned(config: Config, folder) -> dict[str, str]:
    """Rank 0: nothing to train; with evaluate=true the untuned model is scored, so a sweep may hold its own baseline."""
    if not config.evaluate:
        print("Nothing to train at lora.r=0, the untuned model; evaluate=true scores it.", flush=True)
    return evaluated(config, {"said": "untuned", "run": str(folder)})


def evaluated(config: Config, result: dict[str, str]) -> dict[str, str]:
    if config.evaluate:
        from evaluate import evaluate

        result["said"] += "; " + evaluate(config)["said"]
    return result


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@cli.one_job
def main(cfg: DictConfig) -> dict[str, str]:
    return train(resolve(cfg))


if __name__ == "__main__":
    cli.run(main)
