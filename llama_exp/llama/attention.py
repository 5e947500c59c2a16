"""Causal attention over Examples laid end to end: each sees itself alone, by construction rather than by a mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch.nn import functional as F


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
            return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)

        query_ends = ends(queries)
        return cls(tuple(queries), tuple(keys or queries), query_ends, ends(keys) if keys else query_ends)


@lru_cache
def varlen(device: int):
    """PyTorch's attention for sequences of different lengths, or None where the card (before Ampere) has it not."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments) -> torch.Tensor:
    """q (N, heads, D), k and v (M, kv heads, D) -> (N, heads, D).

    The last query of a segment stands beside its last key, so a segment's queries may be the end of a longer text.
    """
    if k.shape[1] != q.shape[1]:  # grouped heads
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    if q.is_cuda and q.dtype != torch.float32 and (kernel := varlen(q.device.index or 0)):
        return kernel(q, k, v, segments.query_ends, segments.key_ends, max(segments.queries), max(segments.keys),
                      window_size=(-1, 0))  # fmt: skip
    found = []
    parts = zip(q.split(segments.queries), k.split(segments.keys), v.split(segments.keys), strict=True)
    for queries, keys, values in parts:
        own = {"is_causal": True} if len(queries) == len(keys) else {"attn_mask": _before(len(queries), keys)}
        queries, keys, values = (x.transpose(0, 1)[None] for x in (queries, keys, values))
        found.append(F.scaled_dot_product_attention(queries, keys, values, **own)[0].transpose(0, 1))
    return torch.cat(found)


def _before(queries: int, keys: torch.Tensor) -> torch.Tensor:
    """(queries, keys): whether a key is not after the query."""
    return torch.ones(queries, len(keys), dtype=torch.bool, device=keys.device).tril(len(keys) - queries)
