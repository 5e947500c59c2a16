"""A run as a transformers pipeline, in the words it was trained with."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, TextGenerationPipeline
from transformers.pipelines.text_generation import Chat

from llama_exp.chat.json_lines import past
from llama_exp.chat.session import Wording
from llama_exp.config.schema import Config
from llama_exp.data.encoding import encode_prompts
from llama_exp.errors import UserError
from llama_exp.model import hardware
from llama_exp.model.adapters import Voices
from llama_exp.model.base import forget_base
from llama_exp.model.lora import causal_lm
from llama_exp.records import Example
from llama_exp.runs.run import Run


class RunPipeline(TextGenerationPipeline):
    """transformers' own pipeline, but for how a prompt becomes ids: as in training, not by a chat template.

    A chat template writes "<s>" and "</s>" as text, and Llama's tokenizer makes other ids of "<s>[INST]" than of BOS and
    "[INST]". A text is a user's message; a chat is a list of {"role", "content"}, "system" first where there is one.
    """

    config: Config

    def preprocess(self, prompt_text: Any, **kwargs: Any) -> dict[str, Any]:
        worded, system, history = Wording.of(self.config), None, ()
        said = prompt_text
        if isinstance(prompt_text, Chat):
            turns = [{"role": turn["role"], "text": turn["content"]} for turn in prompt_text.messages]
            if turns[0]["role"] == "system":
                system = turns.pop(0)["text"]
            if not turns or turns[-1]["role"] != "user":
                raise UserError("A chat ends with the user's message, which the model then answers.")
            said, history = turns[-1]["text"], past(turns[:-1])
        message, context = worded.message(said)
        example = Example("message", message, "", (), "", context, history, worded.system if system is None else system)
        room = kwargs.get("max_new_tokens") or self.config.dataset.max_new_tokens
        ids, _ = encode_prompts([example], self.tokenizer, self.config.max_length - room)
        tensor = torch.tensor(ids)
        return {"input_ids": tensor, "attention_mask": torch.ones_like(tensor), "prompt_text": prompt_text}


def pipeline(folder: str | Path, **options: Any) -> RunPipeline:
    """See llama_exp.chat.pipeline."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file() or not Run.load(folder).is_finished:
        raise UserError(f"{folder} is not a finished run: it has no adapter. Folders of runs lie in outputs/DATASET/.")
    config = Run.load(folder).config
    hardware.check(config)
    voices = Voices(config, config.trainer)
    forget_base()  # this base is the pipeline's own: a second pipeline must not put its adapter on it too
    voices.add(folder)
    llama, tokenizer = causal_lm(voices.model), copy.deepcopy(voices.tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    llama.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    made = RunPipeline(
        model=llama,
        tokenizer=tokenizer,
        return_full_text=False,
        **{"max_new_tokens": config.dataset.max_new_tokens, "do_sample": False, **options},
    )
    made.config = config
    return made
