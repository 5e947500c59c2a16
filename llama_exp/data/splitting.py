"""Splits by group, and samples that nest. Nothing here knows a dataset."""

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from llama_exp.records import Example


def carve(examples: list[Example], wanted: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Split off about `wanted` Examples, whole groups only: (what stays, what was carved out).

    The order of groups comes from their sorted names and `seed`, so neither the order of rows nor any other seed moves
    a split. A group that would overshoot is passed over (it stays); where all would, the smallest is taken.
    Fewer than two groups cannot be split: nothing is carved out.
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    if len(groups) < 2:
        return examples, []
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    taken, count = set(), 0
    for group in order:
        if count + len(groups[group]) <= wanted:
            taken.add(group)
            count += len(groups[group])
    taken = taken or {min(order, key=lambda group: len(groups[group]))}
    return [e for e in examples if e.group not in taken], [e for e in examples if e.group in taken]


def shuffled(examples: Iterable[Example], seed: int) -> list[Example]:
    """One permutation by `seed`, whatever order they come in. Every sample is a prefix of it, so samples nest."""
    order = sorted(examples, key=lambda example: example.id)
    random.Random(seed).shuffle(order)
    return order


def components(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """Connected components: items that share a key, directly or through others, get the same number.

    components([{"a"}, {"a", "b"}, {"b"}, {"c"}]) == [0, 0, 0, 3]      the number is the component's first item
    """
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # halve the path: near-constant time
            item = parent[item]
        return item

    first: dict[Hashable, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            a, b = root(first.setdefault(key, item)), root(item)
            parent[max(a, b)] = min(a, b)
    return [root(item) for item in range(len(keys))]
