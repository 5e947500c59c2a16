"""Splits by group, and samples that nest. Nothing here knows a dataset."""

import random
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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
    if not keys:
        return []
    numbers: dict[Hashable, int] = {}
    pairs = [(item, numbers.setdefault(key, len(numbers))) for item, own in enumerate(keys) for key in own]
    size = len(keys) + len(numbers)  # a graph of items and, after them, keys: each item is joined to its own keys
    rows, columns = [item for item, _ in pairs], [len(keys) + key for _, key in pairs]
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (rows, columns)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    first: dict[int, int] = {}
    return [first.setdefault(label, item) for item, label in enumerate(labels[: len(keys)].tolist())]


def normalised(words: str) -> str:
    """Lower case, letters and digits, single blanks."""
    return re.sub(r"\W+", " ", words.lower()).strip()
