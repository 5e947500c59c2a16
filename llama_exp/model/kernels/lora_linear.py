"""x · W and its LoRA, and the gradients. The base W is frozen, 4-bit or plain; A carries the scale already.

    y  = x W' + (x A') B'          (N, out)
    dB = dy' (x A')                 (out, r)
    dA = (dy B)' x                  (r, in)
    dx = dy W + (dy B) A            (N, in)

x · A is one product for all projections that share x (q, k, v; gate, up), and the low-rank part comes first, so that
the large product adds to it where it writes anyway. gate and up are one Projection, their weights side by side. W is
dequantised for each product and forgotten, so 4 bits stay the only copy, unless `keep_in_memory` keeps the dequantised
values. All layers' A and B are scaled, cast and laid side by side at once (`prepare_adapters`), a dozen operations
instead of a thousand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Part:
    """A linear layer of the base, and its LoRA where it has one: a (r, in), b (out, r), float32."""

    layer: nn.Module
    a: nn.Parameter | None
    b: nn.Parameter | None
    scale: float
    dropout: float


class Projection:
    """Linear layers, as they stand in the model with PEFT's LoRA around them or without, their results side by side."""

    __slots__ = ("bias", "parts")

    def __init__(self, *modules: nn.Module):
        self.parts = [_part(module) for module in modules]
        biases = [part.layer.bias for part in self.parts if part.layer.bias is not None]
        self.bias = None if not biases else torch.cat(biases)

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """(out, in), dequantised where it is 4-bit."""
        cached = getattr(self.parts[0].layer, "cached_weight", None)
        if cached is not None and cached.dtype is dtype:
            return cached
        layers = [part.layer for part in self.parts]
        if len(layers) == 1:
            return _weight(layers[0], dtype)
        if (whole := _as_one_matrix(layers)) is not None:
            return whole.to(dtype)
        rows = list(accumulate((layer.out_features for layer in layers), initial=0))
        whole = torch.empty(rows[-1], layers[0].in_features, dtype=dtype, device=layers[0].weight.device)
        for layer, (start, end) in zip(layers, pairwise(rows), strict=True):
            _weight(layer, dtype, whole[start:end])
        return whole


def _part(module: nn.Module) -> Part:
    if not hasattr(module, "lora_A"):
        return Part(module, None, None, 1.0, 0.0)
    base = module.get_base_layer()
    [name] = module.active_adapters or [None]
    if module.disable_adapters or name not in module.lora_A:
        return Part(base, None, None, 1.0, 0.0)
    dropout = getattr(module.lora_dropout[name], "p", 0.0) if module.training else 0.0
    return Part(base, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name], dropout)


def _weight(layer: nn.Module, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
    weight = layer.weight
    if getattr(weight, "quant_state", None) is None:
        return weight.to(dtype) if out is None else out.copy_(weight)
    if out is not None and weight.quant_state.dtype is dtype and out.is_cuda:
        return dequantize_4bit(weight.data, weight.quant_state, out=out)
    whole = dequantize_4bit(weight.data, weight.quant_state).to(dtype)
    return whole if out is None else out.copy_(whole)


def make_contiguous(decoder: nn.Module) -> None:
    """Put plain gate and up weights into one piece of memory, so that they are one matrix without a copy."""
    layers = [decoder.mlp.gate_proj, decoder.mlp.up_proj]
    if any(getattr(layer.weight, "quant_state", None) is not None for layer in layers):
        return
    whole = torch.cat([layer.weight.data for layer in layers])
    for layer, part in zip(layers, whole.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part


def _as_one_matrix(layers: Sequence[nn.Module]) -> torch.Tensor | None:
    """Plain weights that lie one behind the other in memory, as one matrix; None where they do not."""
    weights = [layer.weight for layer in layers]
    if any(getattr(weight, "quant_state", None) is not None for weight in weights):
        return None
    expected = weights[0].data_ptr()
    for weight in weights:
        if (
            weight.data_ptr() != expected
            or weight.untyped_storage().data_ptr() != weights[0].untyped_storage().data_ptr()
        ):
            return None
        expected += weight.numel() * weight.element_size()
    rows = sum(layer.out_features for layer in layers)
    return weights[0].data.as_strided((rows, layers[0].in_features), (layers[0].in_features, 1))


class Group:
    """Projections that share their x, with their LoRA: one a (sum of ranks, in), and a b (out, own ranks) for each.

    a and b are None where there is no adapter.
    """

    __slots__ = ("a", "b", "dropout", "projections")

    def __init__(self, *projections: Projection):
        self.projections = projections
        self.a: torch.Tensor | None = None
        self.b: list[torch.Tensor | None] = [None] * len(projections)
        self.dropout = max(part.dropout for p in projections for part in p.parts)

    def tensors(self) -> list[torch.Tensor | None]:
        """What an autograd function must be handed to return their gradients."""
        return [self.a, *self.b]

    def shape(self) -> tuple:
        """What must agree between layers for their adapters to be prepared together."""
        return tuple((part.a is None or part.a.shape, part.scale) for p in self.projections for part in p.parts)


def prepare_adapters(groups: Sequence[Group], dtype: torch.dtype) -> None:
    """Give the same Group of all layers its a and b, scaled and cast, in a few operations that autograd follows."""
    if len({group.shape() for group in groups}) > 1:  # an adapter from elsewhere, of different ranks
        for group in groups:
            prepare_adapters([group], dtype)
        return
    tuned = [[part for p in group.projections for part in p.parts if part.a is not None] for group in groups]
    if not tuned[0]:
        return
    scale = tuned[0][0].scale
    stacked = torch.stack([part.a for parts in tuned for part in parts])
    stacked = (stacked if scale == 1.0 else stacked * scale).to(dtype)
    for group, a in zip(groups, stacked.view(len(groups), -1, stacked.shape[-1]).unbind(0), strict=True):
        group.a = a
    for index in range(len(groups[0].projections)):
        parts = [group.projections[index].parts for group in groups]
        if all(part.b is None for part in parts[0]):
            continue
        for group, b in zip(groups, _block_diagonal(parts).to(dtype).unbind(0), strict=True):
            group.b[index] = b


def _block_diagonal(parts: Sequence[Sequence[Part]]) -> torch.Tensor:
    """The B of one projection's parts in all layers -> (layers, out, ranks), block-diagonal.

    Each part's rows (gate's, up's) meet its own ranks alone, so that one product serves both.
    """
    ranks = [0 if part.b is None else part.b.shape[1] for part in parts[0]]
    blocks, before = [], 0
    for index, rank in enumerate(ranks):
        if rank:
            block = torch.stack([of_layer[index].b for of_layer in parts])
        else:
            layer = parts[0][index].layer
            block = torch.zeros(len(parts), layer.out_features, 0, device=layer.weight.device)
        blocks.append(F.pad(block, (before, sum(ranks) - before - rank)) if len(ranks) > 1 else block)
        before += rank
    return torch.cat(blocks, 1) if len(blocks) > 1 else blocks[0]


def multiply(
    x: torch.Tensor, group: Group, seed: int, onto: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """x (N, in) -> [y (N, out)] of each projection, and x A' (N, sum of ranks) for the backward pass.

    onto: added to the first y (a residual connection).
    """
    low = down_project(x, group, seed)
    results, start = [], 0
    for p, b in zip(group.projections, group.b, strict=True):
        weight = p.weight(x.dtype).t()
        if b is None:
            y = x @ weight if onto is None else torch.addmm(onto, x, weight)
        else:
            part = low[:, start : start + b.shape[1]]
            y = part @ b.t() if onto is None else torch.addmm(onto, part, b.t())
            y.addmm_(x, weight)  # the large product accumulates onto the small one: no extra pass over (N, out)
            start += b.shape[1]
        results.append(y if p.bias is None else y.add_(p.bias))
    return results, low


def down_project(x: torch.Tensor, group: Group, seed: int) -> torch.Tensor | None:
    """x A' (N, sum of ranks), with dropout on x where LoRA has it."""
    return None if group.a is None else dropout(x, group.dropout, seed) @ group.a.t()


def multiply_backward(
    grads: Sequence[torch.Tensor],
    x: torch.Tensor,
    low: torch.Tensor | None,
    group: Group,
    seed: int,
    needs_x: bool = True,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """dy (N, out) of each -> dx (N, in) or None, and the gradients of `group.tensors()`."""
    rises, of_b, start = [], [], 0
    for b, grad in zip(group.b, grads, strict=True):
        if b is None:
            of_b.append(None)
            continue
        rises.append(grad @ b)
        of_b.append(grad.t() @ low[:, start : start + b.shape[1]])
        start += b.shape[1]
    dx = of_a = None
    if rises:
        rise = torch.cat(rises, 1) if len(rises) > 1 else rises[0]
        of_a = rise.t() @ dropout(x, group.dropout, seed)
        if needs_x:
            dx = dropout(rise @ group.a, group.dropout, seed)
    if needs_x:
        for p, grad in zip(group.projections, grads, strict=True):
            weight = p.weight(x.dtype)
            dx = grad @ weight if dx is None else dx.addmm_(grad, weight)
    return dx, [of_a, *of_b]


def dropout(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Dropout whose mask is a function of `seed`: the backward pass draws it again instead of keeping it.

    Projections that share x share the mask, where PEFT draws one for each.
    """
    if not share:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return x * kept / (1 - share)
