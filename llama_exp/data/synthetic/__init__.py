"""Synthetic rows in each dataset's raw schema, about an invented world: offline, free of any licence, any number.

    for row in rows("squad", "train", 1000, seed=0): ...

The first 100 of 1,000 rows are the rows of a count of 100, the same arguments give the same rows, and no name or
article appears in two splits or in the text that the tiny model was pretrained on (`prose`).
"""

import itertools
import random
from collections.abc import Iterator

from llama_exp.data.synthetic.guanaco import guanaco
from llama_exp.data.synthetic.medical import medical, pubmedqa
from llama_exp.data.synthetic.prose import documents
from llama_exp.data.synthetic.squad import squad
from llama_exp.data.synthetic.tweetsumm import tweetsumm
from llama_exp.data.synthetic.world import SIDES, names

MAKERS = {"squad": squad, "guanaco": guanaco, "tweetsumm": tweetsumm, "medical": medical, "pubmedqa": pubmedqa}
SPLITS = SIDES[1:]

__all__ = ["MAKERS", "SPLITS", "names", "prose", "rows"]


def rows(dataset: str, split: str, count: int, seed: int) -> Iterator[dict]:
    """`count` raw rows of one split, deterministic by seed; a longer list begins with the shorter one.

    Raises ValueError for an unknown dataset or split, naming the known ones.
    """
    if dataset not in MAKERS:
        raise ValueError(f"unknown synthetic dataset {dataset!r}; known: {', '.join(MAKERS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    return itertools.islice(MAKERS[dataset](split, random.Random(f"{dataset} {split} {seed}")), count)


def prose(count: int, seed: int) -> Iterator[str]:
    """`count` documents of plain prose for pretraining: no questions, no chat markup, names of their own."""
    return itertools.islice(documents(random.Random(f"prose {seed}")), count)
