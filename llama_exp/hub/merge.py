"""Base and adapter in one model, and whether the two answer alike.

    NF4 base --dequantise--> bf16 (GPU) or float32 (CPU) --+ scale · B A--> saved as bf16 --read back--> compared

Merging into 4 bits would round the sum to 16 levels and lose what was learnt (huggingface/peft#1043). Dequantised
first, the weights are the very ones that the adapter was trained on, and only the rounding to bf16 is left; what that
does is measured on held-out Examples, between the adapter on its 4-bit base and the files that would go up.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_exp.config.schema import Config, Quantisation
from llama_exp.errors import UserError
from llama_exp.records import Example

AT_ONCE = 32  # prompts, where eval_batch does not say
ANSWER = 32  # tokens of an answer that are compared: any rounding parts two long answers sooner or later
SHARD = "2GB"  # a broken upload begins again at a shard


def fingerprint(adapter: Path) -> str:
    """SHA-256 of the adapter's weights and config."""
    digest = hashlib.sha256()
    for path in sorted(Path(adapter).glob("adapter_*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def merge(adapter: Path, trained: Config, asked: Config, folder: Path) -> None:
    """Write the merged model (bf16 safetensors) and its tokenizer to `folder`."""
    import torch
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from llama_exp.model import base as models
    from llama_exp.model.lora import load_lora

    disable_progress_bar()
    device = models.target_device(asked.trainer)
    base = models.load_base(trained.model, device)
    try:
        if trained.model.quantisation is Quantisation.nf4:
            models.dequantise(base, models.compute_dtype(device))
        merged = load_lora(base, adapter).merge_and_unload(safe_merge=True)
        for parameter in merged.parameters():  # `.to` refuses what was once a 4-bit model
            parameter.data = parameter.data.to(torch.bfloat16)
        merged.config.dtype = torch.bfloat16
        if hasattr(merged.config, "quantization_config"):
            del merged.config.quantization_config  # else it is written as null, which the loader takes for a method
        merged.save_pretrained(folder, max_shard_size=SHARD)
        # From its source again: `load_tokenizer` sets a length that is ours and no one else's.
        source = models.resolve_path(trained.model.path)
        AutoTokenizer.from_pretrained(source, revision=trained.model.revision).save_pretrained(folder)
    finally:
        models.forget_base()  # what was merged into is no longer the base


def compare(adapter: Path, trained: Config, asked: Config, folder: Path, count: int) -> dict[str, Any]:
    """Adapter and merged model on `count` held-out Examples: {"items", "loss_adapter", "loss_merged", "equal_answers"}.

    Losses in nats a token over the held-out responses; equal_answers is the share of greedy answers that are the same
    over their first ANSWER tokens.
    """
    from llama_exp.data import DATASETS
    from llama_exp.model import base as models
    from llama_exp.model.lora import detach_lora, load_lora
    from llama_exp.model.tokenizer import load_tokenizer

    device = models.target_device(asked.trainer)
    tokenizer = load_tokenizer(trained.model)
    data = DATASETS.of(trained, tokenizer)
    data.setup()
    examples = data.held_out(asked.split.value, count)
    tuned = load_lora(models.load_base(trained.model, device), adapter)
    try:
        loss_adapter, mine = _answers(tuned, tokenizer, trained, asked, examples)
    finally:
        detach_lora(tuned)
    as_published = replace(trained.model, path=str(folder), revision=None, quantisation=Quantisation.none)
    published = load_tokenizer(as_published)
    _check_ids(tokenizer, published, examples)
    loss_merged, theirs = _answers(models.load_base(as_published, device), published, trained, asked, examples)
    models.forget_base()
    equal = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(examples)
    return {"items": len(examples), "loss_adapter": loss_adapter, "loss_merged": loss_merged, "equal_answers": equal}


def _answers(model, tokenizer, trained: Config, asked: Config, examples: list[Example]) -> tuple[float, list[str]]:
    """(loss over the responses in nats a token, the greedy answers)."""
    from llama_exp.data.encoding import encode_all, encode_prompts
    from llama_exp.evaluation.generation import generate, likelihood

    longest = trained.dataset.max_new_tokens
    encoded, _ = encode_all(examples, tokenizer, trained.max_length, longest)
    measured = likelihood(model, encoded).values()
    if not measured:
        raise UserError("No held-out Example fits max_length: the merged model cannot be compared with the adapter.")
    prompts, _ = encode_prompts(examples, tokenizer, trained.max_length - longest)
    answers = [""] * len(examples)
    for replies in generate(
        model, tokenizer, prompts, max_new_tokens=min(ANSWER, longest), batch=asked.eval_batch or AT_ONCE
    ):
        for reply in replies:
            answers[reply.place] = reply.text
    return sum(nll for nll, _ in measured) / sum(tokens for _, tokens in measured), answers


def _check_ids(mine, published, examples: list[Example]) -> None:
    """The saved tokenizer must read every prompt as training did (a saved Llama tokenizer may not)."""
    texts = [example.prompt for example in examples] + [example.response for example in examples]
    if mine(texts)["input_ids"] != published(texts)["input_ids"]:
        raise UserError(
            "The tokenizer reads other ids once it is saved: the merged model would be asked in other words. "
            "Publish the adapter instead (merged=false); it is used with the base's own tokenizer."
        )
