"""Norm, rotation and gate, forward and backward: one pass over memory each with Liger's kernels on a GPU.

Without Liger (pip install -e '.[gpu]') or on a CPU the same formulas run in plain PyTorch. tests/test_kernels.py holds
the formulas against autograd and transformers.
"""

from functools import lru_cache
from types import SimpleNamespace

import torch
from torch.nn import functional as F


@lru_cache
def liger():
    """Liger's kernels, or None where they are not installed."""
    try:
        from liger_kernel.ops import rms_norm, rope, swiglu
    except ImportError:
        return None
    return SimpleNamespace(
        norm=rms_norm.rms_norm_forward,
        norm_backward=rms_norm.rms_norm_backward,
        rotate=rope.rope_forward,
        gate=swiglu.swiglu_fused_gate_up_forward,
        gate_backward=swiglu.swiglu_fused_gate_up_backward,
        settings=rms_norm.calculate_settings,
    )


def fused_kernels(x: torch.Tensor):
    """Liger, where `x` is on a GPU and Liger is there."""
    return liger() if x.is_cuda else None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x (N, d) -> (normed (N, d), 1 / root mean square (N,) in float32). Llama's order of casts."""
    if kernels := fused_kernels(x):
        normed, _, rstd, *_ = kernels.norm(x, weight, eps, 0.0, "llama", None)
        return normed, rstd
    wide = x.float()
    rstd = torch.rsqrt(wide.square().mean(-1) + eps)
    return weight * (wide * rstd[:, None]).to(x.dtype), rstd


def rms_norm_backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor) -> torch.Tensor:
    """The gradient to x; the weight is frozen. May overwrite `grad`."""
    if kernels := fused_kernels(x):
        block, warps = kernels.settings(x.shape[-1])
        return kernels.norm_backward(grad, x, weight, rstd, 0.0, 0, block, warps, True, None, needs_dw=False)[0]
    hat = x.float() * rstd[:, None]
    grad = (grad * weight).float()
    return (rstd[:, None] * (grad - hat * (grad * hat).mean(-1, keepdim=True))).to(x.dtype)


def rotate(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary positions on q (N, heads, D) and k (N, kv heads, D); cos, sin (N, D). May overwrite q and k.

    Its gradient is the rotation back: the same with -sin.
    """
    if kernels := fused_kernels(q):
        turned_q, turned_k, *_ = kernels.rotate(q[None].transpose(1, 2), k[None].transpose(1, 2), cos[None], sin[None])
        return turned_q.transpose(1, 2)[0], turned_k.transpose(1, 2)[0]
    return _rotate_half(q, cos, sin), _rotate_half(k, cos, sin)


def _rotate_half(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """(N, 2 f), gate and up side by side -> silu(gate) · up (N, f)."""
    if kernels := fused_kernels(gate_up):
        return kernels.gate(gate_up)[1]
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def gated_backward(grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    """grad (N, f) -> the gradient to gate and up (N, 2 f). May overwrite gate_up."""
    if kernels := fused_kernels(grad):
        return kernels.gate_backward(gate_up, grad, in_place=True)
    gate, up = gate_up.chunk(2, -1)
    wide = gate.float()
    sigmoid = torch.sigmoid(wide)
    slope = (sigmoid * (1 + wide * (1 - sigmoid))).to(gate.dtype)
    return torch.cat([grad * up * slope, grad * (wide * sigmoid).to(gate.dtype)], -1)
