"""The adapter merged into its base, and whether the merged model answers like the adapter.

    NF4 base --dequantise--> bf16 (GPU) or float32 (CPU) --+ scale · B A--> saved as bf16 --read back--> compared

Merging into 4 bits would round the sum to 16 levels and lose what was learnt (huggingface/peft#1043). Dequantised
first, the weights are exactly those the adapter was trained on, and only the rounding to bf16 is left. Its effect is
measured on held-out Examples, between the adapter on its 4-bit base and the files to be uploaded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils.logging import disable_progress_bar

from llama_exp.config.schema import Config, Quantisation
from llama_exp.data import DATASETS
from llama_exp.data.chat_format import TemplateFormat, chat_format
from llama_exp.data.encoding import encode_all, encode_prompts
from llama_exp.errors import UserError
from llama_exp.evaluation.generation import Reply, generate, likelihood, make_reply
from llama_exp.model.base import BaseLoader, compute_dtype, dequantise, load_base, resolve_path, target_device
from llama_exp.model.lora import load_lora
from llama_exp.model.tokenizer import load_tokenizer, read_tokenizer
from llama_exp.records import Example
from llama_exp.runs.run import Run

BATCH = 32  # prompts, unless eval_batch says otherwise
ANSWER_TOKENS = 32  # of an answer that are compared: after enough tokens any rounding changes an answer
SHARD_SIZE = "2GB"  # an interrupted upload resumes at a shard


def merge(run: Run, config: Config, folder: Path) -> None:
    """Write the merged model (bf16 safetensors) and its tokenizer to `folder`; `config` names the device."""
    disable_progress_bar()
    model, device = run.config.model, target_device(config.trainer)
    base = load_base(model, device)
    if model.quantisation is Quantisation.nf4:
        dequantise(base, compute_dtype(device))
    merged = load_lora(base, run.adapter).merge_and_unload(safe_merge=True)
    for parameter in merged.parameters():  # `.to` refuses a model that was once in 4 bits
        parameter.data = parameter.data.to(torch.bfloat16)
    merged.config.dtype = torch.bfloat16
    if hasattr(merged.config, "quantization_config"):
        del merged.config.quantization_config  # else it is written as null, which the loader takes for a method
    merged.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    # From its source again: `load_tokenizer` sets a length limit that should not be published.
    tokenizer = read_tokenizer(resolve_path(model.path), model.path, model.revision)
    form = chat_format(tokenizer)
    if isinstance(form, TemplateFormat):  # with its date fixed, or the plain one: others word prompts as in training
        tokenizer.chat_template = form.template
    tokenizer.save_pretrained(folder)


def compare_with_adapter(run: Run, config: Config, folder: Path, count: int) -> dict[str, Any]:
    """Adapter and merged model on `count` held-out Examples: {"items", "loss_adapter", "loss_merged", "equal_answers"}.

    Losses in nats per token over the held-out responses; equal_answers is the share of greedy answers that are equal
    over their first ANSWER_TOKENS tokens.
    """
    bases, device = BaseLoader(), target_device(config.trainer)  # one base in memory at a time
    tokenizer = load_tokenizer(run.config.model)
    data = DATASETS.of(run.config, tokenizer)
    data.setup()
    examples = data.held_out(config.split.value, count)
    batch = config.eval_batch or BATCH
    tuned = load_lora(bases.load(run.config.model, device), run.adapter)
    loss_adapter, answers = _loss_and_answers(tuned, tokenizer, run.config, batch, examples)
    del tuned
    published = replace(run.config.model, path=str(folder), revision=None, quantisation=Quantisation.none)
    published_tokenizer = load_tokenizer(published)
    _check_ids(tokenizer, published_tokenizer, examples)
    merged = bases.load(published, device)
    loss_merged, merged_answers = _loss_and_answers(
        merged, published_tokenizer, run.config, batch, examples, answer=_by_transformers
    )
    equal = sum(a == b for a, b in zip(answers, merged_answers, strict=True)) / len(examples)
    return {"items": len(examples), "loss_adapter": loss_adapter, "loss_merged": loss_merged, "equal_answers": equal}


def _loss_and_answers(
    model, tokenizer, trained: Config, batch: int, examples: Sequence[Example], answer=generate
) -> tuple[float, list[str]]:
    """(loss over the responses in nats per token, the greedy answers, which `answer` makes)."""
    limit = trained.dataset.max_new_tokens
    encoded, _ = encode_all(examples, tokenizer, trained.max_length, limit)
    measured = likelihood(model, encoded).values()
    if not measured:
        raise UserError("No held-out Example fits max_length: the merged model cannot be compared with the adapter.")
    prompts, _ = encode_prompts(examples, tokenizer, trained.max_length - limit)
    answers = [""] * len(examples)
    for replies in answer(model, tokenizer, prompts, max_new_tokens=min(ANSWER_TOKENS, limit), batch=batch):
        for reply in replies:
            answers[reply.index] = reply.text
    return sum(nll for nll, _ in measured) / sum(tokens for _, tokens in measured), answers


def _by_transformers(model, tokenizer, prompts, *, max_new_tokens: int, batch: int) -> Iterator[list[Reply]]:
    """`generate` by transformers' own: what those who download the folder will run."""
    end = chat_format(tokenizer).end
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([list(prompt)], device=model.device)
        settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=end)
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        yield [make_reply(tokenizer, index, found[0, len(prompt) :].tolist())]


def _check_ids(tokenizer, published, examples: Sequence[Example]) -> None:
    """The saved tokenizer must encode every text as in training (a saved Llama tokenizer may not)."""
    texts = [example.prompt for example in examples] + [example.response for example in examples]
    if tokenizer(texts)["input_ids"] != published(texts)["input_ids"]:
        raise UserError(
            "The saved tokenizer encodes the held-out texts differently: the merged model would get other prompts. "
            "Publish the adapter instead (merged=false); it is used with the base's own tokenizer."
        )
