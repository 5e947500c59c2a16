"""Prompts and responses in one pass: the first new token, the likelihood of the responses, and a cache to go on from.

The last position of a prompt gives the first new token, the positions of the response its likelihood. Keys and values
of each whole prompt are laid into one cache, a row each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from llama_exp.model.kernels.attention import CachedRows, Segments, attend, attend_prompts
from llama_exp.model.kernels.batches import PrefixGroup
from llama_exp.model.kernels.forward import hidden_states, token_nll
from llama_exp.model.kernels.next_token import Choose
from llama_exp.model.kernels.transfers import to_device


class KVCache:
    """Keys and values of each layer, (B, width, kv heads, D).

    A row begins in column 0, so that its tokens lie together, as the kernel for rows of different lengths wants them.
    """

    def __init__(self, width: int, layers: int):
        self.width = width
        self.keys: list[torch.Tensor] = [torch.empty(0)] * layers
        self.values: list[torch.Tensor] = [torch.empty(0)] * layers

    def fill(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Store k, v (B, at least width, kv heads, D), whose rows may go on behind the cache's."""
        self.keys[layer], self.values[layer] = (x[:, : self.width].contiguous() for x in (k, v))

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch only."""
        for store in (self.keys, self.values):
            for layer, values in enumerate(store):
                store[layer] = values[rows]


@dataclass(frozen=True, slots=True)
class Prefilled:
    """cache: of the prompts; first (B,): the first new token of each; nll: of each token of all responses, one behind
    the other, in nats (None where there are no responses)."""

    cache: KVCache
    first: torch.Tensor
    nll: torch.Tensor | None


def prefill(llama, layers, batch: Sequence[PrefixGroup], new: int, choose: Choose) -> Prefilled:
    """Run prompts and responses in one pass, without waiting for the GPU."""
    device = llama.model.embed_tokens.weight.device
    requests = [request for group in batch for request in group.members]
    shared = _prefill_prefixes(llama, layers, batch, device)
    suffixes, offsets = [], []  # what is run for each prompt by itself, and at which position that begins
    for group in batch:
        for request in group.members:
            suffixes.append(request.prompt[group.shared :] + request.response[:-1])
            offsets.append(group.shared)
    cache = KVCache(new + max(len(request.prompt) for request in requests), len(layers))
    width = max(cache.width, *(len(request.prompt) + len(request.response) - 1 for request in requests))
    indices, last, of_responses = _layout(batch, suffixes, width)
    indices = to_device(indices, device)
    lengths = [len(suffix) for suffix in suffixes]
    # A suffix attends to its prefix as well: more keys than queries.
    segments = Segments.of(lengths, device, keys=[sum(both) for both in zip(offsets, lengths, strict=True)])
    rows = CachedRows.of_segments(segments, width)

    def attend_all(layer, q, k, v):
        if shared:
            k, v = (torch.cat([prefix, own]) for prefix, own in zip(shared[layer], (k, v), strict=True))
            shared[layer] = ()  # copied: release the prefix of a layer as soon as it was used
        k, v = k[indices], v[indices]
        if new:
            cache.fill(layer, k, v)
        return attend_prompts(q, k, v, rows, segments)

    wanted = to_device(torch.tensor(last + of_responses), device)
    ids, positions = _concatenate(suffixes, offsets, device)
    hidden = hidden_states(llama, ids, positions, attend_all, wanted, layers)
    first = choose(hidden[: len(requests)] @ llama.lm_head.weight.t())
    nll = None
    if of_responses:
        targets = to_device(torch.tensor([token for request in requests for token in request.response]), device)
        nll = token_nll(hidden[len(requests) :], llama.lm_head.weight, targets)
    return Prefilled(cache, first, nll)


def _prefill_prefixes(llama, layers, batch: Sequence[PrefixGroup], device) -> list:
    """Keys and values of all prefixes, (M, kv heads, D) each, a pair a layer; [] where no prompts share one."""
    prefixes = [group.members[0].prompt[: group.shared] for group in batch if group.shared]
    if not prefixes:
        return []
    segments = Segments.of([len(prefix) for prefix in prefixes], device)
    keys_values = []

    def attend_prefix(_, q, k, v):
        keys_values.append((k, v))
        return attend(q, k, v, segments)

    # The last layer's keys and values are wanted, not its output: computing it for one token is enough.
    first_only = torch.zeros(1, dtype=torch.long, device=device)
    ids, positions = _concatenate(prefixes, [0] * len(prefixes), device)
    hidden_states(llama, ids, positions, attend_prefix, first_only, layers)
    return keys_values


def _concatenate(texts: Sequence[Sequence[int]], offsets: Sequence[int], device) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([token for text in texts for token in text])
    positions = [torch.arange(begin, begin + len(text)) for text, begin in zip(texts, offsets, strict=True)]
    return to_device(ids, device), to_device(torch.cat(positions), device)


def _layout(
    batch: Sequence[PrefixGroup], suffixes: Sequence[Sequence[int]], width: int
) -> tuple[torch.Tensor, list[int], list[int]]:
    """Indices into the keys and values of [all prefixes, all suffixes], and into the suffixes alone.

    Returns:
        rows (B, width): for each prompt its prefix, then its suffix with the response. Behind that, the index is 0:
            never attended to. New tokens overwrite the response where that is in the cache.
        last: the last token of each prompt, which predicts the first new one.
        of_responses: the tokens that predict each response's tokens.
    """
    after_prefixes = sum(group.shared for group in batch)  # where the suffixes begin
    rows, last, of_responses = [], [], []
    prefix = start = number = 0
    for group in batch:
        for request in group.members:
            size = len(suffixes[number])
            shared = torch.arange(prefix, prefix + group.shared)
            whole = torch.cat([shared, torch.arange(after_prefixes + start, after_prefixes + start + size)])
            rows.append(F.pad(whole, (0, width - len(whole))))
            last.append(start + len(request.prompt) - group.shared - 1)
            of_responses += range(last[-1], last[-1] + len(request.response))
            start, number = start + size, number + 1
        prefix += group.shared
    return torch.stack(rows), last, of_responses
