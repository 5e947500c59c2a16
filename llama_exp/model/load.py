"""A model for a program of one's own: the base that a config names, with a fresh adapter on it."""

from torch import nn
from transformers import PreTrainedTokenizerBase

from llama_exp.config.schema import Config
from llama_exp.model import hardware
from llama_exp.model.base import base_dtype, check_length, load_base, target_device
from llama_exp.model.lora import attach_lora
from llama_exp.model.tokenizer import load_tokenizer


def load_model(config: Config) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The frozen base with an adapter that has learnt nothing yet, and the tokenizer; lora.r=0: the base alone.

        config = load_config("model=tiny", "lora.r=4")
        model, tokenizer = load_model(config)
        L.Trainer(max_epochs=3).fit(FineTuningModule(model), SquadDataModule(tokenizer=tokenizer, …))
        model.save_pretrained("adapter")  # in PEFT's format, without the base

    Only the adapter learns. It is drawn by `seed`; the device is that of `trainer.accelerator`. Every call loads a base
    of its own.
    Raises UserError for a model that is not there, needs other hardware, or would be computed wrongly.
    """
    hardware.check(config)
    device = target_device(config.trainer)
    base = load_base(config.model, device, base_dtype(config.trainer, device))
    check_length(base, config.max_length)
    if config.lora.r:
        base = attach_lora(base, config.lora, config.seed, bool(config.model.gradient_checkpointing))
    return base, load_tokenizer(config.model)
