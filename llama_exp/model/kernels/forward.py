"""All layers over Examples laid end to end, and how likely each labelled token is."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.autograd import Function

from llama_exp.batch import Batch
from llama_exp.model.kernels.attention import Segments, attend
from llama_exp.model.kernels.decoder_layer import Layer, layers_of
from llama_exp.model.lora import causal_lm

CHUNK = 2048  # labelled tokens that meet the output layer at once: 32,000 logits each


def hidden_states(
    llama: nn.Module,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    attend_layer: Callable,
    indices: torch.Tensor | None = None,
    layers: Sequence[Layer] | None = None,
) -> torch.Tensor:
    """input_ids, position_ids (N,) -> hidden states after the last norm: (N, d), or (len(indices), d) of `indices`.

    attend_layer(layer number, q, k, v) -> (N, heads, D): attention, which decides which token attends to which.
    layers: those of `layers_of`, where the same ones run many times.
    """
    inner = llama.model
    x = inner.embed_tokens(input_ids[None])
    cos, sin = inner.rotary_emb(x, position_ids[None])
    x, cos, sin = x[0], cos[0], sin[0]
    recompute = inner.layers[0].gradient_checkpointing and llama.training  # the property of the model asks every module
    last = len(inner.layers) - 1
    for number, layer in enumerate(layers or layers_of(llama)):
        # drawn on the CPU: a draw on the GPU would wait for it
        seed = int(torch.randint(2**40, ())) if layer.dropout else 0
        x = layer.run(
            x, cos, sin, _of_layer(attend_layer, number), indices if number == last else None, seed, recompute
        )
    return inner.norm(x)


def _of_layer(attend_layer: Callable, number: int) -> Callable:
    return lambda q, k, v: attend_layer(number, q, k, v)


def response_nll(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each labelled token, in nats, float32.

    -> nll (N,) and where (N,): the index in the batch of each labelled token. Only hidden states that predict a label
    go through the last layer's second half and the output layer: a small part for SQuAD, where nearly all tokens are
    prompt.
    """
    llama = causal_lm(model)
    labels = batch.labels[0]
    indices = batch.predicting
    if not len(indices):  # an empty share of a step: run all the same, so that every rank has a gradient (of 0) to give
        nothing, _ = response_nll(model, replace(batch, predicting=indices.new_zeros(1)))
        return nothing[:0], indices
    segments = Segments.of(batch.lengths, labels.device)
    hidden = hidden_states(
        llama, batch.input_ids[0], batch.position_ids[0], lambda _, q, k, v: attend(q, k, v, segments), indices
    )
    return token_nll(hidden, llama.lm_head.weight, labels[indices + 1].clamp(min=0)), indices + 1


def token_nll(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """hidden (N, d), the frozen output layer's weight (vocabulary, d), targets (N,) -> nll (N,) in nats, float32."""
    return OutputLayer.apply(hidden, weight, targets)


class OutputLayer(Function):
    """A frozen output layer and cross-entropy, `CHUNK` tokens at a time, so that no more logits than that ever exist.

    The gradient to the hidden states, d nll_i / d h_i = (softmax(logits_i) - onehot_i) W, is made while the logits are
    there (as Liger's fused linear cross-entropy does) and scaled by what comes back.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            scores = torch.log_softmax(hidden[part] @ weight.t(), -1, dtype=torch.float32)
            right = targets[part, None]
            nll[part] = -scores.gather(1, right).squeeze(1)
            if slope is not None:
                scores = scores.exp_().scatter_add_(1, right, scores.new_full(right.shape, -1.0))
                slope[part] = scores.to(weight.dtype) @ weight
        ctx.save_for_backward(slope)
        return nll

    @staticmethod
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return (slope * grad[:, None]).to(slope.dtype), None, None
