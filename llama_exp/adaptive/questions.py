"""The questions that a sweep can be asked, each as a loss: how wrong an answer would be in each draw of the scores.

    best     a setting within `within` of the best one of the grid
    target   the fewest examples with which some setting reaches `target`, give or take `within`
    curve    what FACTOR times the largest size buys over it, to ± `within`

An answer is right in a draw where its loss is 0, and certain as far as it is right in most draws.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from llama_exp.adaptive.belief import Grid
from llama_exp.errors import UserError
from llama_exp.formatting import format_score, join_list

if TYPE_CHECKING:
    from llama_exp.adaptive.plan import Plan


FACTOR = 10  # times the largest size
STEP = 0.1  # of `within`, between the answers that are weighed


@dataclass(frozen=True)
class Question:
    """within: points. Scores are (D, A) draws of the grid's settings, higher is better."""

    within: float
    absolute: ClassVar[bool] = False  # what chance of the items does to all scores alike decides nothing
    names_setting: ClassVar[bool] = False  # whose adapter one wants: it is run before it is the answer

    def check(self, plan: "Plan") -> None:
        """Raises UserError for a grid that it cannot be asked of."""

    def loss(self, scores: np.ndarray, grid: Grid, sign: float = 1.0) -> np.ndarray:
        """(D, answers) points, 0 where an answer is right; `sign`: -1 where a lower score is better."""
        raise NotImplementedError

    def name(self, answer: int, plan: "Plan", grid: Grid, scores: np.ndarray) -> str:
        """An answer in words."""
        raise NotImplementedError

    def why_not_run(self, setting: int, answer: int, plan: "Plan", grid: Grid, scores: np.ndarray) -> str:
        """Why no run of a setting was needed."""
        return _why_not(setting, self.setting(answer, grid, scores), plan, scores)

    def setting(self, answer: int, grid: Grid, scores: np.ndarray) -> int:
        """The setting that an answer speaks of."""
        return answer


class Best(Question):
    """Answers are the settings of the grid."""

    names_setting: ClassVar[bool] = True

    def loss(self, scores: np.ndarray, grid: Grid, sign: float = 1.0) -> np.ndarray:
        """(D, A) how far each setting is worse than the best one, beyond `within`."""
        return np.maximum(scores.max(axis=1, keepdims=True) - scores - self.within, 0.0)

    def name(self, answer: int, plan: "Plan", grid: Grid, scores: np.ndarray) -> str:
        return plan.name(answer)

    def __str__(self) -> str:
        return f"within {self.within:g} of the best of this grid"


@dataclass(frozen=True)
class Target(Question):
    """Answers are the sizes of the grid, rising, and behind them: no setting reaches the target."""

    target: float
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

    def name(self, answer: int, plan: "Plan", grid: Grid, scores: np.ndarray) -> str:
        sizes = np.unique(grid.examples)
        if answer == len(sizes):
            return f"no setting of this grid reaches {self.target:g}"
        return f"{self.target:g} takes {sizes[answer]:,.0f} Examples"

    def setting(self, answer: int, grid: Grid, scores: np.ndarray) -> int:
        sizes = np.unique(grid.examples)
        inside = np.flatnonzero(grid.examples == sizes[min(answer, len(sizes) - 1)])
        return int(inside[np.argmax(scores[:, inside].mean(axis=0))])

    def __str__(self) -> str:
        return f"the fewest Examples that reach {self.target:g}, give or take {self.within:g}"


class Curve(Question):
    """Answers are gains, STEP x within apart. Scores have one column more, that of FACTOR times the largest size."""

    def gains(self, scores: np.ndarray, grid: Grid) -> np.ndarray:
        """(D,) points better."""
        return scores[:, -1] - scores[:, int(grid.examples.argmax())]

    def answers(self, scores: np.ndarray, grid: Grid) -> np.ndarray:
        """(G,) the gains that are weighed."""
        low, high = np.quantile(self.gains(scores, grid), [0.01, 0.99])
        return np.linspace(low, high, int(min((high - low) / (STEP * self.within), 400)) + 1)

    def loss(self, scores: np.ndarray, grid: Grid, sign: float = 1.0) -> np.ndarray:
        """(D, G) how far each gain lies from the true one, beyond `within`."""
        off = np.abs(self.gains(scores, grid)[:, None] - self.answers(scores, grid))
        return np.maximum(off - self.within, 0.0)

    def check(self, plan: "Plan") -> None:
        others = [key for key in plan.settings[0] if key != "sample"]
        if others or len(plan.settings) < 2:
            raise UserError(
                "question=curve is asked of one learning curve: sample= takes several sizes, and "
                f"{f'{join_list(others)} one value each' if others else 'every other key one value'}. question=best "
                "finds the values."
            )

    def name(self, answer: int, plan: "Plan", grid: Grid, scores: np.ndarray) -> str:
        gain, examples = format_score(self.answers(scores, grid)[answer]), FACTOR * grid.examples.max()
        return f"{FACTOR} times the data, {examples:,.0f} Examples: {gain} ± {self.within:g} points better"

    def setting(self, answer: int, grid: Grid, scores: np.ndarray) -> int:
        return int(grid.examples.argmax())

    def why_not_run(self, setting: int, answer: int, plan: "Plan", grid: Grid, scores: np.ndarray) -> str:
        behind = scores[:, int(grid.examples.argmax())] - scores[:, setting]
        low, high = np.quantile(behind, [0.025, 0.975])
        return f"{plan.name(setting)} not run: {low:.3g} to {high:.3g} behind the largest size, 95 %"

    def __str__(self) -> str:
        return f"what {FACTOR} times the data buys, ± {self.within:g}"


def _why_not(setting: int, best: int, plan: "Plan", scores: np.ndarray) -> str:
    lead = float(np.quantile(scores[:, setting] - scores[:, best], 0.95))
    how = f"at most {lead:.2g} better" if lead > 0 else f"at least {-lead:.2g} worse"
    return f"{plan.name(setting)} not run: {how} than {plan.name(best)}, 95 %"


QUESTIONS = ("best", "target", "curve")


def question_of(name: str, within: float, target: float | None) -> Question:
    """Raises UserError for another name, a target that is missing, or a tolerance below 0."""
    if name not in QUESTIONS:
        raise UserError(f"question={name}: wanted one of {', '.join(QUESTIONS)}.")
    if not within > 0:
        raise UserError(f"within={within:g}: wanted above 0, in the points of the score.")
    if (target is None) == (name == "target"):
        raise UserError("question=target wants target=…, the score to reach; the other questions take none.")
    if target is not None:
        return Target(within, target)
    return Best(within) if name == "best" else Curve(within)
