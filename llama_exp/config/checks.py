"""Checks of a config before anything heavy is imported: each error names the key, its value and what was wanted."""

import math
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from llama_exp.config.schema import Config, Quantisation, Source
from llama_exp.config.seeds import MAX_SEED
from llama_exp.config.trainer_keys import logger_errors, trainer_errors
from llama_exp.processes import is_sharded
from llama_exp.stopping import CHOSEN

# What a number must be, in words and as a test; None stands for "not set" and is always allowed.
RANGES: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "a whole number of at least 1": (
        lambda value: value >= 1,
        (
            "batch",
            "max_length",
            "eval_batch",
            "sample",
            "micro_batch",
            "eval_sample",
            "memory",
            "max_tokens",
            "checkpoint_every",
            "dataset.max_new_tokens",
            "dataset.rows",
            "early_stopping",
            "validation_sample",
            "validation_scores",
            "bertscore.batch",
            "bertscore.layer",
        ),
    ),
    "0 or more": (
        lambda value: 0 <= value < math.inf,
        ("lora.r", "validations", "optimizer.weight_decay", "optimizer.neftune"),
    ),
    "a number above 0": (lambda value: 0 < value < math.inf, ("optimizer.lr", "lora.alpha", "lora.ratio")),
    "a whole number from 0 to 2^63 - 1": (
        lambda value: 0 <= value < MAX_SEED,
        ("seed", "data_seed", "eval_seed", "dataset.split_seed"),
    ),
    "a share from 0 to below 0.5": (lambda value: 0 <= value < 0.5, ("dataset.validation", "dataset.test")),
    "a share from 0 to below 1": (lambda value: 0 <= value < 1, ("lora.dropout",)),
    "a share of all steps, above 0 and up to 1": (lambda value: 0 < value <= 1, ("stop_at",)),
    "a share of all steps, from 0 to 1": (lambda value: 0 <= value <= 1, ("optimizer.warmup",)),
    "two numbers from 0 to below 1, like [0.9, 0.999]": (
        lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
        ("optimizer.betas",),
    ),
}


def config_errors(c: Config) -> Iterator[str]:
    """What cannot be run as it is written, one sentence each: wanted, came, what to type."""
    for wanted, (fits, keys) in RANGES.items():
        for key in keys:
            value = attrgetter(key)(c)
            if value is not None and not fits(value):
                yield f"{key}={value}: wanted {wanted}."
    yield from _contradictions(c)
    yield from trainer_errors(c.trainer)
    yield from logger_errors(c.logger)
    yield from _budget_errors(c)
    yield from _sharding_errors(c)
    yield from _signal_errors(c)
    yield from _part_errors(c)


def _contradictions(c: Config) -> Iterator[str]:
    """Keys that are each possible, and not together."""
    if c.dataset.options and not c.dataset._target_:
        options = ", ".join(f"dataset.options.{name}" for name in c.dataset.options)
        yield f"{options}: {c.dataset.name} reads no options; they are for a DataModule of your own (dataset._target_)."
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
    if c.early_stopping and c.validations == 0:
        yield f"early_stopping={c.early_stopping} counts validations, and validations=0 makes none."
    if c.validation_scores and c.validations == 0:
        yield f"validation_scores={c.validation_scores} is measured at validations, and validations=0 makes none."
    if c.monitor != "validation_loss" and not c.validation_scores:
        yield f"monitor={c.monitor} needs scores while training: add validation_scores=50, or so many items."
    if c.monitor != "validation_loss" and not c.early_stopping:
        yield (
            f"monitor={c.monitor} decides when to stop and which adapter is kept: add early_stopping=3, so many "
            "validations without a better one."
        )


def _sharding_errors(c: Config) -> Iterator[str]:
    """What trainer=fsdp, where no process holds the whole base, cannot do."""
    if not is_sharded(c.trainer):
        return
    if c.model.quantisation is not Quantisation.nf4:
        yield (
            f"trainer=fsdp shards a base in NF4, and model.quantisation={c.model.quantisation.value}. Type "
            "model.quantisation=nf4."
        )
    wanted = {"evaluate": c.evaluate, "validation_scores": c.validation_scores, "forgetting": c.forgetting}
    for key in (key for key, value in wanted.items() if value):
        yield (
            f"{key}={wanted[key]}: no process of trainer=fsdp holds the whole base, so none can answer. Leave it out, "
            "and evaluate afterwards on a GPU that does."
        )


def _signal_errors(c: Config) -> Iterator[str]:
    name = c.stop_signal
    if name and name not in CHOSEN:
        yield f"stop_signal={name}: wanted one of {', '.join(CHOSEN)}."
    if name == "SIGUSR1" and c.trainer.get("strategy") and c.trainer.get("accelerator") != "cpu":
        yield "stop_signal=SIGUSR1: NCCL, through which several GPUs talk, uses it itself. Take SIGUSR2 or SIGHUP."


def _part_errors(c: Config) -> Iterator[str]:
    """What stop_at, which stops at a validation, does not go with."""
    if c.stop_at is None:
        return
    if c.validations == 0:
        yield f"stop_at={c.stop_at} stops at a validation, and validations=0 makes none."
    if c.preflight:
        yield f"stop_at={c.stop_at} stops a training, and preflight=true trains nothing. Leave one of them out."
    if c.question:
        yield f"stop_at={c.stop_at}: question={c.question} compares whole runs. Leave one of them out."


def _budget_errors(c: Config) -> Iterator[str]:
    budgets = {f"trainer.{key}": c.trainer.get(key) for key in ("max_epochs", "max_steps")}
    strange = {key: value for key, value in budgets.items() if not isinstance(value, int | None)}
    for key, value in strange.items():
        yield f"{key}={value}: wanted a whole number; null or -1 for no such budget."
    if not strange and not any((budget or -1) > 0 for budget in [c.max_tokens, *budgets.values()]):
        yield "No budget: give trainer.max_epochs, trainer.max_steps or max_tokens."
