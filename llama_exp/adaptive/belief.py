"""What the runs of a sweep say about the true score of every setting of its grid, run or not.

    score of a run  =  f(setting)  +  luck of the run  +  chance of the items
    f  =  level  +  curve over examples  +  for each other axis: an effect, and how it changes along the other axes

f is Gaussian with smooth effects (RBF along the logarithm of a number; names are all equally far from each other). How
large the effects are, how fast the curve bends, how much runs scatter and how that changes with examples are not known:
values of them are drawn where they explain the scores (importance.py), and the draws of f are the mixture. The same
runs give the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llama_exp.adaptive.importance import ImportanceSampler
from llama_exp.statistics.single_runs import LOG_SCATTER_SPREAD, TYPICAL_SCATTER, relative_scatter, run_variances

KEPT, PER_VALUE = 256, 8  # values of the hyperparameters, and draws of the scores with each
DRAWS = KEPT * PER_VALUE
LEVEL = 0.4  # prior standard deviations, as shares of the scale: the score at no particular setting
CURVE = 0.15, 0.6  # of what examples add: median, log spread
EFFECT = 0.012, 1.2  # of another axis, rank or learning rate, likewise
INTERACTION = 0.5  # of an effect's change along another axis, relative to the effect
MISFIT = 0.003  # how far a setting lies off all that
SCATTER_POWER = 0.5, 0.5  # a run of n < 1,000 examples scatters (1,000 / n)^power as far: mean, spread
BEND = 1.2, 0.5  # e-folds of examples, and of any other number, over which the scores become unlike: median, log spread


@dataclass(frozen=True)
class Grid:
    """The settings of a sweep.

    axes      {key: the value of each of the A settings}: numbers, or names
    examples  (A,) how many Examples each is trained on
    """

    axes: dict[str, tuple]
    examples: np.ndarray

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def distances(self) -> list[np.ndarray]:
        """(A, A) of examples, then of each other axis: e-folds between numbers, 0 or 1 between names."""
        return [_distance(self.examples), *(_distance(values) for values in self.axes.values())]


def _distance(values: Sequence) -> np.ndarray:
    """Between numbers above 0 as their ratio says, between others as their place on the axis."""
    if all(isinstance(v, int | float | np.number) for v in values):
        numbers = np.asarray(values, np.float64)
        numbers = np.log(numbers) if (numbers > 0).all() else numbers / max(np.ptp(numbers), 1e-12)
        return np.abs(numbers[:, None] - numbers)
    names = np.asarray([str(value) for value in values])
    return np.where(names[:, None] == names, 0.0, 1.0)


@dataclass(frozen=True)
class Observed:
    """The runs so far.

    settings  (R,) index of each run's setting
    scores    (R,)
    items     (R, R) covariance of the scores by chance of the items, without what lifts all of them alike
    """

    settings: np.ndarray
    scores: np.ndarray
    items: np.ndarray

    def with_runs(self, settings: Sequence[int], scores: np.ndarray) -> "Observed":
        """And these, their scores as chance of the items moves those of the others on average."""
        own = float(np.diag(self.items).mean()) if len(self.items) else 0.0
        items = np.diag(np.full(len(self.settings) + len(settings), own))
        items[: len(self.items), : len(self.items)] = self.items
        return Observed(np.append(self.settings, settings), np.append(self.scores, scores), items)


@dataclass(frozen=True)
class Means:
    """The same by setting: C settings that were run at all, rising.

    scores   (C,) mean of each one's runs
    items    (C, C) their covariance by chance of the items
    counts   (C,) runs
    squares  (C,) sum of squared deviations from the mean
    own      (C,) mean variance of one run by chance of the items
    """

    settings: np.ndarray
    scores: np.ndarray
    items: np.ndarray
    counts: np.ndarray
    squares: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, runs: Observed) -> "Means":
        settings, owners = np.unique(runs.settings, return_inverse=True)
        counts = np.bincount(owners, minlength=len(settings))
        average = (owners == np.arange(len(settings))[:, None]) / counts[:, None]
        scores = average @ runs.scores
        squares = average * counts[:, None] @ (runs.scores - scores[owners]) ** 2
        return cls(settings, scores, average @ runs.items @ average.T, counts, squares, average @ np.diag(runs.items))

    def scatter_fit(self, variances: np.ndarray) -> np.ndarray:
        """(H,) log p(deviations between runs of one setting), for the variances (H, C) of a run by luck."""
        total = variances + self.own
        return -0.5 * ((self.counts - 1) * np.log(total) + self.squares / total).sum(axis=1)


@dataclass(frozen=True)
class Belief:
    """D draws of the true scores of A settings, each as likely as any other.

    scores    (D, A)
    scatters  (D,) standard deviation of one run of 1,000 Examples
    luck      (D, A) or (A,) how far a run of each setting scatters, relative to one of 1,000 Examples
    """

    scores: np.ndarray
    scatters: np.ndarray
    luck: np.ndarray
    span: float

    def run_variance(self, setting: int) -> np.ndarray:
        """(D,) of one run of a setting."""
        return run_variances(self.scatters, self.luck[..., setting], self.span)


class Believer:
    """What is believed of a grid before any run, made once; `after(runs)` is what the runs make of it.

    span   how far apart scores can lie: 100 for percentages
    """

    def __init__(self, grid: Grid, span: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.grid, self.span = grid, span
        self.distances = [np.unique(each, return_inverse=True) for each in grid.distances]
        self.search = ImportanceSampler(3 + 2 * len(grid.distances), rng)
        self.normal = rng.standard_normal((PER_VALUE, KEPT, len(grid)))
        self.chance = rng.standard_normal((PER_VALUE, KEPT, len(grid)))
        self.order = rng.permutation(DRAWS)

    def after(self, runs: Observed) -> Belief:
        """Draws of the posterior: those of the prior, moved by what they miss of the runs (Matheron's rule)."""
        means, centre = Means.of(runs), self.span / 2
        at = means.settings
        kept = self.search.draw(lambda values: self._log_evidence(values, means), KEPT)
        everywhere = np.arange(len(self.grid))
        priors = self._priors(kept, everywhere)
        noise = self._noise(kept, means)
        drawn = np.einsum("hij,dhj->hdi", np.linalg.cholesky(priors), self.normal)
        chance = np.einsum("hij,dhj->hdi", np.linalg.cholesky(noise), self.chance[:, :, : len(at)])
        missed = means.scores - centre - drawn[:, :, at] - chance
        shown = priors[:, at][:, :, at] + noise
        moved = np.linalg.solve(shown, missed.transpose(0, 2, 1)).transpose(0, 2, 1)
        scores = (centre + drawn + moved @ priors[:, at]).reshape(DRAWS, -1)
        of = np.repeat(np.arange(KEPT), PER_VALUE)[self.order]
        return Belief(scores[self.order], self._scatters(kept)[of], self._luck(kept, everywhere)[of], self.span)

    def _log_evidence(self, values: np.ndarray, means: Means) -> np.ndarray:
        """(H,) log p(runs | hyperparameters), but for a constant."""
        shown = np.linalg.cholesky(self._priors(values, means.settings) + self._noise(values, means))
        off = np.broadcast_to(means.scores - self.span / 2, shown.shape[:2])
        solved = np.linalg.solve(shown, off[..., None])[..., 0]
        logs = -0.5 * (solved**2).sum(axis=1) - np.log(np.diagonal(shown, axis1=1, axis2=2)).sum(axis=1)
        return logs + means.scatter_fit(self._variances(values, means))

    def _scatters(self, values: np.ndarray) -> np.ndarray:
        return TYPICAL_SCATTER * self.span * np.exp(LOG_SCATTER_SPREAD * values[:, 0])

    def _luck(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(H, C) how far a run of the settings `at` scatters, relative to one of 1,000 Examples."""
        mean, spread = SCATTER_POWER
        return relative_scatter(self.grid.examples[at], mean + spread * values[:, -1:])

    def _variances(self, values: np.ndarray, means: Means) -> np.ndarray:
        """(H, C) of one run by luck."""
        return run_variances(self._scatters(values)[:, None], self._luck(values, means.settings), self.span)

    def _noise(self, values: np.ndarray, means: Means) -> np.ndarray:
        """(H, C, C) covariance of the means around the true scores."""
        own = self._variances(values, means) / means.counts
        return means.items + own[:, :, None] * np.eye(len(means.settings))

    def _priors(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(H, C, C) covariance of the true scores of the settings `at`."""
        axes = len(self.distances)
        curve = CURVE[0] * np.exp(CURVE[1] * values[:, 1])
        bends = BEND[0] * np.exp(BEND[1] * values[:, 2 : 2 + axes])
        effects = EFFECT[0] * np.exp(EFFECT[1] * values[:, 2 + axes : 1 + 2 * axes])
        alike = [
            np.exp(-0.5 * (steps / bends[:, axis, None]) ** 2)[:, places[np.ix_(at, at)]]
            for axis, (steps, places) in enumerate(self.distances)
        ]
        found = curve[:, None, None] ** 2 * alike[0] + (LEVEL**2 + MISFIT**2 * np.eye(len(at)))
        for axis in range(1, axes):
            others = sum((one for j, one in enumerate(alike) if j != axis), start=np.zeros(()))
            found += (effects[:, axis - 1, None, None] ** 2 * alike[axis]) * (1.0 + INTERACTION**2 * others)
        return self.span**2 * found
