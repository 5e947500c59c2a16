"""Which prompts are answered together: those that begin alike, in batches that fit into the cache.

SQuAD asks several questions of a context. Prompts that begin alike are laid out as one shared prefix and their own
suffixes:

    prefix   [INST] … Context: a long text            computed once
    suffixes Question: who? [/INST]  Eve </s>          one for each prompt; the response, where there is one, behind it
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """index: which prompt; response: ids whose likelihood is wanted, () = not measured."""

    index: int
    prompt: tuple[int, ...]
    response: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Prompts that begin with the same `shared` tokens (and go on, each by itself, for at least one more)."""

    shared: int
    members: list[DecodeRequest]


def group_by_prefix(requests: Sequence[DecodeRequest]) -> list[PrefixGroup]:
    """Group prompts that share a prefix.

    Sharing less than half of a prompt (the words that every prompt of a dataset begins with) is not worth a group, nor
    is a member that makes the others share less than it gains.
    """
    found: list[PrefixGroup] = []
    longest = shortest = 0  # prompts of the last group
    for request in sorted(requests, key=lambda request: (request.prompt, request.index)):
        size = len(request.prompt)
        if found:
            last = found[-1]
            shared = min(
                _common_prefix_length(last.members[-1].prompt, request.prompt),
                size - 1,
                shortest - 1,
                last.shared or size,
            )
            lost = (last.shared - shared) * len(last.members)
            if 2 * shared >= max(size, longest) and lost <= shared:
                found[-1] = PrefixGroup(shared, last.members)
                last.members.append(request)
                longest, shortest = max(longest, size), min(shortest, size)
                continue
        found.append(PrefixGroup(0, [request]))
        longest = shortest = size
    return found


def _common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def make_batches(requests: Sequence[DecodeRequest], new: int, count: int, tokens: float) -> Iterator[list[PrefixGroup]]:
    """Batch groups of similar length, longest first.

    A batch has at most `count` prompts and, padded, about `tokens` positions in the cache, new tokens included.
    """
    batch: list[PrefixGroup] = []
    widest = count_now = 0
    for group in sorted(
        group_by_prefix(requests), key=lambda group: -max(len(request.prompt) for request in group.members)
    ):
        own = new + max(len(request.prompt) for request in group.members)
        for part in _cut(group, max(1, min(count, int(tokens // own)))):
            width = max(widest, new + max(len(request.prompt) for request in part.members))
            if batch and (count_now + len(part.members) > count or (count_now + len(part.members)) * width > tokens):
                yield batch
                batch, widest, count_now = [], 0, 0
                width = new + max(len(request.prompt) for request in part.members)
            batch.append(part)
            widest, count_now = width, count_now + len(part.members)
    if batch:
        yield batch


def _cut(group: PrefixGroup, count: int) -> Iterator[PrefixGroup]:
    for start in range(0, len(group.members), count):
        members = group.members[start : start + count]
        yield PrefixGroup(group.shared if len(members) > 1 else 0, members)
