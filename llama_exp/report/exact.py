"""An exact test beside the intervals: the best against the runner-up by right or wrong alone.

It assumes nothing about the shape of the scores, only that each group's difference could as well have had the other sign
if the two were equal. Settings of several runs have none: to such a test the luck of a seed would count as skill.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llama_exp.formatting import format_p_value
from llama_exp.statistics.exact import first_against_second

if TYPE_CHECKING:
    from llama_exp.report.analyse import CellItems

RIGHT_OR_WRONG = ("exact_match", "accuracy")


@dataclass(frozen=True, slots=True)
class Exact:
    """mine, theirs: shares of right answers in percent; `p` is corrected for `pairs` comparisons (Holm, as the intervals'
    are); `note`: why it cannot become small."""

    metric: str
    other: Hashable
    mine: float
    theirs: float
    p: float
    pairs: int
    note: str = ""

    def words(self, other: str) -> str:
        verdict = f"does not tell it from {other}"
        if self.p < 0.05 and self.mine > self.theirs:
            verdict = f"puts it ahead of {other} too"
        elif self.p < 0.05:
            verdict = f"puts {other} ahead of it"
        shares = f" ({self.mine:.1f} against {self.theirs:.1f} % right)"
        corrected = f" after correction for {self.pairs} comparisons" if self.pairs > 1 else ""
        note = f"; {self.note}" if self.note else ""
        return f"By right or wrong alone ({self.metric}) an exact test {verdict}{shares}: {format_p_value(self.p)}{corrected}{note}."


def against_runner_up(answered: Sequence["CellItems"], metrics: Sequence[str]) -> Exact | None:
    """The first of `answered` against the second, among all their pairs, on the first metric that is right or wrong on
    every item; None where there is none, or a setting has several runs."""
    if len(answered) < 2 or any(len(one.items) > 1 for one in answered[:2]):
        return None
    single = [one for one in answered if len(one.items) == 1]
    for metric in (name for name in metrics if name.endswith(RIGHT_OR_WRONG)):
        if any(metric not in one.items[0].scores for one in single):
            continue
        right = [one.values(0, metric) for one in single]
        if not all(np.isin(row, (0, 100)).all() for row in right):
            continue
        ids, groups = single[0].ids(), dict(zip(single[0].ids(), single[0].groups(), strict=True))
        rows = [dict(zip(ids, row.tolist(), strict=True)) for row in right]
        test = first_against_second(rows, groups)
        shares = float(right[0].mean()), float(right[1].mean())
        return Exact(metric, single[1].cell.key, *shares, test.p_value, test.comparisons, test.note)
    return None
