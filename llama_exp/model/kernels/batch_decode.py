"""Greedy replies to many prompts at once, and how likely given responses are, from one pass over what they share.

SQuAD asks several questions of a context. Prompts that begin alike are laid out as one shared prefix and their own ends:

    prefix   [INST] … Context: a long text            computed once
    ends     Question: who? [/INST]  Eve </s>          one for each prompt; the response, where there is one, behind it

The last place of the prompt gives the first new token, the places of the response its likelihood. Then keys and values of
each whole prompt are laid against the right edge of one cache, and the replies grow beside each other, a token a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from llama_exp.model.kernels.attention import Segments, attend
from llama_exp.model.kernels.decoder_layer import layers_of
from llama_exp.model.kernels.forward import hidden_states, token_nll

CHECKED_EVERY = 4  # steps between looks at whether all replies have ended: a look waits for the GPU


@dataclass(frozen=True, slots=True)
class Asked:
    """place: which prompt; response: ids whose likelihood is wanted, () = not measured."""

    place: int
    prompt: tuple[int, ...]
    response: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """ids: new tokens, EOS included; nll: summed over the response, in nats (None where there was none)."""

    place: int
    ids: list[int]
    nll: float | None


@dataclass(frozen=True, slots=True)
class Family:
    """Prompts that begin with the same `shared` tokens (and go on, each by itself, for at least one more)."""

    shared: int
    members: list[Asked]


def families(asked: Sequence[Asked]) -> list[Family]:
    """Sort prompts into families, so that what begins alike lies together. Sharing less than half of a prompt (the words
    that every prompt of a dataset begins with) is not worth a family, nor is one that makes the others share less."""
    found: list[Family] = []
    longest = shortest = 0  # prompts of the last family
    for one in sorted(asked, key=lambda one: (one.prompt, one.place)):
        size = len(one.prompt)
        if found:
            last = found[-1]
            shared = min(_alike(last.members[-1].prompt, one.prompt), size - 1, shortest - 1, last.shared or size)
            lost = (last.shared - shared) * len(last.members)
            if 2 * shared >= max(size, longest) and lost <= shared:
                found[-1] = Family(shared, last.members)
                last.members.append(one)
                longest, shortest = max(longest, size), min(shortest, size)
                continue
        found.append(Family(0, [one]))
        longest = shortest = size
    return found


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def batches(asked: Sequence[Asked], new: int, count: int, tokens: float) -> Iterator[list[Family]]:
    """Families of like length together, longest first, at most `count` prompts and about `tokens` places of cache a batch."""
    batch: list[Family] = []
    widest = held = 0
    for family in sorted(families(asked), key=lambda family: -max(len(one.prompt) for one in family.members)):
        own = new + max(len(one.prompt) for one in family.members)
        for part in _cut(family, max(1, min(count, int(tokens // own)))):
            width = max(widest, new + max(len(one.prompt) for one in part.members))
            if batch and (held + len(part.members) > count or (held + len(part.members)) * width > tokens):
                yield batch
                batch, widest, held = [], 0, 0
                width = new + max(len(one.prompt) for one in part.members)
            batch.append(part)
            widest, held = width, held + len(part.members)
    if batch:
        yield batch


def _cut(family: Family, count: int) -> Iterator[Family]:
    for start in range(0, len(family.members), count):
        members = family.members[start : start + count]
        yield Family(family.shared if len(members) > 1 else 0, members)


@torch.inference_mode()
def answer(llama: nn.Module, batch: Sequence[Family], *, new: int, eos: int) -> list[Answered]:
    """Reply greedily to every prompt of a batch, with at most `new` tokens each."""
    layers = layers_of(llama)
    asked = [one for family in batch for one in family.members]
    cache, first, nll = _read(llama, layers, batch, asked, new)
    replies = _grow(llama, layers, cache, first, [len(one.prompt) for one in asked], new, eos)
    return [Answered(one.place, ids, value) for one, ids, value in zip(asked, replies, nll, strict=True)]


class Cache:
    """Keys and values of each layer, (B, width, kv heads, D); prompts end at `filled`, new tokens go behind it."""

    def __init__(self, filled: int, width: int, layers: int):
        self.filled, self.width = filled, width
        self.keys: list[torch.Tensor | None] = [None] * layers
        self.values: list[torch.Tensor | None] = [None] * layers

    def fill(self, number: int, k: torch.Tensor, v: torch.Tensor, places: torch.Tensor) -> None:
        """k, v (M, kv heads, D) of all texts, laid out by `places` (B, filled)."""
        for store, values in ((self.keys, k), (self.values, v)):
            room = values.new_zeros(len(places), self.width, *values.shape[1:])
            room[:, : self.filled] = values[places]
            store[number] = room

    def keep(self, rows: torch.Tensor) -> None:
        for store in (self.keys, self.values):
            for number, values in enumerate(store):
                store[number] = values[rows]


def _read(llama, layers, batch: Sequence[Family], asked: Sequence[Asked], new: int):
    """Run prompts and responses: the filled cache, the first new token of each (B,), and the responses' summed nll."""
    device = llama.model.embed_tokens.weight.device
    shared = _read_prefixes(llama, layers, batch, device)
    ends, begins = [], []  # what is run for each prompt by itself, and at which position it begins
    for family in batch:
        for one in family.members:
            ends.append(one.prompt[family.shared :] + one.response[:-1])
            begins.append(family.shared)
    keyed, filled, at_last, at_response = _geometry(batch, asked, ends)
    keyed, filled = keyed.to(device), filled.to(device)
    segments = Segments.of(
        [len(end) for end in ends], device, keys=[b + len(end) for b, end in zip(begins, ends, strict=True)]
    )
    cache = Cache(filled.shape[1], filled.shape[1] + new, len(layers))

    def see_all(number, q, k, v):
        if shared:
            k, v = (torch.cat([before, own]) for before, own in zip(shared[number], (k, v), strict=True))
            shared[number] = ()
        cache.fill(number, k, v, filled)
        return attend(q, k[keyed], v[keyed], segments)

    wanted = torch.tensor(at_last + at_response, device=device)
    ids, positions = _laid(ends, begins, device)
    hidden = hidden_states(llama, ids, positions, see_all, wanted, layers)
    first = (hidden[: len(asked)] @ llama.lm_head.weight.t()).argmax(-1)
    nll: list[float | None] = [None] * len(asked)
    if at_response:
        targets = torch.tensor([token for one in asked for token in one.response], device=device)
        each = token_nll(hidden[len(asked) :], llama.lm_head.weight, targets).double().cpu()
        parts = each.split([len(one.response) for one in asked])
        nll = [float(part.sum()) if len(part) else None for part in parts]
    return cache, first, nll


def _read_prefixes(llama, layers, batch: Sequence[Family], device) -> list:
    """Keys and values of all prefixes, (M, kv heads, D) each, a pair a layer; [] where no prompts share one."""
    prefixes = [family.members[0].prompt[: family.shared] for family in batch if family.shared]
    if not prefixes:
        return []
    segments = Segments.of([len(prefix) for prefix in prefixes], device)
    read = []

    def see(_, q, k, v):
        read.append((k, v))
        return attend(q, k, v, segments)

    nothing = torch.zeros(1, dtype=torch.long, device=device)
    ids, positions = _laid(prefixes, [0] * len(prefixes), device)
    hidden_states(llama, ids, positions, see, nothing, layers)
    return read


def _laid(texts: Sequence[Sequence[int]], begins: Sequence[int], device) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([token for text in texts for token in text], device=device)
    positions = [torch.arange(begin, begin + len(text)) for text, begin in zip(texts, begins, strict=True)]
    return ids, torch.cat(positions).to(device)


def _geometry(batch: Sequence[Family], asked: Sequence[Asked], ends: Sequence[Sequence[int]]):
    """Where things lie among [all prefixes, all ends] and among the ends.

    keys (M,): for each prompt its prefix, then its end; cache (B, width): the prompt alone, against the right edge (what is
    left of it points anywhere, and is never seen); the places, among the ends, of each prompt's last token and of those
    that predict a response's tokens.
    """
    width = max(len(one.prompt) for one in asked)
    own = sum(family.shared for family in batch)  # where the ends begin
    keys, cache, at_last, at_response = [], [], [], []
    prefix = start = number = 0
    for family in batch:
        for one in family.members:
            end = ends[number]
            shared = torch.arange(prefix, prefix + family.shared)
            whole = torch.cat([shared, torch.arange(own + start, own + start + len(end))])
            keys.append(whole)
            cache.append(F.pad(whole[: len(one.prompt)], (width - len(one.prompt), 0)))
            last = start + len(one.prompt) - family.shared - 1
            at_last.append(last)
            at_response += range(last, last + len(one.response))
            start, number = start + len(end), number + 1
        prefix += family.shared
    return torch.cat(keys), torch.stack(cache), at_last, at_response


def _grow(llama, layers, cache: Cache, first, lengths: Sequence[int], new: int, eos: int) -> list[list[int]]:
    """Step by step, a token a prompt. Prompts whose reply has ended leave once they are half of those that run."""
    device = first.device
    token = first
    lengths = torch.tensor(lengths, device=device)
    places = torch.arange(cache.width, device=device)
    seen = places >= cache.filled - lengths[:, None]  # (B, width): not what lies left of the prompt
    running = torch.arange(len(first), device=device)
    replies = torch.full((len(first), new), eos, device=device)
    ended = torch.zeros(len(first), dtype=torch.bool, device=device)
    for step in range(new):
        replies[running, step] = torch.where(ended, eos, token)
        ended = ended | (token == eos)
        if step == new - 1:
            break
        if (step + 1) % CHECKED_EVERY == 0:
            left = int((~ended).sum())
            if left == 0:
                break
            if 2 * left <= len(running):
                kept = (~ended).nonzero().squeeze(1)
                cache.keep(kept)
                running, ended, token, lengths, seen = (x[kept] for x in (running, ended, token, lengths, seen))
        column = cache.filled + step

        def see(number, q, k, v, column=column, seen=seen):
            keys, values = cache.keys[number], cache.values[number]
            keys[:, column], values[:, column] = k, v
            rows, heads, size = q.shape
            mine = q.view(rows, keys.shape[2], -1, size)  # query heads beside the key head they share
            mask = seen[:, None, None, : column + 1]
            told = F.scaled_dot_product_attention(
                mine, keys[:, : column + 1].transpose(1, 2), values[:, : column + 1].transpose(1, 2), attn_mask=mask
            )
            return told.reshape(rows, heads, size)

        everyone = torch.arange(len(token), device=device)
        hidden = hidden_states(llama, token, lengths + step, see, everyone, layers)
        token = (hidden @ llama.lm_head.weight.t()).argmax(-1)
    return [_until(row, eos) for row in replies.tolist()]


def _until(ids: list[int], eos: int) -> list[int]:
    """Up to the first EOS, which is included."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids
