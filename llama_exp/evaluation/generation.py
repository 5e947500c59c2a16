"""Prompts in, replies out; and how likely the model finds the responses of held-out people.

answers      greedy replies and likelihoods of held-out Examples, from one pass over what their prompts share
generate     transformers' own, batched: also by drawing
stream       one reply as it comes
likelihood   of given responses alone
"""

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationConfig

from llama_exp.data.chat_format import chat_format
from llama_exp.data.packing import collate, in_parts
from llama_exp.model import memory
from llama_exp.model.kernels.batch_decode import DecodeRequest, decode_batch, make_batches
from llama_exp.model.kernels.decoder_layer import keep_in_memory
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.lora import causal_lm
from llama_exp.records import Tokens

AT_ONCE = 256  # prompts, where neither the config nor the memory says less


@dataclass(frozen=True, slots=True)
class Reply:
    """index: which prompt; finished: whether it ended by itself before the limit; tokens: how many were generated;
    nll: summed over the response that it was measured on, in nats."""

    index: int
    text: str
    finished: bool
    tokens: int
    nll: float | None = None


def answers(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[Sequence[int]],
    measured: Sequence[Tokens | None],
    *,
    max_new_tokens: int,
    batch: int | None = None,
) -> Iterator[list[Reply]]:
    """Reply greedily to each prompt (the ids of ChatFormat.prompts).

    Yields a batch of replies at a time, longest prompts first: the same replies as `generate`'s, and as `likelihood`'s
    the likelihood of each prompt's response in `measured` (None: there is none, or it does not fit).
    batch: prompts at once; None = as many as the memory holds.
    """
    llama = causal_lm(model)
    llama.eval()
    requests = []
    for index, (prompt, tokens) in enumerate(zip(prompts, measured, strict=True)):
        response = () if tokens is None else tuple(tokens.input_ids[len(prompt) :])
        if tokens is not None and tokens.input_ids[: len(prompt)] != list(prompt):
            raise ValueError(f"{tokens.id} was measured on another prompt than the one given")
        requests.append(DecodeRequest(index, tuple(prompt), response))
    weight = next(llama.parameters())
    with keep_in_memory(llama, weight.is_cuda and memory.can_cache_weights(llama)):
        room = memory.cache_tokens(llama)
        for some in make_batches(requests, max_new_tokens, batch or AT_ONCE, room):
            found = decode_batch(llama, some, new=max_new_tokens, eos=chat_format(tokenizer).end)
            yield [dataclasses.replace(_reply(tokenizer, one.index, one.ids), nll=one.nll) for one in found]


@torch.inference_mode()
def generate(
    model: nn.Module, tokenizer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch: int, **sampling
) -> Iterator[list[Reply]]:
    """Reply to each prompt (the ids of ChatFormat.prompts); yields a batch of replies at a time, longest prompts first.

    Greedy unless `sampling` (do_sample, temperature, top_p …) says otherwise. Prompts of like length share a batch, so
    little is padded, and the largest batch comes first: a machine that is too small says so at once.
    """
    device = next(model.parameters()).device
    settings = _settings(tokenizer, max_new_tokens, sampling)
    pad = settings.pad_token_id
    llama = causal_lm(model)
    llama.eval()
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        width = len(prompts[indices[0]])
        ids = torch.full((len(indices), width), pad)
        mask = torch.zeros(len(indices), width, dtype=torch.long)
        for row, index in enumerate(indices):  # padded on the left: replies start at one column
            ids[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, width - len(prompts[index]) :] = 1
        out = llama.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings)
        yield [_reply(tokenizer, index, row[width:].tolist()) for index, row in zip(indices, out, strict=True)]


def _settings(tokenizer, max_new_tokens: int, sampling: dict):
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.unk_token_id or 0)
    return GenerationConfig(
        **{
            "do_sample": False,
            "max_new_tokens": max_new_tokens,
            "pad_token_id": pad,
            "eos_token_id": chat_format(tokenizer).end,
            "bos_token_id": tokenizer.bos_token_id,
            "use_cache": True,
            **sampling,
        }
    )


def stream(
    model: nn.Module, tokenizer, prompt: Sequence[int], *, max_new_tokens: int, **sampling
) -> Iterator[str | Reply]:
    """Reply to one prompt as it comes: pieces of text, and at last the Reply, whose text is the pieces joined.

    The same words as `generate` of this prompt alone. Closing the iterator stops the model at its next token.
    """
    device = next(model.parameters()).device
    settings = _settings(tokenizer, max_new_tokens, sampling)
    llama = causal_lm(model)
    llama.eval()
    pieces = Pieces(tokenizer)

    def work() -> None:
        try:
            ids = torch.tensor([list(prompt)], device=device)
            with torch.inference_mode():
                llama.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings, streamer=pieces
                )
        except _Stopped:
            pass
        except BaseException as error:  # out of memory, or a bug: raised where the reply is read
            pieces.ready.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while not isinstance(piece := pieces.ready.get(), Reply):
            if isinstance(piece, BaseException):
                raise piece
            yield piece
        yield piece
    finally:
        pieces.stopped = True
        worker.join()  # the caller may change the model as soon as this is over


class _Stopped(Exception):
    """Nobody reads on."""


class Pieces:
    """A streamer for transformers' `generate`: ids in, pieces of text out, in `ready`.

    Half a character and trailing blanks wait for what follows, so that the pieces joined are the stripped reply.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.ready, self.stopped = tokenizer, queue.Queue(), False
        self.ids: list[int] | None = None  # None until the prompt has come by
        self.sent = ""

    def put(self, ids: torch.Tensor) -> None:
        if self.stopped:
            raise _Stopped
        if self.ids is None:
            self.ids = []
            return
        self.ids += ids.flatten().tolist()
        text = _reply(self.tokenizer, 0, self.ids).text
        if not text.endswith("\ufffd"):
            self._send(text)

    def end(self) -> None:
        reply = _reply(self.tokenizer, 0, self.ids or [])
        self._send(reply.text)
        self.ready.put(reply)

    def _send(self, text: str) -> None:
        if len(text) > len(self.sent) and text.startswith(self.sent):
            self.ready.put(text[len(self.sent) :])
            self.sent = text


def _reply(tokenizer, index: int, ids: list[int]) -> Reply:
    end = chat_format(tokenizer).end
    finished = end in ids
    if finished:
        ids = ids[: ids.index(end)]
    return Reply(index, tokenizer.decode(ids, skip_special_tokens=True).strip(), finished, len(ids) + finished)


@torch.inference_mode()
def likelihood(model: nn.Module, tokens: Sequence[Tokens], size: int = 4096) -> dict[str, tuple[float, int]]:
    """{id: (summed negative log-likelihood of the response and its EOS in nats, its tokens)}, `size` tokens at a
    time."""
    model.eval()
    device = next(model.parameters()).device
    found: dict[str, tuple[float, int]] = {}
    ordered = sorted(tokens, key=lambda item: (-len(item.input_ids), item.id))
    for part in in_parts(ordered, size):
        nll, _ = response_nll(model, collate(part).to(device))
        sums = [piece.sum().item() for piece in nll.double().cpu().split([item.label_tokens for item in part])]
        found.update({item.id: (total, item.label_tokens) for item, total in zip(part, sums, strict=True)})
    return found
