"""Which arguments of lightning.Trainer a run passes on, and which it refuses, with what to type instead.

A run is one pass over a plan of steps, so that it can be resumed exactly; what cuts epochs, batches or steps in another
way has a key of this package. The names are a table, because importing Lightning for a typo would take eight seconds; a
test holds it against Trainer's own signature.
"""

import difflib
from collections.abc import Iterator
from typing import Any

PLANNED = ("max_epochs", "max_steps")  # read by the plan, which counts in steps
PASSED = (
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "callbacks",  # added to those of this package
    "max_time",
    "limit_val_batches",
    "num_sanity_val_steps",
    "log_every_n_steps",  # to the loggers; metrics.csv has every step
    "enable_progress_bar",
    "enable_model_summary",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "deterministic",
    "benchmark",
    "inference_mode",
    "profiler",
    "detect_anomaly",
    "plugins",  # added to those of this package
    "sync_batchnorm",
    "enable_autolog_hparams",
    "model_registry",
)
LENGTH = (
    "how long a run is, trainer.max_epochs, trainer.max_steps and max_tokens say, and sample=N on how many Examples"
)
REFUSED = {
    "accumulate_grad_batches": "a step is exactly `batch` Examples, token-exact: micro_batch=N says how many at a time",
    "fast_dev_run": "for a quick trial type sample=16 trainer.max_steps=2, or preflight=true",
    "limit_train_batches": LENGTH,
    "overfit_batches": LENGTH,
    "min_epochs": "early_stopping=N decides when a run stops before its end",
    "min_steps": "early_stopping=N decides when a run stops before its end",
    "val_check_interval": "validations=N says how often validation loss is measured during a run",
    "check_val_every_n_epoch": "validations=N says how often validation loss is measured during a run",
    "limit_test_batches": "evaluation takes eval_sample=N",
    "limit_predict_batches": "evaluation takes eval_sample=N",
    "logger": "loggers are a group of their own: logger=wandb, logger=[csv,tensorboard]",
    "enable_checkpointing": "checkpoint_every=N says how often; without one, a killed run could not be resumed",
    "barebones": "a run without metrics and checkpoints could be neither reported nor resumed",
    "use_distributed_sampler": "the plan of a run divides its Examples among the processes itself",
    "reload_dataloaders_every_n_epochs": "all epochs of a run come from one plan, each in an order of its own",
    "default_root_dir": "outputs=FOLDER says where runs are written, out=FOLDER where this one is",
}
PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "16-mixed", "16")
# Lightning's own ways of sharding a model cannot load a base in 4 bits, and would not resume: model/sharding.py does.
REFUSED_STRATEGIES = ("fsdp_", "model_parallel", "deepspeed", "ddp_spawn", "ddp_notebook", "xla")


def trainer_errors(trainer: dict[str, Any]) -> Iterator[str]:
    """One line for each key that lightning.Trainer does not have, or that a run refuses."""
    known = [*PLANNED, *PASSED, *REFUSED]
    for key, value in trainer.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2)
            hint = f" Did you mean {' or '.join(f'trainer.{name}' for name in near)}?" if near else ""
            yield f"trainer.{key}: lightning.Trainer has no such argument.{hint}"
        elif key in REFUSED and value is not None:
            yield f"trainer.{key}={value} is not taken: {REFUSED[key]}."
    precision = trainer.get("precision")
    if precision is not None and str(precision) not in PRECISIONS:
        yield f"trainer.precision={precision}: wanted one of {', '.join(PRECISIONS)}."
    strategy = trainer.get("strategy")
    if isinstance(strategy, str) and strategy.startswith(REFUSED_STRATEGIES):
        yield (
            f"trainer.strategy={strategy} is not taken. Type trainer=ddp for several GPUs, or trainer=fsdp where the "
            "base does not fit one of them."
        )
    for key in ("callbacks", "plugins"):
        for number, item in enumerate(as_list(trainer.get(key))):
            if not (isinstance(item, dict) and isinstance(item.get("_target_"), str)):
                yield (
                    f"trainer.{key}: item {number} is {item!r}; wanted "
                    "{_target_: my_package.MyClass, argument: value}."
                )


def as_list(value: Any) -> list[Any]:
    """A list, one item alone, or {name: item}, which can be extended by key, as the list of items."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [value] if "_target_" in value else list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def named_loggers(logger: dict[str, Any]) -> dict[str, Any]:
    """{name: {_target_: …}}. A run of an earlier version has one logger without a name, or {}."""
    if "_target_" in logger:
        return {str(logger["_target_"]).rpartition(".")[2].removesuffix("Logger").lower(): logger}
    return dict(logger)


def logger_errors(logger: dict[str, Any]) -> Iterator[str]:
    loggers = named_loggers(logger)
    names = [name for name, item in loggers.items() if isinstance(item, dict)]
    for name, item in loggers.items():
        if not isinstance(item, dict):
            where = names[0] if names else "NAME"
            yield f"logger.{name}={item}: a logger's arguments come after its name: logger.{where}.{name}={item}"
        elif not isinstance(item.get("_target_"), str):
            yield f"logger.{name}: wanted {{_target_: my_package.MyLogger, argument: value}}."
