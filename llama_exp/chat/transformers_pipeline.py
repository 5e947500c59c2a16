"""A run as a transformers pipeline, prompted as in training."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, TextGenerationPipeline
from transformers.pipelines.text_generation import Chat

from llama_exp.chat.session import PromptFormat, parse_history
from llama_exp.config.schema import Config
from llama_exp.data.chat_format import chat_format
from llama_exp.data.encoding import encode_prompts
from llama_exp.errors import UserError
from llama_exp.model import hardware
from llama_exp.model.adapters import SharedBase
from llama_exp.model.lora import causal_lm
from llama_exp.runs.run import Run


class RunPipeline(TextGenerationPipeline):
    """transformers' own pipeline, except that a prompt becomes ids as in training, not by a chat template.

    A chat template writes "<s>" and "</s>" as text, and Llama's tokenizer makes other ids of "<s>[INST]" than of BOS
    and "[INST]". A text is a user's message; a chat is a list of {"role", "content"}, "system" first where there is
    one.
    """

    config: Config

    def preprocess(self, prompt_text: Any, **kwargs: Any) -> dict[str, Any]:
        message, system, history = prompt_text, None, ()
        if isinstance(prompt_text, Chat):
            turns = [{"role": turn["role"], "text": turn["content"]} for turn in prompt_text.messages]
            if turns[0]["role"] == "system":
                system = turns.pop(0)["text"]
            if not turns or turns[-1]["role"] != "user":
                raise UserError("A chat must end with a user's message, which the model then answers.")
            message, history = turns[-1]["text"], parse_history(turns[:-1])
        example = PromptFormat.of(self.config).example(message, history, system)
        max_new_tokens = kwargs.get("max_new_tokens") or self.config.dataset.max_new_tokens
        ids, _ = encode_prompts([example], self.tokenizer, self.config.max_length - max_new_tokens)
        tensor = torch.tensor(ids)
        return {"input_ids": tensor, "attention_mask": torch.ones_like(tensor), "prompt_text": prompt_text}


def load_pipeline(folder: str | Path, **options: Any) -> RunPipeline:
    """See llama_exp.chat.pipeline."""
    folder = Path(folder)
    run = Run.load(folder) if (folder / "config.yaml").is_file() else None
    if run is None or not run.is_finished:
        raise UserError(f"{folder} is not a finished run: it has no adapter. Folders of runs lie in outputs/DATASET/.")
    config = run.config
    hardware.check(config)
    base = SharedBase(config, config.trainer)
    base.add(run.adapter)
    llama, tokenizer = causal_lm(base.model), copy.deepcopy(base.tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    llama.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=chat_format(tokenizer).end,
        pad_token_id=tokenizer.pad_token_id,
    )
    defaults = {"max_new_tokens": config.dataset.max_new_tokens, "do_sample": False}
    pipeline = RunPipeline(model=llama, tokenizer=tokenizer, return_full_text=False, **{**defaults, **options})
    pipeline.config = config
    return pipeline
