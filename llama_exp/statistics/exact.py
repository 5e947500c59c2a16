"""An exact test of two cells by right or wrong alone: nothing is assumed about the shape of the scores.

Fisher's (1935) argument: if the two cells are equal, each group's difference could as well have had the other sign, so
every table with flipped signs was as likely as the observed one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from llama_exp.statistics import messages
from llama_exp.statistics.comparisons import Groups, Scores, holm, paired_clusters, shared_ids


@dataclass(frozen=True, slots=True)
class SignFlipTest:
    """`comparisons`: how many tests the p-value is corrected for. `note`: why p cannot become small, else ""."""

    p_value: float
    note: str = ""
    comparisons: int = 1


def sign_flip(a: Scores, b: Scores, groups: Groups = None) -> SignFlipTest:
    """Exact permutation test for right-or-wrong scores, by groups.

    Exact where the two cells are exchangeable within each group; only approximately a test of equal means if groups
    differ in size or in spread (`paired_difference` is made for that). With one item per group it is the exact McNemar
    test, `scipy.stats.binomtest(only_a, only_a + only_b)`.
    Raises ValueError when a score is neither 0 nor the common top value (1 or 100).
    """
    ids = shared_ids({"a": a, "b": b})
    values = {*(a[i] for i in ids), *(b[i] for i in ids)}
    top = max(values, default=0.0) or 1.0
    if values - {0.0, top} or top < 0:
        raise ValueError(f"scores must be right or wrong, 0 or {top:g}: got {len(values)} different ones")
    sums = np.round(paired_clusters(a, b, ids, groups).sums / top).astype(np.int64)
    sums = sums[sums != 0]
    smallest = min(2.0 ** (1 - len(sums)), 1.0)
    note = "" if smallest <= 0.05 else messages.smallest_p(len(sums), smallest) if len(sums) else messages.NO_DIFFERENCE
    return SignFlipTest(_share_as_extreme(sums), note)


def first_against_second(cells: Sequence[Scores], groups: Groups = None) -> SignFlipTest:
    """The first cell against the second, corrected by Holm for the comparisons of all pairs of cells."""
    tests = [sign_flip(a, b, groups) for a, b in combinations(cells, 2)]
    adjusted = holm([test.p_value for test in tests])
    return replace(tests[0], p_value=adjusted[0], comparisons=len(tests))


def _share_as_extreme(sums: np.ndarray) -> float:
    """The share of all sign patterns whose |sum| is at least the observed one.

    Builds the distribution of the sum by adding one group at a time (a random walk on the whole numbers): exact for
    any number of groups, where 2^G patterns are too many to list.
    """
    reach, observed = int(np.abs(sums).sum()), abs(int(sums.sum()))
    if not observed:
        return 1.0
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1.0
    width = 0
    for step in np.sort(np.abs(sums)):  # small steps first: the occupied window stays narrow
        window = chance[reach - width : reach + width + 1] / 2
        width += int(step)
        chance[reach - width : reach + width + 1] = 0
        chance[reach - width : reach - width + len(window)] += window
        chance[reach + width + 1 - len(window) : reach + width + 1] += window
    return float(min(chance[: reach - observed + 1].sum() + chance[reach + observed :].sum(), 1.0))
