"""x · W and its LoRA, and the gradients. The base W is frozen, 4-bit or plain.

    y  = x W' + scale · (x A') B'          (N, out)
    dB = scale · dy' (x A')                 (out, r)
    dA = scale · (dy B)' x                  (r, in)
    dx = dy W + scale · (dy B) A            (N, in)

x · A is one product for all projections that share x (q, k, v; gate, up), and results are added in the matrix product that
makes them. gate and up are one Projection, their weights side by side. W is dequantised for each product and forgotten, so
4 bits stay the only copy, unless `hold` keeps the dequantised values where there is memory for them.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
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

    __slots__ = ("bias", "dropout", "parts", "rank", "scale", "tuned")

    def __init__(self, *modules: nn.Module):
        self.parts = [_part(module) for module in modules]
        self.tuned = [part for part in self.parts if part.a is not None]
        self.scale = self.tuned[0].scale if self.tuned else 1.0
        self.dropout = self.tuned[0].dropout if self.tuned else 0.0
        self.rank = sum(len(part.a) for part in self.tuned)
        biases = [part.layer.bias for part in self.parts if part.layer.bias is not None]
        self.bias = None if not biases else torch.cat(biases)

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """(out, in), dequantised where it is 4-bit."""
        held = getattr(self.parts[0].layer, "held", None)
        if held is not None and held.dtype is dtype:
            return held
        layers = [part.layer for part in self.parts]
        if len(layers) == 1:
            return _weight(layers[0], dtype)
        if (whole := _in_one_piece(layers)) is not None:
            return whole.to(dtype)
        rows = list(accumulate((layer.out_features for layer in layers), initial=0))
        whole = torch.empty(rows[-1], layers[0].in_features, dtype=dtype, device=layers[0].weight.device)
        for layer, (start, end) in zip(layers, pairwise(rows), strict=True):
            _weight(layer, dtype, whole[start:end])
        return whole

    def b(self, dtype: torch.dtype) -> torch.Tensor:
        """(out, sum of ranks): block by block, so that each part's rows meet their own low-rank values alone."""
        if len(self.parts) == 1:
            return self.tuned[0].b.to(dtype)
        blocks = [
            part.b
            if part.a is not None
            else part.layer.weight.new_zeros(part.layer.out_features, 0, dtype=torch.float32)
            for part in self.parts
        ]
        return torch.block_diag(*blocks).to(dtype)

    def of_b(self, whole: torch.Tensor) -> list[torch.Tensor]:
        """The parts' own blocks of a gradient (out, sum of ranks), float32."""
        if len(self.parts) == 1:
            return [whole.to(torch.float32)]
        found, row, column = [], 0, 0
        for part in self.parts:
            end = row + part.layer.out_features
            if part.a is not None:
                found.append(whole[row:end, column : column + len(part.a)].to(torch.float32))
                column += len(part.a)
            row = end
        return found


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
    from bitsandbytes.functional import dequantize_4bit

    if out is not None and weight.quant_state.dtype is dtype and out.is_cuda:
        return dequantize_4bit(weight.data, weight.quant_state, out=out)
    whole = dequantize_4bit(weight.data, weight.quant_state).to(dtype)
    return whole if out is None else out.copy_(whole)


def lay_side_by_side(decoder: nn.Module) -> None:
    """Put plain gate and up weights into one piece of memory, so that they are one matrix without a copy."""
    layers = [decoder.mlp.gate_proj, decoder.mlp.up_proj]
    if any(getattr(layer.weight, "quant_state", None) is not None for layer in layers):
        return
    whole = torch.cat([layer.weight.data for layer in layers])
    for layer, part in zip(layers, whole.split([layer.out_features for layer in layers]), strict=True):
        layer.weight.data = part


def _in_one_piece(layers: Sequence[nn.Module]) -> torch.Tensor | None:
    """Plain weights that lie one behind the other in memory, as one matrix; None where they do not."""
    weights = [layer.weight for layer in layers]
    if any(getattr(weight, "quant_state", None) is not None for weight in weights):
        return None
    place = weights[0].data_ptr()
    for weight in weights:
        if weight.data_ptr() != place or weight.untyped_storage().data_ptr() != weights[0].untyped_storage().data_ptr():
            return None
        place += weight.numel() * weight.element_size()
    rows = sum(layer.out_features for layer in layers)
    return weights[0].data.as_strided((rows, layers[0].in_features), (layers[0].in_features, 1))


@contextlib.contextmanager
def held(llama: nn.Module, wanted: bool = True):
    """Keep the dequantised weights (the very values that are otherwise made anew for each product) meanwhile."""
    layers = []
    try:
        for decoder in llama.model.layers if wanted else ():
            attention, mlp = decoder.self_attn, decoder.mlp
            for modules in ((attention.q_proj,), (attention.k_proj,), (attention.v_proj,), (attention.o_proj,),
                            (mlp.gate_proj, mlp.up_proj), (mlp.down_proj,)):  # fmt: skip
                projection = Projection(*modules)
                first = projection.parts[0].layer
                if getattr(first.weight, "quant_state", None) is not None:
                    first.held = projection.weight(first.weight.quant_state.dtype)
                    layers.append(first)
        yield
    finally:
        for layer in layers:
            del layer.held


def parameters(projections: Sequence[Projection]) -> list[torch.Tensor]:
    """a, b of each part that has them: what an autograd function must be handed to return their gradients."""
    return [tensor for p in projections for part in p.tuned for tensor in (part.a, part.b)]


def multiply(
    x: torch.Tensor, projections: Sequence[Projection], seed: int, onto: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """x (N, in) -> [y (N, out)] of each, and x A' (N, sum of ranks) for the backward pass. `onto` is added to the first."""
    low = lowered(x, projections, seed)
    results, start = [], 0
    for p in projections:
        y = F.linear(x, p.weight(x.dtype), p.bias)
        if onto is not None:
            y += onto
        if p.rank:
            y.addmm_(low[:, start : start + p.rank], p.b(x.dtype).t(), alpha=p.scale)
            start += p.rank
        results.append(y)
    return results, low


def lowered(x: torch.Tensor, projections: Sequence[Projection], seed: int) -> torch.Tensor | None:
    """x A' (N, sum of ranks), with dropout on x where LoRA has it."""
    tuned = [part for p in projections for part in p.tuned]
    if not tuned:
        return None
    return dropped(x, tuned[0].dropout, seed) @ _stacked(tuned, x.dtype).t()


def multiply_backward(
    grads: Sequence[torch.Tensor], x: torch.Tensor, low: torch.Tensor | None, projections: Sequence[Projection], seed: int,
    needs_x: bool = True,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:  # fmt: skip
    """dy (N, out) of each -> dx (N, in) or None, and the gradients of `parameters(projections)`."""
    rises, of_b, start = [], [], 0
    for p, grad in zip(projections, grads, strict=True):
        if p.rank:
            rises.append((grad @ p.b(x.dtype)).mul_(p.scale))
            of_b += p.of_b((grad.t() @ low[:, start : start + p.rank]).mul_(p.scale))
            start += p.rank
    dx = None
    if needs_x:
        for p, grad in zip(projections, grads, strict=True):
            weight = p.weight(x.dtype)
            dx = grad @ weight if dx is None else dx.addmm_(grad, weight)
    tuned = [part for p in projections for part in p.tuned]
    if not tuned:
        return dx, []
    rise = torch.cat(rises, 1) if len(rises) > 1 else rises[0]
    drop = tuned[0].dropout
    of_a = (rise.t() @ dropped(x, drop, seed)).to(torch.float32).split([len(part.a) for part in tuned])
    if needs_x:
        if drop:
            dx += dropped(rise @ _stacked(tuned, x.dtype), drop, seed)
        else:
            dx.addmm_(rise, _stacked(tuned, x.dtype))
    return dx, [grad for pair in zip(of_a, of_b, strict=True) for grad in pair]


def _stacked(tuned: Sequence[Part], dtype: torch.dtype) -> torch.Tensor:
    """The A of all parts, one above the other (sum of ranks, in)."""
    return (torch.cat([part.a for part in tuned]) if len(tuned) > 1 else tuned[0].a).to(dtype)


def dropped(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Dropout whose mask is a function of `seed`: the backward pass draws it again instead of keeping it."""
    if not share:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return x * kept / (1 - share)
