"""Exact tests for pairs: nothing about the shape of the scores is assumed, only what may be swapped under the null.

    exact_paired   right or wrong, one item per group       swap the two cells' answers to any single item
    sign_flip      any score, items in groups               swap the two cells' answers to any whole group

Fisher's (1935) argument: if the two are equal, each swapped table was as likely as the one that was seen.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from .clusters import finite
from .comparisons import Groups, Scores, groups_of, paired_clusters, shared_ids
from .words import count_of

ENUMERATE = 20  # up to this many groups that differ, all 2^(G-1) flips are counted
DRAWS = 9999
LATTICE = 2_000_000  # largest total difference, in whole items, for which the distribution is summed exactly


@dataclass(frozen=True, slots=True)
class ExactTest:
    """A p-value, what it counted, and in words when it may be believed (`valid`: it may, for these data)."""

    p_value: float
    only_a: int
    only_b: int
    items: int
    clusters: int
    valid: bool
    method: str
    note: str

    def __str__(self) -> str:
        return f"p = {self.p_value:.3g} ({self.method})"


def exact_paired(a: Scores, b: Scores, groups: Groups = None) -> ExactTest:
    """Exact McNemar test for right-or-wrong scores: of the items that only one got right, is half each plausible?

    Equal to `scipy.stats.binomtest(only_a, only_a + only_b)`. It takes every item as independent, so it is valid only
    where no two items share a group; for clustered items use `sign_flip`.
    Raises ValueError when a score is neither 0 nor the common top value (1 or 100).
    """
    ids = shared_ids({"a": a, "b": b})
    first, second = finite("scores of a", [a[i] for i in ids]), finite("scores of b", [b[i] for i in ids])
    values = sorted(set(first) | set(second))
    if len([value for value in values if value != 0]) > 1:
        raise ValueError(f"exact match is right or wrong; got {len(values)} different scores: {values[:4]} ...")
    only_a, only_b = int(((first > 0) & (second == 0)).sum()), int(((first == 0) & (second > 0)).sum())
    p = min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))  # both tails are alike
    labels = groups_of(ids, groups)
    clusters = len(ids) if labels is None else len(set(labels))
    valid = clusters == len(ids)
    note = (
        "valid: every item is its own group"
        if valid
        else f"not valid here: {len(ids):,} items share {clusters:,} groups, so p is too small; use sign_flip"
    )
    return ExactTest(p, only_a, only_b, len(ids), clusters, valid, "exact McNemar", note)


def sign_flip(a: Scores, b: Scores, groups: Mapping[str, Hashable] | None = None, seed: int = 0) -> ExactTest:
    """Cluster-aware permutation test: under the null each group's difference could as well have had the other sign.

    Exact where the two cells are exchangeable within each group; a test of equal means only approximately, if groups
    differ in size or in spread (`paired` is made for that). Whole-number sums (exact match) get the exact distribution
    for any number of groups; others all flips up to 20 groups, and 9,999 seeded ones beyond.
    With one item per group and right-or-wrong scores it equals exact McNemar.
    """
    ids = shared_ids({"a": a, "b": b})
    clusters = paired_clusters(a, b, ids, groups)
    scale = float(np.max(np.abs([*(a[i] for i in ids), *(b[i] for i in ids)]), initial=0.0)) or 1.0
    sums = clusters.sums[np.abs(clusters.sums) > 1e-12 * scale]
    whole = sums / scale
    if len(sums) == 0:
        p, method = 1.0, "sign flips, none needed"
    elif np.allclose(whole, np.round(whole), atol=1e-9) and np.abs(whole).sum() <= LATTICE:
        p, method = _lattice(np.round(whole).astype(np.int64)), "exact sign flips"
    elif len(sums) <= ENUMERATE:
        p, method = _enumerated(sums), f"all {2 ** len(sums):,} sign flips"
    else:
        p, method = _sampled(sums, seed), f"{DRAWS:,} random sign flips"
    smallest = 2.0 ** (1 - len(sums)) if len(sums) else 1.0
    valid = smallest <= 0.05
    differ = f"{count_of(len(sums), 'group')} differ{'s' if len(sums) == 1 else ''}"
    note = (
        "valid if, were the two equal, each group's difference could as well have had the other sign"
        if valid
        else f"only {differ}: p cannot fall below {smallest:.3g}, whatever the difference"
    )
    ahead, behind = int((clusters.sums > 0).sum()), int((clusters.sums < 0).sum())
    return ExactTest(p, ahead, behind, len(ids), len(clusters.sums), valid, method, note)


def _lattice(sums: np.ndarray) -> float:
    """Exact: the distribution of a sum of +-s by adding one group at a time (a walk on the whole numbers)."""
    reach, seen = int(np.abs(sums).sum()), abs(int(sums.sum()))
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1.0
    width = 0
    for step in np.sort(np.abs(sums)):  # small steps first: the occupied window stays narrow
        window = chance[reach - width : reach + width + 1] / 2
        width += int(step)
        chance[reach - width : reach + width + 1] = 0
        chance[reach - width : reach - width + len(window)] += window
        chance[reach + width + 1 - len(window) : reach + width + 1] += window
    return float(min(chance[: reach - seen + 1].sum() + chance[reach + seen :].sum(), 1.0)) if seen else 1.0


def _enumerated(sums: np.ndarray) -> float:
    totals = np.array([sums[0]])  # the first sign is fixed: mirror images have the same |total|
    for step in sums[1:]:
        totals = np.concatenate([totals + step, totals - step])
    return float(np.mean(np.abs(totals) >= abs(sums.sum()) * (1 - 1e-12)))


def _sampled(sums: np.ndarray, seed: int) -> float:
    rng, beyond = np.random.default_rng(seed), 0
    for start in range(0, DRAWS, 500):
        signs = rng.integers(0, 2, size=(min(500, DRAWS - start), len(sums))) * 2.0 - 1.0
        beyond += int((np.abs(signs @ sums) >= abs(sums.sum()) * (1 - 1e-12)).sum())
    return (1 + beyond) / (1 + DRAWS)
