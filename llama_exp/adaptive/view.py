"""What is known at one moment of a sweep: the runs so far -> draws of all scores -> the answer that they give."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llama_exp.adaptive.belief import Belief, Believer, Grid, Observed
from llama_exp.adaptive.choose import Verdict, best_cell, verdict
from llama_exp.adaptive.curve import curve_belief
from llama_exp.adaptive.plan import Plan
from llama_exp.adaptive.questions import Curve, Question
from llama_exp.adaptive.scores import ScoredCell, expected_seconds, metric_of, observed, span_of
from llama_exp.errors import UserError

CERTAIN = 0.95
COARSE = 0.25  # of the scale: a `within` beyond it is right without any run


@dataclass(frozen=True)
class View:
    """What is known at one moment: the grid with its sizes, the draws of all scores, and the answer they give.

    scores   (D, A) draws of the true scores, signed so that higher is better; of question=curve one column more
    seconds  (A,) that a run of each setting would take
    """

    grid: Grid
    belief: Belief
    scores: np.ndarray
    losses: np.ndarray
    verdict: Verdict
    runs: Observed
    seconds: np.ndarray

    @property
    def is_certain(self) -> bool:
        return self.verdict.certainty >= CERTAIN

    @property
    def items(self) -> float:
        """Variance of one more run by chance of the items."""
        return float(np.diag(self.runs.items).mean())


class Views:
    """`of` the cells of a grid; the same cells are looked at once."""

    def __init__(self, plan: Plan, question: Question, sample: int | None) -> None:
        self.plan, self.question, self.sample = plan, question, sample
        self.known: dict[tuple, View] = {}
        self.failed: set[int] = set()  # settings that cannot be run: no answers
        self.believer: tuple[tuple, Believer] | None = None  # and what it is of

    def of(self, cells: Sequence[ScoredCell], more: Sequence[int] = ()) -> View:
        """`more`: settings that are running, as if they scored what is expected of them."""
        more = () if isinstance(self.question, Curve) else more
        key = len(cells), len(self.failed), *more
        if key not in self.known:
            self.known = {k: v for k, v in self.known.items() if k[0] == len(cells)}
            self.known[key] = self._view(cells, more)
        return self.known[key]

    def best_next(self, cells: Sequence[ScoredCell], settings: Sequence[int], running: Sequence[int]) -> int:
        """Of the settings, the one to run next.

        The cheapest ones of two sizes first, then what tells most; an answer that is known and was not run.
        """
        examples = self.plan.grid(self.available(cells), self.sample).examples
        tried = {examples[i] for i in (*(cell.setting for cell in cells), *running)}
        untried = [i for i in settings if examples[i] not in tried]
        if not cells or (untried and len(tried) < 2):
            pool = untried or list(settings)
            cheapest = [i for i in pool if examples[i] == examples[pool].min()]
            return cheapest[len(cheapest) // 2]  # in the middle of the other axes
        view = self.of(cells, running)
        if view.is_certain and self.question.names_setting and (answer := view.verdict.answer) in settings:
            return answer
        return best_cell(view.belief, view.scores, view.losses, settings, view.items, view.seconds)

    def available(self, cells: Sequence[ScoredCell]) -> int | None:
        """How many Examples there are, once a run of all of them has told."""
        asked = [(self.plan.sample(cell.setting, self.sample), cell.examples) for cell in cells]
        return next((examples for sample, examples in asked if sample is None or examples < sample), None)

    def _view(self, cells: Sequence[ScoredCell], more: Sequence[int]) -> View:
        metric = metric_of(cells)
        grid = self.plan.grid(self.available(cells), self.sample)
        believer = self._believer(grid, span_of(cells, metric))
        runs = observed(cells, metric.name, self.question.absolute)
        belief = believer.after(runs)
        if isinstance(self.question, Curve):
            belief = curve_belief(cells, metric, grid, belief)
        elif more:
            runs = runs.with_runs(more, belief.scores[:, list(more)].mean(axis=0))
            belief = believer.after(runs)
        sign = -1.0 if metric.lower_is_better else 1.0
        belief = replace(belief, scores=np.clip(belief.scores, *metric.limits))
        scores = sign * belief.scores
        scores[:, list(self.failed)] = scores.min() - believer.span
        losses = self.question.loss(scores, grid, sign)
        return View(grid, belief, scores, losses, verdict(losses), runs, expected_seconds(cells, grid.examples))

    def _believer(self, grid: Grid, span: float) -> Believer:
        if self.question.within > COARSE * span:
            raise UserError(
                f"within={self.question.within:g} is more than a quarter of the scale of this score ({span:.3g}): any "
                "setting would do. Type a smaller one."
            )
        key = grid.examples.tobytes(), span
        if self.believer is None or self.believer[0] != key:
            self.believer = key, Believer(grid, span)
        return self.believer[1]
