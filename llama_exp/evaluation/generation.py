"""Prompts in, replies out; and how likely the model finds the responses of held-out people.

answers      replies and likelihoods of held-out Examples, from one pass over what their prompts share
generate     replies alone
stream       one reply as it comes
likelihood   of given responses alone
"""

import contextlib
import dataclasses
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from llama_exp.data.chat_format import chat_format
from llama_exp.data.packing import collate, in_parts
from llama_exp.model import memory
from llama_exp.model.kernels.batch_decode import decode_batches, decode_one
from llama_exp.model.kernels.batches import DecodeRequest, make_batches
from llama_exp.model.kernels.decoder_layer import keep_in_memory
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.kernels.next_token import chooser
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
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> Iterator[list[Reply]]:
    """Reply to each prompt (the ids of ChatFormat.prompts), greedily unless there is a temperature.

    Yields a batch of replies at a time, longest prompts first: those of transformers' `generate`, and as `likelihood`
    does it the likelihood of each prompt's response in `measured` (None: there is none, or it does not fit).
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
    eos, choose = chat_format(tokenizer).end, chooser(temperature, top_p)
    weight = next(llama.parameters())
    with keep_in_memory(llama, weight.is_cuda and memory.can_cache_weights(llama)):
        # What is drawn depends on who shares a batch: then the memory at hand does not decide it.
        room = sys.maxsize if temperature and batch else memory.cache_tokens(llama)
        batches = make_batches(requests, max_new_tokens, batch or AT_ONCE, room)
        for found in decode_batches(llama, batches, new=max_new_tokens, eos=eos, choose=choose):
            yield [dataclasses.replace(make_reply(tokenizer, one.index, one.ids), nll=one.nll) for one in found]


def generate(
    model: nn.Module, tokenizer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch: int, **sampling: float
) -> Iterator[list[Reply]]:
    """Reply to each prompt (the ids of ChatFormat.prompts); yields a batch of replies at a time, longest prompts first.

    Greedy unless `sampling` (temperature, top_p) says otherwise.
    """
    nothing = [None] * len(prompts)
    yield from answers(model, tokenizer, prompts, nothing, max_new_tokens=max_new_tokens, batch=batch, **sampling)


def stream(
    model: nn.Module,
    tokenizer,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> Generator[str | Reply, None, None]:
    """Reply to one prompt as it comes: a piece of text for each token, and at last the Reply, whose text is the pieces
    joined.

    A piece is "" where its text waits for the next token, so that the reader may stop at each token: closing the
    iterator stops the model. The same words as `generate` of this prompt alone, but for tokens that are as likely:
    where a GPU reads 4-bit weights, sums are added up in another order.
    """
    llama = causal_lm(model)
    llama.eval()
    eos, pieces = chat_format(tokenizer).end, Pieces(tokenizer)
    tokens = decode_one(llama, prompt, new=max_new_tokens, eos=eos, choose=chooser(temperature, top_p))
    with contextlib.closing(tokens):
        for token in tokens:
            yield pieces.add(token)
    if rest := pieces.rest():
        yield rest
    yield make_reply(tokenizer, 0, pieces.ids)


class Pieces:
    """Tokens in, pieces of text out.

    Half a character and trailing blanks wait for what follows, so that the pieces joined are the stripped reply.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.sent = tokenizer, list[int](), ""

    def add(self, token: int) -> str:
        self.ids.append(token)
        text = make_reply(self.tokenizer, 0, self.ids).text
        return "" if text.endswith("\ufffd") else self._new(text)

    def rest(self) -> str:
        """What still waits when the reply is over."""
        return self._new(make_reply(self.tokenizer, 0, self.ids).text)

    def _new(self, text: str) -> str:
        """The part of `text` that was not sent before."""
        if not text.startswith(self.sent):
            return ""
        new, self.sent = text[len(self.sent) :], text
        return new


def make_reply(tokenizer, index: int, ids: list[int]) -> Reply:
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
