"""dy · W of the backward pass in 8-bit floating point (e4m3), for the frozen W: optimizer.fp8_backward.

    dx = dy W  ≈  q(dy) q(W) · (scale of each row of dy) · (scale of W)

The forward pass, and with it every loss and reply, stays as it is, and so do the gradients of A and B where dy reaches
them; what is rounded is dy on its way to earlier layers. Each row of dy is scaled so that its largest entry is 448,
e4m3's largest number, and W by one number: e4m3 is as exact at a thousandth of that. tests/test_fp8.py holds how far
gradients stray; docs/speed.md what it brings.
"""

from collections.abc import Callable, Sequence

import torch

from llama_exp.errors import UserError
from llama_exp.model.kernels.triton_support import has_triton

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
SMALLEST = 1e-30  # what the largest entry of a row of zeros counts as


def check(device: torch.device) -> None:
    """Raise UserError for a GPU without products of 8-bit floats."""
    if device.type != "cuda":
        return
    if torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9):
        return
    raise UserError(
        f"optimizer.fp8_backward=true needs an NVIDIA GPU of the generation Ada, Hopper or later; this one is "
        f"{torch.cuda.get_device_name(device)}. Leave it out."
    )


class Fp8Weight:
    """W of projections that share x, (in, sum of out) in e4m3, for the backward pass.

    kept: whether it is held from one use to the next; else it is made of W for each.
    """

    __slots__ = ("_scale", "_values", "kept")

    def __init__(self, kept: bool):
        self.kept = kept
        self._scale: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def release(self) -> None:
        self.kept, self._values = False, None

    def get(self, weights: Callable[[], Sequence[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """-> values (in, out), scale (1, 1) float32; `weights()`: W of each projection, (its out, in)."""
        if self._values is not None and self._scale is not None:
            return self._values, self._scale
        parts = weights()
        if self._scale is None:
            self._scale = _scale(torch.stack([part.abs().amax() for part in parts]).amax().reshape(1, 1))
        values = torch.empty(parts[0].shape[1], sum(map(len, parts)), dtype=E4M3, device=parts[0].device)
        start = 0
        for part in parts:
            _cast_transposed(part, self._scale, values[:, start : start + len(part)])
            start += len(part)
        if self.kept:
            self._values = values
        return values, self._scale


def multiply(grads: Sequence[torch.Tensor], weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """dy (N, out) of projections that share x -> dx (N, in), of the type of dy."""
    values, scales = quantise_rows(grads)
    # What the kernel asks for: dimensions that 16 divides, and results of 16 bits.
    if values.is_cuda and grads[0].element_size() == 2 and all(size % 16 == 0 for size in weight.shape):
        columns = scale.expand(1, len(weight)).contiguous()
        return torch._scaled_mm(values, weight.t(), scales, columns, out_dtype=grads[0].dtype, use_fast_accum=True)
    return ((values.float() @ weight.float().t()) * scales * scale).to(grads[0].dtype)


def quantise_rows(grads: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, out) each -> side by side in e4m3, and the scale of each row, (N, 1) float32."""
    if kernels := _kernels(grads[0]):
        return kernels.quantise_rows(grads)
    whole = torch.cat([grad.float() for grad in grads], 1)
    scales = _scale(whole.abs().amax(1, keepdim=True))
    return (whole / scales).to(E4M3), scales


def _kernels(tensor: torch.Tensor):
    """One pass over memory on a GPU; None elsewhere, and where Triton does not work."""
    if not tensor.is_cuda or not has_triton():
        return None
    from llama_exp.model.kernels import fp8_triton

    return fp8_triton


def _scale(largest: torch.Tensor) -> torch.Tensor:
    return largest.float().clamp(min=SMALLEST) / LARGEST


def _cast_transposed(weight: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> None:
    """weight (out, in) / scale -> `out` (in, out), e4m3."""
    if kernels := _kernels(weight):
        kernels.cast_transposed(weight, scale, out)
    else:
        out.copy_((weight.float() / scale).t())
