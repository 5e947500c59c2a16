"""An exact test beside the intervals: the best against the runner-up by right or wrong alone.

It assumes nothing about the shape of the scores, only that each group's difference could as well have had the other sign
if the two were equal. Settings of several runs have none: to such a test the luck of a seed would count as skill.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llama_exp.statistics import sign_flip
from llama_exp.statistics.words import p_words

if TYPE_CHECKING:
    from llama_exp.report.worth import Answered

RIGHT_OR_WRONG = ("exact_match", "accuracy")


@dataclass(frozen=True, slots=True)
class Exact:
    """mine, theirs: shares of right answers in percent; `p` is corrected for `pairs` comparisons (Bonferroni); `note`: why
    it cannot become small."""

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
        return f"By right or wrong alone ({self.metric}) an exact test {verdict}{shares}: {p_words(self.p)}{corrected}{note}."


def against_runner_up(best: "Answered", other: "Answered", metrics: Sequence[str], pairs: int = 1) -> Exact | None:
    """On the first metric that is right or wrong on every item; None where there is none, or a setting has several runs."""
    if len(best.items) > 1 or len(other.items) > 1:
        return None
    for metric in (name for name in metrics if name.endswith(RIGHT_OR_WRONG)):
        if metric not in best.items[0].scores or metric not in other.items[0].scores:
            continue
        mine, theirs = best.values(0, metric), other.values(0, metric)
        if np.isin(mine, (0, 100)).all() and np.isin(theirs, (0, 100)).all():
            a, b, groups = (
                dict(zip(best.ids(), row, strict=True)) for row in (mine.tolist(), theirs.tolist(), best.groups())
            )
            test = sign_flip(a, b, groups)
            return Exact(
                metric, other.setting.key, float(mine.mean()), float(theirs.mean()), min(1.0, pairs * test.p_value), pairs,
                "" if test.valid else test.note,
            )  # fmt: skip
    return None
