"""Linear layers of the frozen base, 4-bit or plain: W, and x · W.

W is dequantised for each product and forgotten, so 4 bits stay the only copy, unless `keep_in_memory` keeps the
dequantised values. The next token of a single reply is multiplied by the 4-bit weights directly, where there is a
kernel for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn

from llama_exp.model.kernels.triton_support import has_triton


@dataclass(frozen=True, slots=True)
class Part:
    """A linear layer of the base, and its LoRA where it has one: a (r, in), b (out, r), float32."""

    layer: nn.Module
    a: nn.Parameter | None
    b: nn.Parameter | None
    scale: float
    dropout: float


class Projection:
    """Linear layers, as they stand in the model with PEFT's LoRA around them or without, their results side by side.

    direct: see `product`.
    """

    __slots__ = ("bias", "direct", "parts")

    def __init__(self, *modules: nn.Module, direct: bool = False):
        self.direct = direct
        self.parts = [_part(module) for module in modules]
        biases = [part.layer.bias for part in self.parts if part.layer.bias is not None]
        self.bias = None if not biases else torch.cat(biases)

    @property
    def cached(self) -> torch.Tensor | None:
        """The dequantised weight, where it is kept (`keep_in_memory`)."""
        return getattr(self.parts[0].layer, "cached_weight", None)

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """(out, in), dequantised where it is 4-bit."""
        if (cached := self.cached) is not None and cached.dtype is dtype:
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

    def product(self, x: torch.Tensor, onto: torch.Tensor | None, in_place: bool) -> torch.Tensor:
        """onto + x W' for x (N, in); in_place: `onto` may be overwritten.

        One row alone is multiplied by the 4-bit weights where `direct` allows it.
        """
        if self.direct and len(x) == 1 and self.cached is None:
            kernels = [_nf4_kernels(part.layer.weight, x.dtype) for part in self.parts]
            if all(kernels):
                return self._direct_product(kernels, x, onto, in_place)
        weight = self.weight(x.dtype).t()
        if onto is None:
            return x @ weight
        return onto.addmm_(x, weight) if in_place else torch.addmm(onto, x, weight)

    def _direct_product(self, kernels: list, x: torch.Tensor, onto: torch.Tensor | None, in_place: bool):
        """Reads the 4-bit weights alone, a ninth of what dequantising them first reads and writes."""
        layers = [part.layer for part in self.parts]
        sizes = [layer.out_features for layer in layers]
        y = x.new_zeros(1, sum(sizes)) if onto is None else onto if in_place else onto.clone()
        for kernel, layer, own in zip(kernels, layers, y.split(sizes, 1), strict=True):
            kernel.add_product(own, x, layer.weight.data, layer.weight.quant_state)
        return y


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
    if kernels := _nf4_kernels(weight, dtype):
        state = weight.quant_state
        out = torch.empty(state.shape, dtype=dtype, device=weight.device) if out is None else out
        return kernels.dequantise(weight.data, state, out)
    if out is not None and weight.quant_state.dtype is dtype and out.is_cuda:
        return dequantize_4bit(weight.data, weight.quant_state, out=out)
    whole = dequantize_4bit(weight.data, weight.quant_state).to(dtype)
    return whole if out is None else out.copy_(whole)


def reads_4_bits(llama: nn.Module) -> bool:
    """Whether a single reply is multiplied by this base's 4-bit weights as they are (`direct`)."""
    layer = llama.model.layers[0].self_attn.q_proj
    weight = (layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer).weight
    state = getattr(weight, "quant_state", None)
    return state is not None and _nf4_kernels(weight, state.dtype) is not None


def _nf4_kernels(weight: nn.Parameter, dtype: torch.dtype):
    """Our kernels for NF4, where this weight is laid out as they read it and its own type is wanted; else None."""
    state = getattr(weight, "quant_state", None)
    if state is None or not weight.is_cuda or state.dtype is not dtype:
        return None
    if not has_triton():
        return None
    from llama_exp.model.kernels import nf4_triton

    return nf4_triton if nf4_triton.is_known(weight.data, state) else None


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
