"""NF4 with double quantisation on a GPU: W in one pass over memory, and W · x without writing W at all.

A weight is one of 16 numbers times the scale of its block of 64; a scale is one of 256 numbers times the scale of its
own block of 256, plus an offset. Two weights lie in a byte, the first in its upper half. Everything is computed and
rounded as bitsandbytes' `dequantize_4bit` does it, so W is the same to the last bit; bitsandbytes takes two kernels
and half of the memory's speed, and for one row its own product (`gemv_4bit`) multiplies in 16 bits.
"""

import torch
import triton
import triton.language as tl

BLOCK, SCALES = 64, 256  # weights that share a scale, scales that share one


def is_known(weight: torch.Tensor, state) -> bool:
    """Whether `weight` (bitsandbytes' Params4bit and its quant_state) is laid out as this file reads it."""
    return (
        weight.is_cuda
        and weight.dtype is torch.uint8
        and state.quant_type == "nf4"
        and state.nested
        and (state.blocksize, state.state2.blocksize) == (BLOCK, SCALES)
        and state.shape[-1] % BLOCK == 0
        and state.dtype in (torch.bfloat16, torch.float16)
    )


def probe() -> None:
    """Run a kernel on a few bytes: raises what keeps Triton from working here."""
    packed, numbers = torch.zeros(256, dtype=torch.uint8, device="cuda"), torch.zeros(256, device="cuda")
    _dequantise[(1,)](packed, packed, numbers, numbers, numbers, numbers, numbers.bfloat16(), 1, per_program=64)


def dequantise(weight: torch.Tensor, state, out: torch.Tensor) -> torch.Tensor:
    """W (out features, in features) into `out`, of the type that it was quantised from."""
    blocks = out.numel() // BLOCK
    with torch.cuda.device_of(weight):
        _dequantise[(triton.cdiv(blocks, 64),)](
            weight, *_scales(state), out, blocks, per_program=64, num_warps=4, enable_fp_fusion=False
        )
    return out


def add_product(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, state) -> None:
    """y (1, out) += W x, for one row x (1, in) of the same type, without dequantising W in memory."""
    rows, columns = state.shape
    with torch.cuda.device_of(x):
        _add_product[(triton.cdiv(rows, ROWS),)](
            x.view(torch.int32),  # two numbers at once
            weight,
            *_scales(state),
            y,
            rows,
            columns // BLOCK,
            tile_rows=ROWS,
            tile_blocks=TILE_BLOCKS,
            stages=STAGES,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )


ROWS, TILE_BLOCKS, WARPS, STAGES = 8, 16, 4, 1


def _scales(state) -> tuple[torch.Tensor, ...]:
    return state.absmax, state.state2.code, state.state2.absmax, state.offset, state.code


@triton.jit
def _dequantise(packed, absmax, code_2, absmax_2, offset, code, out, blocks, per_program: tl.constexpr):
    block = tl.program_id(0).to(tl.int64) * per_program + tl.arange(0, per_program)
    inside = block < blocks
    scale = _scale(absmax, code_2, absmax_2, offset, block, inside)
    byte = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    both = tl.load(packed + byte, mask=inside[:, None], other=0).to(tl.int32)
    pair = tl.join(tl.load(code + (both >> 4)), tl.load(code + (both & 15)))
    values = tl.reshape(pair, (per_program, 64)) * scale[:, None]
    index = block[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + index, values.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _scale(absmax, code_2, absmax_2, offset, block, inside):
    """The scales of blocks of 64 weights."""
    index = tl.load(absmax + block, mask=inside, other=0).to(tl.int32)
    return tl.load(code_2 + index) * tl.load(absmax_2 + block // 256, mask=inside, other=0.0) + tl.load(offset)


@triton.jit
def _add_product(
    pairs,
    packed,
    absmax,
    code_2,
    absmax_2,
    offset,
    code,
    y,
    rows,
    blocks,
    tile_rows: tl.constexpr,
    tile_blocks: tl.constexpr,
    stages: tl.constexpr,
):
    """pairs: x, two numbers in 32 bits, as the two weights that they are multiplied with share a byte.

    blocks: of a row of W.
    """
    kind = y.dtype.element_ty
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    within = tl.arange(0, 32)
    total = tl.zeros([tile_rows, tile_blocks, 32], tl.float32)
    for start in tl.range(0, blocks, tile_blocks, num_stages=stages):
        column = start + tl.arange(0, tile_blocks)
        inside = (row[:, None] < rows) & (column[None, :] < blocks)
        block = row[:, None].to(tl.int64) * blocks + column[None, :]
        scale = _scale(absmax, code_2, absmax_2, offset, block, inside)[:, :, None]
        byte = block[:, :, None] * 32 + within[None, None, :]
        both = tl.load(packed + byte, mask=inside[:, :, None], other=0).to(tl.int32)
        pair = tl.load(pairs + column[:, None] * 32 + within[None, :], mask=(column < blocks)[:, None], other=0)
        # Rounded as W would be in memory, so that the product is that of the dequantised weights.
        first = (tl.load(code + (both >> 4)) * scale).to(kind).to(tl.float32)
        second = (tl.load(code + (both & 15)) * scale).to(kind).to(tl.float32)
        total += first * _number(pair, kind)[None, :, :]
        total += second * _number(pair >> 16, kind)[None, :, :]
    result = tl.sum(tl.sum(total, 2), 1)
    inside = row < rows
    before = tl.load(y + row, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row, (before + result).to(kind), mask=inside)


@triton.jit
def _number(bits, kind: tl.constexpr):
    """The lower 16 bits as a number of this type."""
    return bits.to(tl.int16).to(kind, bitcast=True).to(tl.float32)
