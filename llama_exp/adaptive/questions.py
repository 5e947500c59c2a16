"""The questions that a sweep can be asked, each as a loss: how wrong an answer would be in each draw of the scores.

    best     a setting within `within` of the best one of the grid
    target   the fewest examples with which some setting reaches `target`, give or take `within`

An answer is right in a draw where its loss is 0, and certain as far as it is right in most draws.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llama_exp.adaptive.belief import Grid
from llama_exp.errors import UserError

if TYPE_CHECKING:
    from llama_exp.adaptive.plan import Plan


@dataclass(frozen=True)
class Best:
    """Answers are the settings of the grid."""

    within: float
    absolute: ClassVar[bool] = False  # what chance of the items does to all scores alike decides nothing

    def loss(self, scores: np.ndarray, grid: Grid, sign: float = 1.0) -> np.ndarray:
        """(D, A) how far each setting is worse than the best one, beyond `within`. scores: (D, A), higher is better."""
        return np.maximum(scores.max(axis=1, keepdims=True) - scores - self.within, 0.0)

    def name(self, answer: int, plan: "Plan", grid: Grid) -> str:
        return plan.name(answer)

    def setting(self, answer: int, scores: np.ndarray, grid: Grid) -> int:
        return answer

    def __str__(self) -> str:
        return f"within {self.within:g} of the best of this grid"


@dataclass(frozen=True)
class Target:
    """Answers are the sizes of the grid, rising, and behind them: no setting reaches the target."""

    target: float
    within: float
    absolute: ClassVar[bool] = True

    def loss(self, scores: np.ndarray, grid: Grid, sign: float = 1.0) -> np.ndarray:
        """(D, S + 1) by how many points the size misses the target, or a smaller one reaches it, beyond `within`."""
        reach = self._best_by_size(scores - sign * self.target, grid)
        none_before = np.full((len(reach), 1), -np.inf)
        before = np.concatenate([none_before, np.maximum.accumulate(reach, axis=1)], axis=1)
        missing = np.concatenate([np.maximum(-reach - self.within, 0.0), np.zeros((len(reach), 1))], axis=1)
        return np.maximum(before - self.within, 0.0) + missing

    def _best_by_size(self, scores: np.ndarray, grid: Grid) -> np.ndarray:
        sizes = np.unique(grid.examples)
        return np.stack([scores[:, grid.examples == size].max(axis=1) for size in sizes], axis=1)

    def name(self, answer: int, plan: "Plan", grid: Grid) -> str:
        sizes = np.unique(grid.examples)
        if answer == len(sizes):
            return f"no setting of this grid reaches {self.target:g}"
        return f"{self.target:g} takes {sizes[answer]:,.0f} Examples"

    def setting(self, answer: int, scores: np.ndarray, grid: Grid) -> int:
        sizes = np.unique(grid.examples)
        inside = np.flatnonzero(grid.examples == sizes[min(answer, len(sizes) - 1)])
        return int(inside[np.argmax(scores[:, inside].mean(axis=0))])

    def __str__(self) -> str:
        return f"the fewest Examples that reach {self.target:g}, give or take {self.within:g}"


Question = Best | Target
QUESTIONS = ("best", "target")


def question_of(name: str, within: float, target: float | None) -> Question:
    """Raises UserError for another name, a target that is missing, or a tolerance below 0."""
    if name not in QUESTIONS:
        raise UserError(f"question={name}: wanted one of {', '.join(QUESTIONS)}.")
    if not within > 0:
        raise UserError(f"within={within:g}: wanted above 0, in the points of the score.")
    if (target is None) == (name == "target"):
        raise UserError("question=target wants target=…, the score to reach; the other questions take none.")
    return Best(within) if target is None else Target(target, within)
