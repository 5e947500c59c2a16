"""Checks of a config before anything heavy is imported: each error names the key, its value and what was wanted."""

import math

from llama_exp.config.schema import Config, Source
from llama_exp.config.seeds import MAX_SEED
from llama_exp.config.trainer_keys import logger_errors, trainer_errors


def config_errors(c: Config):
    positive = {
        "batch": c.batch,
        "max_length": c.max_length,
        "eval_batch": c.eval_batch,
        "sample": c.sample,
        "micro_batch": c.micro_batch,
        "eval_sample": c.eval_sample,
        "memory": c.memory,
        "max_tokens": c.max_tokens,
        "checkpoint_every": c.checkpoint_every,
        "dataset.max_new_tokens": c.dataset.max_new_tokens,
        "dataset.rows": c.dataset.rows,
        "early_stopping": c.early_stopping,
        "validation_sample": c.validation_sample,
        "bertscore.batch": c.bertscore.batch,
        "bertscore.layer": c.bertscore.layer,
    }
    for key, value in positive.items():
        if value is not None and value < 1:
            yield f"{key}={value}: wanted a whole number of at least 1."
    for key, value in {"lora.r": c.lora.r, "validations": c.validations or 0}.items():
        if value < 0:
            yield f"{key}={value}: wanted 0 or more."
    seeds = {
        "seed": c.seed,
        "data_seed": c.data_seed,
        "eval_seed": c.eval_seed,
        "dataset.split_seed": c.dataset.split_seed,
    }
    for key, value in seeds.items():
        if not 0 <= value < MAX_SEED:
            yield f"{key}={value}: wanted a whole number from 0 to 2^63 - 1."
    if c.dataset.options and not c.dataset._target_:
        options = ", ".join(f"dataset.options.{name}" for name in c.dataset.options)
        yield (
            f"{options}: {c.dataset.name} reads no options; they are for a data module of your own (dataset._target_)."
        )
    if not c.model.path:
        yield (
            f"model={c.model.name} needs the model: model.path=FOLDER, or model.path=OWNER/NAME on the Hugging Face "
            "hub."
        )
    if c.dataset.path and c.dataset.source is Source.synthetic:
        yield (
            f"dataset.path={c.dataset.path} is not read where dataset.source=synthetic makes the rows. Leave one of "
            "them out."
        )
    if c.micro_batch and c.batch % c.micro_batch:
        yield f"micro_batch={c.micro_batch} does not divide batch={c.batch}: a step is exactly `batch` Examples."
    if c.max_length - c.dataset.max_new_tokens < 32:
        yield (
            f"max_length={c.max_length} leaves fewer than 32 tokens for the prompt beside "
            f"dataset.max_new_tokens={c.dataset.max_new_tokens}. Raise the one or lower the other."
        )
    for key, share in {"dataset.validation": c.dataset.validation, "dataset.test": c.dataset.test}.items():
        if not 0 <= share < 0.5:
            yield f"{key}={share}: wanted a share from 0 to below 0.5."
    for key, value in {"optimizer.lr": c.optimizer.lr, "lora.alpha": c.lora.alpha, "lora.ratio": c.lora.ratio}.items():
        if not 0 < value < math.inf:
            yield f"{key}={value}: wanted a number above 0."
    for key, value in {
        "optimizer.weight_decay": c.optimizer.weight_decay,
        "optimizer.neftune": c.optimizer.neftune,
    }.items():
        if not 0 <= value < math.inf:
            yield f"{key}={value}: wanted 0 or more."
    if not 0 <= c.lora.dropout < 1:
        yield f"lora.dropout={c.lora.dropout}: wanted a share from 0 to below 1."
    if not 0 <= c.optimizer.warmup <= 1:
        yield f"optimizer.warmup={c.optimizer.warmup}: wanted a share of all steps, from 0 to 1."
    if len(c.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in c.optimizer.betas):
        yield f"optimizer.betas={c.optimizer.betas}: wanted two numbers from 0 to below 1, like [0.9, 0.999]."
    if c.early_stopping and c.validations == 0:
        yield f"early_stopping={c.early_stopping} counts validations, and validations=0 makes none."
    yield from trainer_errors(c.trainer)
    yield from logger_errors(c.logger)
    budgets = {f"trainer.{key}": c.trainer.get(key) for key in ("max_epochs", "max_steps")}
    strange = {key: value for key, value in budgets.items() if not isinstance(value, int | None)}
    for key, value in strange.items():
        yield f"{key}={value}: wanted a whole number; null or -1 for no such budget."
    if not strange and not any((budget or -1) > 0 for budget in [c.max_tokens, *budgets.values()]):
        yield "No budget: give trainer.max_epochs, trainer.max_steps or max_tokens."
