"""x · W and its LoRA, for all projections that share x, and the gradients. The base W is frozen, 4-bit or plain.

    y_i  = x W_i' + scale · (x A_i') B_i'          (N, out_i)
    dB_i = scale · dy_i' (x A_i')                   (out_i, r)
    dA_i = scale · (dy_i B_i)' x                    (r, in)
    dx   = sum_i dy_i W_i + scale · (dy_i B_i) A_i

x · A is one product for all of q, k, v (and for gate, up), and results are added in the matrix product that makes them.
W is dequantised for each product and forgotten, so 4 bits stay the only copy; nothing of W is kept for the gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer of the base, and its LoRA where it has one: a (r, in), b (out, r), float32."""

    layer: nn.Module
    a: nn.Parameter | None
    b: nn.Parameter | None
    scale: float
    dropout: float

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        weight = self.layer.weight
        if getattr(weight, "quant_state", None) is not None:
            from bitsandbytes.functional import dequantize_4bit

            return dequantize_4bit(weight.data, weight.quant_state).to(dtype)
        return weight.to(dtype)


def projection(module: nn.Module) -> Projection:
    """A Linear as it stands in the model, with PEFT's LoRA around it or without."""
    if not hasattr(module, "lora_A"):
        return Projection(module, None, None, 1.0, 0.0)
    base = module.get_base_layer()
    [name] = module.active_adapters or [None]
    if module.disable_adapters or name not in module.lora_A:
        return Projection(base, None, None, 1.0, 0.0)
    dropout = getattr(module.lora_dropout[name], "p", 0.0) if module.training else 0.0
    return Projection(base, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name], dropout)


def parameters(projections: Sequence[Projection]) -> list[torch.Tensor]:
    """a, b of each that has them: what an autograd function must be handed to return their gradients."""
    return [tensor for p in projections if p.a is not None for tensor in (p.a, p.b)]


def multiply(
    x: torch.Tensor, projections: Sequence[Projection], seed: int, onto: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """x (N, in) -> [y_i (N, out_i)], and x A' (N, sum of ranks) for the backward pass. `onto` is added to y_0."""
    low = lowered(x, projections, seed)
    results, start = [], 0
    for p in projections:
        weight = p.weight(x.dtype)
        if onto is None:
            y = F.linear(x, weight, p.layer.bias)
        else:
            y = torch.addmm(onto, x, weight.t())
            y = y if p.layer.bias is None else y.add_(p.layer.bias)
        if p.a is not None:
            end = start + len(p.a)
            y.addmm_(low[:, start:end], p.b.to(x.dtype).t(), alpha=p.scale)
            start = end
        results.append(y)
    return results, low


def lowered(x: torch.Tensor, projections: Sequence[Projection], seed: int) -> torch.Tensor | None:
    """x A' (N, sum of ranks), with dropout on x where LoRA has it."""
    tuned = [p for p in projections if p.a is not None]
    if not tuned:
        return None
    return dropped(x, tuned[0].dropout, seed) @ _stacked(tuned, x.dtype).t()


def multiply_backward(
    grads: Sequence[torch.Tensor], x: torch.Tensor, low: torch.Tensor | None, projections: Sequence[Projection], seed: int,
    needs_x: bool = True,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:  # fmt: skip
    """dy_i (N, out_i) -> dx (N, in) or None, and the gradients of `parameters(projections)`."""
    tuned = [p for p in projections if p.a is not None]
    rises, of_b, start = [], [], 0
    for p, grad in zip(projections, grads, strict=True):
        if p.a is not None:
            end = start + len(p.a)
            rises.append((grad @ p.b.to(x.dtype)).mul_(p.scale))
            of_b.append((grad.t() @ low[:, start:end]).to(p.b.dtype).mul_(p.scale))
            start = end
    dx = None
    if needs_x:
        for p, grad in zip(projections, grads, strict=True):
            weight = p.weight(x.dtype)
            dx = grad @ weight if dx is None else dx.addmm_(grad, weight)
    if not tuned:
        return dx, []
    rise = torch.cat(rises, 1) if len(rises) > 1 else rises[0]
    drop = tuned[0].dropout
    of_a = (rise.t() @ dropped(x, drop, seed)).to(tuned[0].a.dtype).split([len(p.a) for p in tuned])
    if needs_x:
        if drop:
            dx += dropped(rise @ _stacked(tuned, x.dtype), drop, seed)
        else:
            dx.addmm_(rise, _stacked(tuned, x.dtype))
    return dx, [grad for pair in zip(of_a, of_b, strict=True) for grad in pair]


def _stacked(tuned: Sequence[Projection], dtype: torch.dtype) -> torch.Tensor:
    """The A of all projections, one above the other (sum of ranks, in)."""
    return (torch.cat([p.a for p in tuned]) if len(tuned) > 1 else tuned[0].a).to(dtype)


def dropped(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Dropout whose mask is a function of `seed`: the backward pass draws it again instead of keeping it."""
    if not share:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return x * kept / (1 - share)
