"""Causal attention over Examples laid end to end: each sees itself alone, by construction rather than by a mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_exp.model.kernels.transfers import to_device

FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@dataclass(frozen=True, slots=True)
class Segments:
    """Where Examples begin and end: queries (N,) and keys (N,) lengths; the keys may hold more, before the queries."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    query_ends: torch.Tensor  # (N + 1,) int32: 0, and where each ends
    key_ends: torch.Tensor

    @classmethod
    def of(cls, queries: Sequence[int], device, keys: Sequence[int] | None = None) -> "Segments":
        def ends(lengths):
            return to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), torch.device(device))

        query_ends = ends(queries)
        return cls(tuple(queries), tuple(keys or queries), query_ends, ends(keys) if keys else query_ends)


@lru_cache
def has_flash(device: int) -> bool:
    """Whether PyTorch has FlashAttention for sequences of different lengths on this card (not before Ampere)."""
    return torch.cuda.get_device_capability(device) >= (8, 0) and torch.backends.cuda.is_flash_attention_available()


def flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
    """What torch.nn.attention.varlen.varlen_attn calls, without the two calls of Python around it."""
    mixed, *_ = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        segments.query_ends,
        segments.key_ends,
        max(segments.queries),
        max(segments.keys),
        0.0,
        True,
        False,
        window_size_left=-1,
        window_size_right=0,
    )
    return mixed


@dataclass(frozen=True, slots=True)
class CachedRows:
    """used (B,) int32: how many columns of each row of a cache are filled; query_ends and key_ends (B + 1,): where rows
    begin among the queries and among the columns of the whole cache; longest: the most queries of a row."""

    used: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    longest: int

    @classmethod
    def of(cls, used: torch.Tensor, width: int) -> "CachedRows":
        """One query a row."""
        ends = torch.arange(len(used) + 1, dtype=torch.int32, device=used.device)
        return cls(used.int(), ends, ends * width, 1)

    @classmethod
    def of_segments(cls, segments: Segments, width: int) -> "CachedRows":
        """The queries of each segment, whose keys fill a row."""
        ends = torch.arange(len(segments.keys) + 1, dtype=torch.int32, device=segments.key_ends.device)
        return cls(segments.key_ends.diff(), segments.query_ends, ends * width, max(segments.queries))


def can_flash(x: torch.Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float32 and has_flash(x.device.index or 0)


def _flash_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: CachedRows) -> torch.Tensor:
    """By FlashAttention over a cache of fixed width; the last query of a row stands beside its last key.

    With a mask and a width that grows, PyTorch takes cuDNN, which builds a plan for every new shape: 36 ms a call on an
    H100 where this takes 0.5.
    """
    several = rows.longest > 1
    mixed, *_ = torch.ops.aten._flash_attention_forward(
        q,
        k.flatten(0, 1),
        v.flatten(0, 1),
        rows.query_ends,
        rows.key_ends,
        rows.longest,
        k.shape[1],
        0.0,
        several,
        False,
        window_size_left=-1,
        window_size_right=0 if several else -1,
        seqused_k=rows.used,
    )
    return mixed


def attend_next(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: CachedRows, longest: int) -> torch.Tensor:
    """One query a row, q (B, heads, D), over the filled columns of k and v (B, width, kv heads, D) -> (B, heads, D).

    longest: the most that `rows.used` holds.
    """
    if can_flash(q):
        return _flash_rows(q, k, v, rows)
    grouped = q.view(len(q), k.shape[2], -1, q.shape[2])  # query heads beside the key head they share
    seen = torch.arange(longest, device=q.device) < rows.used[:, None]
    k, v = (x[:, :longest].transpose(1, 2) for x in (k, v))
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=seen[:, None, None]).reshape(q.shape)


def attend_prompts(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: CachedRows, segments: Segments
) -> torch.Tensor:
    """The last tokens of each prompt, q (N, heads, D), over the whole prompt in its row of k and v (B, width, kv heads,
    D) -> (N, heads, D)."""
    if can_flash(q):
        return _flash_rows(q, k, v, rows)
    k, v = (torch.cat([row[:used] for row, used in zip(x, segments.keys, strict=True)]) for x in (k, v))
    return attend(q, k, v, segments)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
    """q (N, heads, D), k and v (M, kv heads, D) -> (N, heads, D).

    The last query of a segment stands beside its last key, so a segment's queries may be the end of a longer text.
    """
    if k.shape[1] != q.shape[1]:  # grouped heads
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    if q.is_cuda and q.dtype != torch.float32 and _is_equal_rows(segments):
        return _attend_equal_rows(q, k, v, len(segments.queries))
    if can_flash(q):
        return flash(q, k, v, segments)
    found = []
    parts = zip(q.split(segments.queries), k.split(segments.keys), v.split(segments.keys), strict=True)
    for queries, keys, values in parts:
        own = {"is_causal": True} if len(queries) == len(keys) else {"attn_mask": _causal_mask(len(queries), keys)}
        queries, keys, values = (x.transpose(0, 1)[None] for x in (queries, keys, values))
        found.append(F.scaled_dot_product_attention(queries, keys, values, **own)[0].transpose(0, 1))
    return torch.cat(found)


def _is_equal_rows(segments: Segments) -> bool:
    """Whether all segments are equally long and long enough for cuDNN, as texts cut at `max_length` are.

    cuDNN builds a plan for each new shape, which pays for long rows only: their shape comes again.
    """
    length = segments.queries[0]
    return length >= 1024 and length % 128 == 0 and set(segments.queries) == set(segments.keys) == {length}


def _attend_equal_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: int) -> torch.Tensor:
    """Attention over equally long rows, (rows · length, heads, D) -> the same shape.

    By cuDNN where it is available: 1.75 times as fast as `varlen` on an H200 at 8 x 2,048.
    """
    shaped = [x.view(rows, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)]
    with sdpa_kernel(FASTEST_FIRST, set_priority=True):
        mixed = F.scaled_dot_product_attention(*shaped, is_causal=True)
    return mixed.transpose(1, 2).reshape(q.shape)


def _causal_mask(queries: int, keys: torch.Tensor) -> torch.Tensor:
    """(queries, keys): whether a key is not after the query."""
    return torch.ones(queries, len(keys), dtype=torch.bool, device=keys.device).tril(len(keys) - queries)
