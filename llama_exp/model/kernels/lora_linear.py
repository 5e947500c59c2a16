"""x · W and its LoRA, and the gradients. The base W is frozen, 4-bit or plain; A carries the scale already.

    y  = x W' + (x A') B'          (N, out)
    dB = dy' (x A')                 (out, r)
    dA = (dy B)' x                  (r, in)
    dx = dy W + (dy B) A            (N, in)

x · A is one product for all projections that share x (q, k, v; gate, up), and the low-rank part comes first, so that
the large product adds to it where it writes anyway. gate and up are one Projection, their weights side by side. All
layers' A and B are scaled, cast and laid side by side at once (`prepare_adapters`), a dozen operations instead of a
thousand.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from llama_exp.model.kernels import fp8
from llama_exp.model.kernels.projection import Part, Projection


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

    @property
    def fp8_weight(self) -> fp8.Fp8Weight | None:
        """W of all projections for the backward pass, where that is in FP8 (`keep_in_memory`)."""
        return getattr(self.projections[0].parts[0].layer, "fp8_weight", None)

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
        if b is None:
            y = p.product(x, onto, in_place=False)
        else:
            part = low[:, start : start + b.shape[1]]
            y = part @ b.t() if onto is None else torch.addmm(onto, part, b.t())
            y = p.product(x, y, in_place=True)  # the large product adds to the small one: no extra pass over (N, out)
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
    of_a = rise = None
    if rises:
        rise = torch.cat(rises, 1) if len(rises) > 1 else rises[0]
        of_a = rise.t() @ dropout(x, group.dropout, seed)
    return _gradient_to_x(grads, rise, group, x.dtype, seed) if needs_x else None, [of_a, *of_b]


def _gradient_to_x(grads, rise: torch.Tensor | None, group: Group, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """dy W + (dy B) A, the second part with dropout; rise (N, sum of ranks): dy B."""
    if (rounded := group.fp8_weight) is not None:
        dx = fp8.multiply(grads, *rounded.get(lambda: [p.weight(dtype) for p in group.projections]))
        if rise is None:
            return dx
        return dx.add_(dropout(rise @ group.a, group.dropout, seed)) if group.dropout else dx.addmm_(rise, group.a)
    dx = None if rise is None else dropout(rise @ group.a, group.dropout, seed)
    for p, grad in zip(group.projections, grads, strict=True):
        weight = p.weight(dtype)
        dx = grad @ weight if dx is None else dx.addmm_(grad, weight)
    return dx


def dropout(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Dropout whose mask is a function of `seed`: the backward pass draws it again instead of keeping it.

    Projections that share x share the mask, where PEFT draws one for each.
    """
    if not share:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return x * kept / (1 - share)
