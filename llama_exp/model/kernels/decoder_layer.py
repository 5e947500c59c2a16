"""One decoder layer around its attention, forward and backward by hand.

    x -> norm -> q, k, v -> rotate     | attention |     o + x -> norm -> gate, up -> silu · -> down +
         BeforeAttention                                 AfterAttention

Saved for the backward pass, in bytes a token and layer of Llama-2-7B in bf16: x 8 K, q k v 24 K, attention's output
8 K, the middle (o + x) 8 K, gate and up 44 K: 92 K, where autograd would save 130 K. Norms and the gate's product are
recomputed, unless there is memory to save them too (`keep_in_memory`).

`Recomputed` saves x alone (8 K) and recomputes
the rest, except the last product (down), whose result the backward pass does not need; the second half of the layer is
recomputed for MLP_TOKENS at a time, as it takes the most memory.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.autograd import Function

from llama_exp.model.kernels.elementwise import gated, gated_backward, rms_norm, rms_norm_backward, rotate
from llama_exp.model.kernels.fp8 import Fp8Weight
from llama_exp.model.kernels.lora_linear import Group, down_project, multiply, multiply_backward, prepare_adapters
from llama_exp.model.kernels.projection import Projection
from llama_exp.model.sharding import gather, release

MLP_TOKENS = 4096  # tokens whose gate and up are recomputed at once: more take memory, fewer take time


def layers_of(llama, direct: bool = False) -> list["Layer"]:
    """All decoder layers of a LlamaForCausalLM, their adapters prepared together.

    direct: one row alone is multiplied by the 4-bit weights where the dequantised ones are not kept: faster, and added
    up in another order.
    """
    layers = [Layer(decoder, direct) for decoder in llama.model.layers]
    dtype = llama.model.embed_tokens.weight.dtype
    for same in zip(*(layer.groups for layer in layers), strict=True):
        prepare_adapters(same, dtype)
    return layers


@contextlib.contextmanager
def keep_in_memory(llama, weights: bool = True, activations: bool = False, fp8: bool = False):
    """Trade memory for speed while the block runs: keep the dequantised weights, and the activations of norms and gate.

    The same values are otherwise computed again: weights for each product, activations in the backward pass.
    fp8: the backward pass multiplies by weights in 8 bits, which are kept, too, where the others are.
    """
    decoders = list(llama.model.layers)
    groups = [group for decoder in decoders if weights or fp8 for group in Layer(decoder).groups]
    before = [decoder.__dict__.get("saves_activations") for decoder in decoders]  # of a block around this one
    try:
        for decoder in decoders:
            decoder.saves_activations = activations
        with cached_weights(groups if weights else []), fp8_weights(groups if fp8 else [], weights):
            yield
    finally:
        for decoder, value in zip(decoders, before, strict=True):
            if value is None:
                decoder.__dict__.pop("saves_activations", None)
            else:
                decoder.saves_activations = value


@contextlib.contextmanager
def cached_weights(groups: Sequence[Group]) -> Iterator[None]:
    """Keep the dequantised weights of these groups while the block runs, and those in 8 bits."""
    cached, in_8_bits = [], [group.fp8_weight for group in groups if group.fp8_weight and not group.fp8_weight.kept]
    try:
        for rounded in in_8_bits:
            rounded.kept = True
        for projection in (p for group in groups for p in group.projections):
            first = projection.parts[0].layer
            if getattr(first.weight, "quant_state", None) is not None and not hasattr(first, "cached_weight"):
                first.cached_weight = projection.weight(first.weight.quant_state.dtype)
                cached.append(first)
        yield
    finally:
        for first in cached:
            del first.cached_weight
        for rounded in in_8_bits:
            rounded.release()


@contextlib.contextmanager
def fp8_weights(groups: Sequence[Group], kept: bool) -> Iterator[None]:
    """Let these groups' backward passes multiply by weights in 8 bits while the block runs."""
    layers = [group.projections[0].parts[0].layer for group in groups]
    try:
        for layer in layers:
            layer.fp8_weight = Fp8Weight(kept)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("fp8_weight", None)


class Layer:
    """A view of a transformers LlamaDecoderLayer, with PEFT's adapters in place, as the arithmetic needs it."""

    def __init__(self, decoder, direct: bool = False):
        attention, mlp = decoder.self_attn, decoder.mlp
        self.decoder = decoder
        qkv = attention.q_proj, attention.k_proj, attention.v_proj
        self.qkv = Group(*(Projection(layer, direct=direct) for layer in qkv))
        self.o = Group(Projection(attention.o_proj, direct=direct))
        self.gate_up = Group(Projection(mlp.gate_proj, mlp.up_proj, direct=direct))
        self.down = Group(Projection(mlp.down_proj, direct=direct))
        self.groups = self.qkv, self.o, self.gate_up, self.down
        self.head_dim = attention.head_dim
        self.saves_activations = getattr(decoder, "saves_activations", False)
        self.norms = decoder.input_layernorm, decoder.post_attention_layernorm

    def norm(self, which: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        norm = self.norms[which]
        return rms_norm(x, norm.weight, norm.variance_epsilon)

    def norm_backward(self, which: int, grad, x, rstd) -> torch.Tensor:
        return rms_norm_backward(grad, x, self.norms[which].weight, rstd)

    @property
    def dropout(self) -> float:
        return max(group.dropout for group in self.groups)

    def after_tensors(self) -> list[torch.Tensor | None]:
        return [*self.o.tensors(), *self.gate_up.tensors(), *self.down.tensors()]

    def run(
        self, x, cos, sin, attend: Callable, indices: torch.Tensor | None, seed: int, recompute: bool
    ) -> torch.Tensor:
        """x (N, d) -> (N, d), or (len(indices), d): after attention only those tokens are computed."""
        # Saving the activations of a few tokens takes no more memory than recomputing the layer. With dropout, always:
        # a mask is drawn for the tokens at hand, so they must be the same ones whether or not the layer is recomputed.
        few = indices is not None and (self.dropout > 0 or 2 * len(indices) <= len(x))
        gather(self.decoder)
        if recompute and not few and torch.is_grad_enabled():
            y = Recomputed.apply(x, cos, sin, self, attend, seed, *self.qkv.tensors(), *self.after_tensors())
            y = y if indices is None else y[indices]
        else:
            q, k, v = BeforeAttention.apply(x, cos, sin, self, seed, *self.qkv.tensors())
            mixed = attend(q, k, v).flatten(1)
            if indices is not None:
                mixed, x = mixed[indices], x[indices]
            y = AfterAttention.apply(mixed, x, self, seed, *self.after_tensors())
        release(self.decoder)
        return y


class BeforeAttention(Function):
    """x (N, d) -> q (N, heads, D), k and v (N, kv heads, D), rotated."""

    @staticmethod
    def forward(ctx, x, cos, sin, layer: Layer, seed: int, *_):
        normed, rstd = layer.norm(0, x)
        (q, k, v), low = multiply(normed, layer.qkv, seed)
        q, k = rotate(q.view(len(x), -1, layer.head_dim), k.view(len(x), -1, layer.head_dim), cos, sin)
        ctx.layer, ctx.seed = layer, seed
        ctx.save_for_backward(x, cos, sin, rstd, low, normed if layer.saves_activations else None)
        return q, k, v.view(len(x), -1, layer.head_dim)

    @staticmethod
    def backward(ctx, dq, dk, dv):
        x, cos, sin, rstd, low, normed = ctx.saved_tensors
        layer = ctx.layer
        dq, dk = rotate(dq.contiguous(), dk.contiguous(), cos, -sin)  # a rotation's transpose is the rotation back
        if normed is None:
            normed, _ = layer.norm(0, x)
        grads = [dq.flatten(1), dk.flatten(1), dv.flatten(1)]
        dx, grads = multiply_backward(grads, normed, low, layer.qkv, ctx.seed, ctx.needs_input_grad[0])
        if dx is not None:
            dx = layer.norm_backward(0, dx, x, rstd)
        release(layer.decoder)  # the first half comes last
        return dx, None, None, None, None, *grads


class AfterAttention(Function):
    """Attention's result (N, d) and the layer's input (N, d) -> the layer's output (N, d)."""

    @staticmethod
    def forward(ctx, mixed, x, layer: Layer, seed: int, *_):
        middle, rstd, gate_up, low_o, low_gate, normed = _up_to_gate(layer, mixed, x, seed)
        product = gated(gate_up)
        (y,), low_down = multiply(product, layer.down, seed + 3, onto=middle)
        ctx.layer, ctx.seed = layer, seed
        again = (normed, product) if layer.saves_activations else (None, None)
        ctx.save_for_backward(mixed, middle, rstd, gate_up, low_o, low_gate, low_down, *again)
        return y

    @staticmethod
    def backward(ctx, dy):
        gather(ctx.layer.decoder)
        dmixed, dx, grads = _after_backward(ctx.layer, dy, *ctx.saved_tensors, ctx.seed)
        return dmixed, dx, None, None, *grads


def _up_to_gate(layer: Layer, mixed, x, seed: int):
    (middle,), low_o = multiply(mixed, layer.o, seed + 1, onto=x)
    normed, rstd = layer.norm(1, middle)
    (gate_up,), low_gate = multiply(normed, layer.gate_up, seed + 2)
    return middle, rstd, gate_up, low_o, low_gate, normed if layer.saves_activations else None


def _after_backward(
    layer: Layer, dy, mixed, middle, rstd, gate_up, low_o, low_gate, low_down, normed, product, seed: int
):
    """Gradients to attention's result and to the layer's input, then those of the adapters of o, gate, up and down."""
    dmiddle, grads = _mlp_backward(layer, dy, middle, rstd, gate_up, low_gate, low_down, normed, product, seed)
    dmixed, of_o = multiply_backward([dmiddle], mixed, low_o, layer.o, seed + 1)
    return dmixed, dmiddle, [*of_o, *grads]


def _mlp_backward(layer: Layer, dy, middle, rstd, gate_up, low_gate, low_down, normed, product, seed: int):
    """The gradient to what enters the second norm, and those of the adapters of gate, up and down."""
    if product is None:
        product = gated(gate_up)
    if low_down is None:
        low_down = down_project(product, layer.down, seed + 3)
    dproduct, of_down = multiply_backward([dy], product, low_down, layer.down, seed + 3)
    del product  # (N, 2 f) tensors are the peak of the backward pass: each is released as soon as it was used
    dgate_up = gated_backward(dproduct, gate_up)
    del dproduct
    if normed is None:
        normed, _ = layer.norm(1, middle)
    dnormed, of_gate = multiply_backward([dgate_up], normed, low_gate, layer.gate_up, seed + 2)
    del dgate_up, normed
    # dy also reaches `middle` directly, by the residual connection.
    return layer.norm_backward(1, dnormed, middle, rstd).add_(dy), [*of_gate, *of_down]


def _mlp_backward_recomputed(layer: Layer, dy, middle, seed: int):
    """`_mlp_backward` from the second norm's input alone, a part of the tokens at a time.

    The gradient overwrites `middle`, which nobody needs afterwards. Each weight is dequantised once, not once a part.
    """
    size = len(middle) if layer.dropout else MLP_TOKENS  # a dropout mask is drawn for all tokens together
    totals = None
    with cached_weights([layer.gate_up, layer.down]):
        for own, dy_own in zip(middle.split(size), dy.split(size), strict=True):
            normed, rstd = layer.norm(1, own)
            (gate_up,), low = multiply(normed, layer.gate_up, seed + 2)
            found, grads = _mlp_backward(layer, dy_own, own, rstd, gate_up, low, None, normed, None, seed)
            own.copy_(found)
            del normed, gate_up, found
            if totals is None:
                # Sums over parts are kept in float32: added up in 16 bits they would lose the small parts.
                totals = grads if size >= len(middle) else [None if g is None else g.float() for g in grads]
            else:
                totals = [None if total is None else total.add_(g) for total, g in zip(totals, grads, strict=True)]
    return middle, [None if total is None else total.to(middle.dtype) for total in totals]


class Recomputed(Function):
    """The whole layer, of which only its input is kept."""

    @staticmethod
    def forward(ctx, x, cos, sin, layer: Layer, attend: Callable, seed: int, *_):
        ctx.layer, ctx.attend, ctx.seed = layer, attend, seed
        ctx.save_for_backward(x, cos, sin)
        q, k, v = BeforeAttention.apply(x, cos, sin, layer, seed)
        mixed = attend(q, k, v).flatten(1)
        del q, k, v  # the largest tensors here: gone before the second half of the layer needs memory
        size = len(x) if layer.dropout else 4 * MLP_TOKENS  # forward, less is there at once than backward
        if len(x) <= size:
            return AfterAttention.apply(mixed, x, layer, seed)
        y = torch.empty_like(x)
        for out, mixed_part, x_part in zip(y.split(size), mixed.split(size), x.split(size), strict=True):
            out.copy_(AfterAttention.apply(mixed_part, x_part, layer, seed))
        return y

    @staticmethod
    def backward(ctx, dy):
        x, cos, sin = ctx.saved_tensors
        layer, seed = ctx.layer, ctx.seed
        gather(layer.decoder)
        own = [None if t is None else t.detach().requires_grad_() for t in layer.qkv.tensors()]
        x = x.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad():
            q, k, v = BeforeAttention.apply(x, cos, sin, layer, seed, *own)
            mixed = ctx.attend(q, k, v).flatten(1)
        kept = mixed.detach()
        (middle,), low = multiply(kept, layer.o, seed + 1, onto=x.detach())
        dx, grads = _mlp_backward_recomputed(layer, dy, middle, seed)
        dmixed, of_o = multiply_backward([dx], kept, low, layer.o, seed + 1)
        grads = [*of_o, *grads]
        wanted = [t for t in (x if x.requires_grad else None, *own) if t is not None]
        found = list(torch.autograd.grad(mixed, wanted, dmixed)) if wanted else []
        if x.requires_grad:
            dx = found.pop(0).add_(dx)
        release(layer.decoder)
        found = [None if t is None else found.pop(0) for t in own]
        return dx, None, None, None, None, None, *found, *grads
