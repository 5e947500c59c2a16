"""Rounding to e4m3 in one pass over memory, on a GPU. The same formulas in PyTorch: llama_exp/model/kernels/fp8.py."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

AT_MOST = 3  # tensors that are rounded together: q, k and v


def quantise_rows(grads: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, n) each -> side by side in e4m3, and the scale of each row, (N, 1) float32. Rows may be strided."""
    rows, widths = len(grads[0]), [grad.shape[1] for grad in grads]
    values = grads[0].new_empty(rows, sum(widths), dtype=torch.float8_e4m3fn)
    scales = grads[0].new_empty(rows, 1, dtype=torch.float32)
    missing = AT_MOST - len(grads)
    tensors, widths = [*grads, *[grads[0]] * missing], widths + [0] * missing
    blocks = [triton.next_power_of_2(width) if width else 0 for width in widths]
    with torch.cuda.device_of(values):
        _quantise_rows[(rows,)](
            *tensors,
            *widths,
            *(tensor.stride(0) for tensor in tensors),
            values,
            scales,
            *blocks,
            num_warps=8 if sum(blocks) <= 16384 else 16,
        )
    return values, scales


@triton.jit
def _quantise_rows(
    first,
    second,
    third,
    width_1,
    width_2,
    width_3,
    stride_1,
    stride_2,
    stride_3,
    values,
    scales,
    block_1: tl.constexpr,
    block_2: tl.constexpr,
    block_3: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns_1 = tl.arange(0, block_1)
    x = tl.load(first + row * stride_1 + columns_1, mask=columns_1 < width_1, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(x), 0)
    if block_2 > 0:
        columns_2 = tl.arange(0, block_2)
        y = tl.load(second + row * stride_2 + columns_2, mask=columns_2 < width_2, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(y), 0))
    if block_3 > 0:
        columns_3 = tl.arange(0, block_3)
        z = tl.load(third + row * stride_3 + columns_3, mask=columns_3 < width_3, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(z), 0))
    scale = tl.maximum(largest, 1e-30) / 448.0  # fp8.SMALLEST and fp8.LARGEST
    tl.store(scales + row, scale)
    out = values + row * (width_1 + width_2 + width_3)
    tl.store(out + columns_1, (x / scale).to(tl.float8e4nv), mask=columns_1 < width_1)
    if block_2 > 0:
        tl.store(out + width_1 + columns_2, (y / scale).to(tl.float8e4nv), mask=columns_2 < width_2)
    if block_3 > 0:
        tl.store(out + width_1 + width_2 + columns_3, (z / scale).to(tl.float8e4nv), mask=columns_3 < width_3)


def cast_transposed(weight: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> None:
    """weight (rows, columns) / scale -> `out` (columns, rows), e4m3, whose rows may be strided."""
    rows, columns = weight.shape
    grid = (triton.cdiv(rows, 128), triton.cdiv(columns, 64))
    with torch.cuda.device_of(weight):
        _cast_transposed[grid](
            weight, scale, out, rows, columns, weight.stride(0), out.stride(0), tile_rows=128, tile_columns=64
        )


@triton.jit
def _cast_transposed(
    weight, scale, out, rows, columns, stride, stride_out, tile_rows: tl.constexpr, tile_columns: tl.constexpr
):
    row = (tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)).to(tl.int64)
    column = (tl.program_id(1) * tile_columns + tl.arange(0, tile_columns)).to(tl.int64)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    x = tl.load(weight + row[:, None] * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    x = (x / tl.load(scale)).to(tl.float8e4nv)
    tl.store(out + column[:, None] * stride_out + row[None, :], tl.trans(x), mask=tl.trans(inside))
