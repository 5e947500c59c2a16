"""Replies to many prompts at once, and how likely given responses are, with shared prefixes computed once.

SQuAD asks several questions of a context. Prompts that begin alike are laid out as one shared prefix and their own
suffixes:

    prefix   [INST] … Context: a long text            computed once
    suffixes Question: who? [/INST]  Eve </s>          one for each prompt; the response, where there is one, behind it

The last position of the prompt gives the first new token, the positions of the response its likelihood. Then keys and
values of each whole prompt are laid into one cache (prefill), and all replies grow by one token a step (decode).
A single reply is read token by token, as it grows (decode_one).
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from llama_exp.model.kernels.attention import CachedRows, Segments, attend, attend_cached_rows, can_flash
from llama_exp.model.kernels.decoder_layer import layers_of
from llama_exp.model.kernels.forward import hidden_states, token_nll
from llama_exp.model.kernels.next_token import Choose, likeliest

GRAPH_FROM = 4  # steps
CHECK_EVERY = 4  # steps between checks whether all replies have ended: a check waits for the GPU


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """index: which prompt; response: ids whose likelihood is wanted, () = not measured."""

    index: int
    prompt: tuple[int, ...]
    response: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """ids: new tokens, EOS included; nll: summed over the response, in nats (None where there was none)."""

    index: int
    ids: list[int]
    nll: float | None


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Prompts that begin with the same `shared` tokens (and go on, each by itself, for at least one more)."""

    shared: int
    members: list[DecodeRequest]


def group_by_prefix(requests: Sequence[DecodeRequest]) -> list[PrefixGroup]:
    """Group prompts that share a prefix.

    Sharing less than half of a prompt (the words that every prompt of a dataset begins with) is not worth a group, nor
    is a member that makes the others share less than it gains.
    """
    found: list[PrefixGroup] = []
    longest = shortest = 0  # prompts of the last group
    for request in sorted(requests, key=lambda request: (request.prompt, request.index)):
        size = len(request.prompt)
        if found:
            last = found[-1]
            shared = min(
                _common_prefix_length(last.members[-1].prompt, request.prompt),
                size - 1,
                shortest - 1,
                last.shared or size,
            )
            lost = (last.shared - shared) * len(last.members)
            if 2 * shared >= max(size, longest) and lost <= shared:
                found[-1] = PrefixGroup(shared, last.members)
                last.members.append(request)
                longest, shortest = max(longest, size), min(shortest, size)
                continue
        found.append(PrefixGroup(0, [request]))
        longest = shortest = size
    return found


def _common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def make_batches(requests: Sequence[DecodeRequest], new: int, count: int, tokens: float) -> Iterator[list[PrefixGroup]]:
    """Batch groups of similar length, longest first.

    A batch has at most `count` prompts and, padded, about `tokens` positions in the cache, new tokens included.
    """
    batch: list[PrefixGroup] = []
    widest = count_now = 0
    for group in sorted(
        group_by_prefix(requests), key=lambda group: -max(len(request.prompt) for request in group.members)
    ):
        own = new + max(len(request.prompt) for request in group.members)
        for part in _cut(group, max(1, min(count, int(tokens // own)))):
            width = max(widest, new + max(len(request.prompt) for request in part.members))
            if batch and (count_now + len(part.members) > count or (count_now + len(part.members)) * width > tokens):
                yield batch
                batch, widest, count_now = [], 0, 0
                width = new + max(len(request.prompt) for request in part.members)
            batch.append(part)
            widest, count_now = width, count_now + len(part.members)
    if batch:
        yield batch


def _cut(group: PrefixGroup, count: int) -> Iterator[PrefixGroup]:
    for start in range(0, len(group.members), count):
        members = group.members[start : start + count]
        yield PrefixGroup(group.shared if len(members) > 1 else 0, members)


@torch.inference_mode()
def decode_batch(
    llama: nn.Module, batch: Sequence[PrefixGroup], *, new: int, eos: int, choose: Choose = likeliest
) -> list[DecodeResult]:
    """Reply to every prompt of a batch, with at most `new` tokens each."""
    layers = layers_of(llama)
    requests = [request for group in batch for request in group.members]
    cache, first, nll = prefill(llama, layers, batch, requests, new, choose)
    lengths = torch.tensor([len(request.prompt) for request in requests])
    step = DecodeStep(llama, layers, cache, first, lengths.to(first.device), int(lengths.max()), choose)
    replies = decode(step, new, eos)
    return [DecodeResult(request.index, ids, value) for request, ids, value in zip(requests, replies, nll, strict=True)]


@torch.inference_mode()
def decode_one(
    llama: nn.Module, prompt: Sequence[int], *, new: int, eos: int, choose: Choose = likeliest
) -> Generator[int, None, None]:
    """Reply to one prompt: yields at most `new` tokens, each as it is there, EOS included.

    On a GPU the next step is launched before a token is read, so that the GPU never waits for who reads. Inference mode
    ends at each yield: torch's decorator enters it for every resumption of a generator.
    """
    if new < 1:
        return
    layers = layers_of(llama)
    request = DecodeRequest(0, tuple(prompt), ())
    cache, first, _ = prefill(llama, layers, [PrefixGroup(0, [request])], [request], new, choose)
    position = torch.tensor([len(request.prompt)], device=first.device)
    step = DecodeStep(llama, layers, cache, first, position, len(request.prompt), choose)
    try:
        for left in reversed(range(new)):
            token = TokenOnItsWay(step.token)
            if left and first.is_cuda:
                step.run(left)
            value = token.read()
            yield value
            if value == eos:
                return
            if left and not first.is_cuda:
                step.run(left)
    finally:
        if first.is_cuda:  # the step launched last: the caller may change the model as soon as this is over
            torch.cuda.current_stream(first.device).synchronize()


class TokenOnItsWay:
    """A token (1,) being copied to the CPU. `read` waits for the copy, not for what is launched after it."""

    def __init__(self, token: torch.Tensor):
        self.value = token.to("cpu", non_blocking=True)
        self.copied = torch.cuda.Event() if token.is_cuda else None
        if self.copied:
            self.copied.record(torch.cuda.current_stream(token.device))

    def read(self) -> int:
        if self.copied:
            self.copied.synchronize()
        return int(self.value)


class KVCache:
    """Keys and values of each layer, (B, width, kv heads, D).

    A row begins in column 0, so that its tokens lie together, as the kernel for rows of different lengths wants them.
    """

    def __init__(self, width: int, layers: int):
        self.width = width
        self.keys: list[torch.Tensor | None] = [None] * layers
        self.values: list[torch.Tensor | None] = [None] * layers

    def fill(self, layer: int, k: torch.Tensor, v: torch.Tensor, indices: torch.Tensor) -> None:
        """Store k, v (M, kv heads, D) of all texts as rows; `indices` (B, filled) says which token goes where."""
        for store, values in ((self.keys, k), (self.values, v)):
            rows = values.new_zeros(len(indices), self.width, *values.shape[1:])
            rows[:, : indices.shape[1]] = values[indices]
            store[layer] = rows

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows of the batch only."""
        for store in (self.keys, self.values):
            for layer, values in enumerate(store):
                store[layer] = values[rows]


def prefill(
    llama, layers, batch: Sequence[PrefixGroup], requests: Sequence[DecodeRequest], new: int, choose: Choose = likeliest
):
    """Run prompts and responses in one pass.

    Returns the filled cache, the first new token of each prompt (B,) and each response's summed nll (or None).
    """
    device = llama.model.embed_tokens.weight.device
    shared = _prefill_prefixes(llama, layers, batch, device)
    suffixes, offsets = [], []  # what is run for each prompt by itself, and at which position that begins
    for group in batch:
        for request in group.members:
            suffixes.append(request.prompt[group.shared :] + request.response[:-1])
            offsets.append(group.shared)
    key_indices, filled, last_indices, response_indices = _layout(batch, requests, suffixes)
    key_indices, filled = key_indices.to(device), filled.to(device)
    lengths = [len(suffix) for suffix in suffixes]
    # A suffix attends to its prefix as well: more keys than queries.
    segments = Segments.of(lengths, device, keys=[sum(both) for both in zip(offsets, lengths, strict=True)])
    cache = KVCache(filled.shape[1] + new, len(layers))

    def attend_all(layer, q, k, v):
        if shared:
            k, v = (torch.cat([prefix, own]) for prefix, own in zip(shared[layer], (k, v), strict=True))
            shared[layer] = ()  # the cache holds a copy: release the prefix of a layer as soon as it was used
        cache.fill(layer, k, v, filled)
        return attend(q, k[key_indices], v[key_indices], segments)

    wanted = torch.tensor(last_indices + response_indices, device=device)
    ids, positions = _concatenate(suffixes, offsets, device)
    hidden = hidden_states(llama, ids, positions, attend_all, wanted, layers)
    first = choose(hidden[: len(requests)] @ llama.lm_head.weight.t())
    nll: list[float | None] = [None] * len(requests)
    if response_indices:
        targets = torch.tensor([token for request in requests for token in request.response], device=device)
        each = token_nll(hidden[len(requests) :], llama.lm_head.weight, targets).double().cpu()
        parts = each.split([len(request.response) for request in requests])
        nll = [float(part.sum()) if len(part) else None for part in parts]
    return cache, first, nll


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
    ids = torch.tensor([token for text in texts for token in text], device=device)
    positions = [torch.arange(begin, begin + len(text)) for text, begin in zip(texts, offsets, strict=True)]
    return ids, torch.cat(positions).to(device)


def _layout(batch: Sequence[PrefixGroup], requests: Sequence[DecodeRequest], suffixes: Sequence[Sequence[int]]):
    """Index tensors into the keys and values of [all prefixes, all suffixes], and indices into the suffixes alone.

    Returns:
        keys (M,): for each prompt its prefix, then its suffix.
        cache (B, width): each prompt without its response. Behind it the index is 0: never attended to.
        last_indices: the last token of each prompt, which predicts the first new one.
        response_indices: the tokens that predict each response's tokens.
    """
    width = max(len(request.prompt) for request in requests)
    after_prefixes = sum(group.shared for group in batch)  # where the suffixes begin
    keys, cache, last_indices, response_indices = [], [], [], []
    prefix = start = number = 0
    for group in batch:
        for request in group.members:
            suffix = suffixes[number]
            shared = torch.arange(prefix, prefix + group.shared)
            whole = torch.cat([shared, torch.arange(after_prefixes + start, after_prefixes + start + len(suffix))])
            keys.append(whole)
            cache.append(F.pad(whole[: len(request.prompt)], (0, width - len(request.prompt))))
            last = start + len(request.prompt) - group.shared - 1
            last_indices.append(last)
            response_indices += range(last, last + len(request.response))
            start, number = start + len(suffix), number + 1
        prefix += group.shared
    return torch.cat(keys), torch.stack(cache), last_indices, response_indices


def decode(step: "DecodeStep", new: int, eos: int) -> list[list[int]]:
    """Grow all replies by one token a step, from the first token of each on.

    A finished reply stays in the batch, ignored, until half of the batch is finished: copying the cache costs more than
    a few idle rows.
    """
    first = step.token
    running = torch.arange(len(first), device=first.device)
    replies = torch.full((len(first), new), eos, device=first.device)
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for index in range(new):
        replies[running, index] = torch.where(ended, eos, step.token)
        ended = ended | (step.token == eos)
        if index == new - 1:
            break
        if (index + 1) % CHECK_EVERY == 0:
            unfinished = int((~ended).sum())  # waits for the GPU
            if unfinished == 0:
                break
            if 2 * unfinished <= len(running):
                rows_left = (~ended).nonzero().squeeze(1)
                step = step.select(rows_left)
                running, ended = running[rows_left], ended[rows_left]
        step.run(left=new - 1 - index)
    return [_up_to_eos(row, eos) for row in replies.tolist()]


class DecodeStep:
    """The next token of each row, `token` (B,), written into the cache at `position` (B,), at most `longest`.

    The tensors stay where they are, so that on a GPU the step is captured as a CUDA graph once it has run: launching
    its kernels one by one takes a CPU longer than the GPU needs for them. The likeliest token is chosen inside of the
    graph; one is drawn outside, where the random numbers differ from step to step.
    """

    def __init__(
        self,
        llama,
        layers,
        cache: KVCache,
        token: torch.Tensor,
        position: torch.Tensor,
        longest: int,
        choose: Choose = likeliest,
    ):
        self.llama, self.layers, self.cache, self.longest = llama, layers, cache, longest
        self.token, self.position, self.choose = token.clone(), position.clone(), choose
        self.logits: torch.Tensor | None = None  # of the last step, (B, vocabulary), where a token is drawn of them
        self.rows = CachedRows.of(position + 1, cache.width)
        self.every_row = torch.arange(len(token), device=token.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.has_run = False

    def select(self, rows: torch.Tensor) -> "DecodeStep":
        """A step of these rows alone, whose cache has no others."""
        self.cache.select(rows)
        token, position = self.token[rows], self.position[rows]
        return DecodeStep(self.llama, self.layers, self.cache, token, position, self.longest, self.choose)

    def run(self, left: int) -> None:
        """left: how many steps will run, this one included; a graph pays from GRAPH_FROM on."""
        if self.has_run and not self.graph and left >= GRAPH_FROM and can_flash(self.cache.keys[0]):
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._run()
        if self.graph:
            self.graph.replay()
        else:
            self._run()
        if self.logits is not None:
            self.token.copy_(self.choose(self.logits))
        self.longest, self.has_run = self.longest + 1, True

    def _run(self) -> None:
        hidden = hidden_states(self.llama, self.token, self.position, self._attend, self.every_row, self.layers)
        logits = hidden @ self.llama.lm_head.weight.t()
        if self.choose is likeliest:
            self.token.copy_(likeliest(logits))
        else:
            self.logits = logits
        self.position.add_(1)
        self.rows.used.add_(1)

    def _attend(self, layer: int, q, k, v):
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.every_row, self.position], values[self.every_row, self.position] = k, v
        return attend_cached_rows(q, keys, values, self.rows, self.longest + 1)


def _up_to_eos(ids: list[int], eos: int) -> list[int]:
    """Up to the first EOS, which is included."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids
