"""Replies to many prompts at once, and how likely given responses are; or one reply, token by token.

    batches      prompts that begin alike share a prefix, which is computed once
    prefill      prompts and responses in one pass: first tokens, likelihoods, a cache
    decode_step  all replies grow by one token a step

A single reply is read token by token, as it grows (decode_one).
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from llama_exp.model.kernels.batches import DecodeRequest, PrefixGroup
from llama_exp.model.kernels.decode_step import DecodeStep
from llama_exp.model.kernels.decoder_layer import Layer, layers_of
from llama_exp.model.kernels.graphs import release_graphs
from llama_exp.model.kernels.next_token import Choose, likeliest
from llama_exp.model.kernels.prefill import prefill
from llama_exp.model.kernels.transfers import PendingCopy, to_device

CHECK_EVERY = 4  # steps between checks whether all replies have ended: a check waits for the GPU


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """ids: new tokens, EOS included; nll: summed over the response, in nats (None where there was none)."""

    index: int
    ids: list[int]
    nll: float | None


class LaunchedBatch:
    """The replies to a batch of prompts, which a GPU may still be computing. `read` waits for them."""

    def __init__(self, batch: Sequence[PrefixGroup], replies: torch.Tensor, nll: torch.Tensor | None, eos: int):
        self.requests = [request for group in batch for request in group.members]
        self.replies, self.nll, self.eos = PendingCopy(replies), None if nll is None else PendingCopy(nll), eos

    def read(self) -> list[DecodeResult]:
        ids = [_up_to_eos(row, self.eos) for row in self.replies.read().tolist()]
        nll: list[float | None] = [None] * len(ids)
        if self.nll:
            parts = self.nll.read().double().split([len(request.response) for request in self.requests])
            nll = [float(part.sum()) if len(part) else None for part in parts]
        return [DecodeResult(one.index, *found) for one, *found in zip(self.requests, ids, nll, strict=True)]


def decode_batches(
    llama: nn.Module, batches: Iterable[Sequence[PrefixGroup]], *, new: int, eos: int, choose: Choose = likeliest
) -> Iterator[list[DecodeResult]]:
    """Reply to every prompt of each batch, with at most `new` tokens.

    A GPU gets the next batch before the replies of the one before it are read, and computes while they are used.
    """
    unread = 1 if can_run_ahead(llama) else 0  # batches that are launched and not read yet
    launched: list[LaunchedBatch] = []
    try:
        for batch in batches:
            try:
                launched.append(launch_batch(llama, batch, new, eos, choose))
            except BaseException:  # what is there already is not lost
                yield from (one.read() for one in launched)
                raise
            if len(launched) > unread:
                yield launched.pop(0).read()
        yield from (one.read() for one in launched)
    finally:
        release_graphs(llama)


def can_run_ahead(llama: nn.Module) -> bool:
    """Whether the CPU is free while a batch is computed."""
    return llama.model.embed_tokens.weight.is_cuda


@torch.inference_mode()
def launch_batch(llama: nn.Module, batch: Sequence[PrefixGroup], new: int, eos: int, choose: Choose) -> LaunchedBatch:
    """Prefill and decode a batch: on a GPU, all but the last few steps are done when this returns."""
    step, nll = _prefilled(llama, layers_of(llama), batch, new, choose)
    return LaunchedBatch(batch, decode(step, new, eos), nll, eos)


def _prefilled(
    llama: nn.Module, layers: Sequence[Layer], batch: Sequence[PrefixGroup], new: int, choose: Choose
) -> tuple[DecodeStep, torch.Tensor | None]:
    """The step that follows on the prompts, and the likelihood of each token of their responses."""
    done = prefill(llama, layers, batch, new, choose)
    lengths = torch.tensor([len(request.prompt) for group in batch for request in group.members])
    positions = to_device(lengths, done.first.device)
    return DecodeStep(llama, layers, done.cache, done.first, positions, int(lengths.max()), choose), done.nll


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
    layers = layers_of(llama, direct=True)
    step, _ = _prefilled(llama, layers, [PrefixGroup(0, [DecodeRequest(0, tuple(prompt), ())])], new, choose)
    on_gpu = step.token.is_cuda
    try:
        for left in reversed(range(new)):
            token = PendingCopy(step.token)
            if left and on_gpu:
                step.run(left)
            value = int(token.read())
            yield value
            if value == eos:
                return
            if left and not on_gpu:
                step.run(left)
    finally:
        if on_gpu:  # the step launched last: the caller may change the model as soon as this is over
            torch.cuda.current_stream(step.token.device).synchronize()


def decode(step: DecodeStep, new: int, eos: int) -> torch.Tensor:
    """Grow all replies by one token a step, from the first token of each on -> (B, new), EOS behind their ends.

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
    return replies


def _up_to_eos(ids: list[int], eos: int) -> list[int]:
    """Up to the first EOS, which is included."""
    return ids[: ids.index(eos) + 1] if eos in ids else ids
