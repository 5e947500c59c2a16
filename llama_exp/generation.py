"""Prompts in, replies out, batched; and how likely the model finds the responses of held-out people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from llama_exp.data.packing import row_loader
from llama_exp.model import causal_lm, response_nll
from llama_exp.records import Tokens


@dataclass(frozen=True, slots=True)
class Reply:
    """place: which prompt; finished: whether it ended by EOS before the limit; tokens: how many were generated."""

    place: int
    text: str
    finished: bool
    tokens: int


@torch.inference_mode()
def generate(
    model: nn.Module, tokenizer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch: int, **sampling
) -> Iterator[list[Reply]]:
    """Reply to each prompt (ids from BOS to `[/INST]`); yields a batch of replies at a time, longest prompts first.

    Greedy unless `sampling` (do_sample, temperature, top_p …) says otherwise. Prompts of like length share a batch, so
    little is padded, and the largest batch comes first: a machine that is too small says so at once.
    """
    from transformers import GenerationConfig

    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.unk_token_id or 0)
    settings = GenerationConfig(**{"do_sample": False, "max_new_tokens": max_new_tokens, "pad_token_id": pad,
                                   "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
                                   "use_cache": True, **sampling})  # fmt: skip
    llama = causal_lm(model)
    llama.eval()
    order = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        width = len(prompts[places[0]])
        ids = torch.full((len(places), width), pad)
        mask = torch.zeros(len(places), width, dtype=torch.long)
        for row, place in enumerate(places):  # padded on the left: replies start at one column
            ids[row, width - len(prompts[place]) :] = torch.tensor(prompts[place])
            mask[row, width - len(prompts[place]) :] = 1
        out = llama.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings)
        yield [_reply(tokenizer, place, row[width:].tolist()) for place, row in zip(places, out, strict=True)]


def _reply(tokenizer, place: int, ids: list[int]) -> Reply:
    finished = tokenizer.eos_token_id in ids
    if finished:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return Reply(place, tokenizer.decode(ids, skip_special_tokens=True).strip(), finished, len(ids) + finished)


@torch.inference_mode()
def likelihood(model: nn.Module, tokens: Sequence[Tokens], rows: int) -> dict[str, tuple[float, int]]:
    """{id: (summed negative log-likelihood of the response and its EOS in nats, its tokens)}, packed, `rows` at a time."""
    model.eval()
    device = next(model.parameters()).device
    found: dict[str, tuple[float, int]] = {}
    if not tokens:
        return found
    loader = row_loader(tokens, rows)
    for lines, batch in zip(loader.dataset, loader, strict=True):
        batch = batch.to(device)
        nll, places = response_nll(model, batch.input_ids, batch.labels, batch.position_ids)
        width = batch.input_ids.shape[1]
        owner = torch.empty(len(lines) * width, dtype=torch.long)
        items = []
        for row, inside in enumerate(lines):
            end = row * width
            for item in inside:
                owner[end : end + len(item.input_ids)] = len(items)
                end += len(item.input_ids)
                items.append(item)
        sums = torch.zeros(len(items), dtype=torch.float64)
        sums.index_add_(0, owner[places.cpu()], nll.double().cpu())
        found.update({item.id: (float(total), item.label_tokens) for item, total in zip(items, sums, strict=True)})
    return found
