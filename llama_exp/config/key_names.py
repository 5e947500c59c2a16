"""The key that somebody meant who typed another: names of other trainers, last parts of a key, typos."""

import difflib
from collections.abc import Iterable

# What transformers' TrainingArguments, TRL, Axolotl, LLaMA-Factory, litgpt and plain habit call our keys.
OTHER_NAMES = {
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "base_model": "model",
    "batch_size": "batch",
    "cutoff_len": "max_length",
    "epochs": "trainer.max_epochs",
    "eval_steps": "validations",
    "global_batch_size": "batch",
    "gradient_accumulation_steps": "micro_batch",
    "learning_rate": "optimizer.lr",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "lr": "optimizer.lr",
    "lora_target": "lora.targets",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "max_samples": "sample",
    "max_seq_length": "max_length",
    "max_train_samples": "sample",
    "micro_batch_size": "micro_batch",
    "model_name": "model",
    "model_name_or_path": "model.path",
    "n": "sample",
    "neftune_noise_alpha": "optimizer.neftune",
    "num_epochs": "trainer.max_epochs",
    "num_train_epochs": "trainer.max_epochs",
    "optim": "optimizer.name",
    "output_dir": "outputs",
    "per_device_eval_batch_size": "eval_batch",
    "per_device_train_batch_size": "micro_batch",
    "rank": "lora.r",
    "samples": "sample",
    "save_steps": "checkpoint_every",
    "scheduler": "optimizer.schedule",
    "sequence_len": "max_length",
    "size": "sample",
    "steps": "trainer.max_steps",
    "target_modules": "lora.targets",
    "wandb_project": "logger.wandb.project",
    "warmup_ratio": "optimizer.warmup",
    "warmup_steps": "optimizer.warmup",
}
# Those of them whose values mean something else here, or one of several: 100 steps of warm-up are no share.
OTHER_VALUES = {
    "adam_beta1",
    "adam_beta2",
    "base_model",
    "eval_steps",
    "gradient_accumulation_steps",
    "lora_target",
    "model_name",
    "optim",
    "target_modules",
    "warmup_steps",
}


def similar_keys(key: str, known: Iterable[str]) -> list[str]:
    """The known keys that were probably meant by `key`, the likeliest first; [] where nothing is near.

    rank -> lora.r (another tool's name); alpha -> lora.alpha (its last part); smaple -> sample (a typo).
    """
    known = list(known)
    name = key.rpartition(".")[2].lower().replace("-", "_")
    if name in OTHER_NAMES:
        return [OTHER_NAMES[name]]
    if same_end := [other for other in known if other.rpartition(".")[2] == name and other != key]:
        return same_end[:3]
    return difflib.get_close_matches(key, known, n=1, cutoff=0.8) or difflib.get_close_matches(
        key, known, n=3, cutoff=0.5
    )
