"""A GPU's first use of each kernel, out of the way while the CPU still reads data.

Kernels are compiled or loaded when they are first called, 2 to 5 s in all; done here, by the thread that loads the
base, on random numbers at the model's own widths. What goes wrong here would go wrong in the first step too, which can
say it better.
"""

import contextlib

import torch
from torch import nn

from llama_exp.model.kernels.attention import Segments, attend
from llama_exp.model.kernels.decoder_layer import Layer, fp8_weights, layers_of
from llama_exp.model.kernels.forward import token_nll
from llama_exp.model.kernels.lora_linear import Group
from llama_exp.model.sharding import is_in_shares

TOKENS = 513, 528  # kernels are compiled apart for counts that 16 divides


def warm_up(base: nn.Module, rank: int, fp8: bool = False) -> None:
    """Warm `base` up for adapters of `rank`, once. Nothing on a CPU, nor for a base in shares: where this failed in one
    process, the others would wait for it."""
    if (
        not base.model.embed_tokens.weight.is_cuda
        or getattr(base, "is_warm", False)
        or is_in_shares(base.model.layers[0])
    ):
        return
    base.is_warm = True
    with contextlib.suppress(Exception):
        run_kernels(base, rank, fp8)


def run_kernels(base: nn.Module, rank: int, fp8: bool = False) -> None:
    """One layer and the output layer, forward and backward. Leaves the base as it is."""
    weight = base.model.embed_tokens.weight
    layer = layers_of(base)[0]
    for group in layer.groups:
        _adapt(group, rank, weight)
    random = torch.Generator(weight.device).manual_seed(0)  # not the generator that training draws from
    for count in TOKENS:
        x = torch.randn(count, weight.shape[1], device=weight.device, generator=random).to(weight.dtype)
        with fp8_weights(layer.groups if fp8 else [], kept=False):
            _step(base, layer, x.requires_grad_())


def _adapt(group: Group, rank: int, like: torch.Tensor) -> None:
    """An adapter of zeros, which belongs to no model."""
    parts = [len(projection.parts) for projection in group.projections]
    inputs = group.projections[0].parts[0].layer.in_features
    group.a = like.new_zeros(rank * sum(parts), inputs).requires_grad_()
    group.b = [
        like.new_zeros(sum(part.layer.out_features for part in projection.parts), rank * count).requires_grad_()
        for projection, count in zip(group.projections, parts, strict=True)
    ]


def _step(base: nn.Module, layer: Layer, x: torch.Tensor) -> None:
    lengths = (len(x) // 2, len(x) - len(x) // 2)
    segments = Segments.of(lengths, x.device)
    positions = torch.cat([torch.arange(length) for length in lengths]).to(x.device)
    cos, sin = base.model.rotary_emb(x[None], positions[None])
    targets = torch.zeros(len(x), dtype=torch.long, device=x.device)
    y = layer.run(x, cos[0], sin[0], lambda q, k, v: attend(q, k, v, segments), None, 0, recompute=False)
    token_nll(base.model.norm(y), base.lm_head.weight, targets).sum().backward()
