"""What the runs of a sweep say about the true score of every setting of its grid, run or not.

    score of a run  =  f(setting)  +  luck of the run  +  chance of the items
    f  =  level  +  curve over examples  +  for each other axis: an effect, and how it changes along the other axes

f is Gaussian with smooth effects (RBF along the logarithm of a number; names are all equally far from each other). How
large the effects are, how fast the curve bends and how much runs scatter are not known: HYPERPARAMETERS values of them
are drawn from their priors, each weighted by how well it explains the scores, and the draws of f are the mixture.
Exact sums, nothing iterated: the same runs give the same draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llama_exp.statistics.single_runs import LOG_SCATTER_SPREAD, TYPICAL_SCATTER, relative_scatter, run_variances

HYPERPARAMETERS = 1024
DRAWS = 2048
LEVEL = 0.4  # prior standard deviations, as shares of the scale: the score at no particular setting
CURVE = 0.15, 0.6  # of what examples add: median, log spread
EFFECT = 0.012, 1.2  # of another axis, rank or learning rate, likewise
INTERACTION = 0.5  # of an effect's change along another axis, relative to the effect
MISFIT = 0.002  # how far a setting lies off all that
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
    """

    scores: np.ndarray
    scatters: np.ndarray
    luck: np.ndarray  # (A,) how far a run of each setting scatters, relative to one of 1,000 Examples
    span: float

    def run_variance(self, setting: int) -> np.ndarray:
        """(D,) of one run of a setting."""
        return run_variances(self.scatters[:, None], self.luck[setting], self.span)[:, 0]


class Believer:
    """What is believed of a grid before any run, made once; `after(runs)` is what the runs make of it.

    span   how far apart scores can lie: 100 for percentages
    """

    def __init__(self, grid: Grid, span: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.grid, self.span = grid, span
        self.luck = relative_scatter(grid.examples)
        self.scatters = TYPICAL_SCATTER * span * np.exp(LOG_SCATTER_SPREAD * rng.standard_normal(HYPERPARAMETERS))
        self.priors = np.stack([_prior(grid, span, rng) for _ in range(HYPERPARAMETERS)])  # (H, A, A)
        self.roots = np.linalg.cholesky(self.priors)
        self.normal = rng.standard_normal((DRAWS, len(grid)))
        self.order = rng.permutation(DRAWS)

    def after(self, runs: Observed) -> Belief:
        """Draws of the posterior: those of the prior, moved by what they miss of the runs (Matheron's rule)."""
        means, centre = Means.of(runs), self.span / 2
        at = means.settings
        own = run_variances(self.scatters[:, None], self.luck[at], self.span)  # (H, C)
        noise = means.items + (own / means.counts)[:, :, None] * np.eye(len(at))
        shown = np.linalg.cholesky(self.priors[:, at][:, :, at] + noise)
        solved = np.linalg.solve(shown, np.broadcast_to(means.scores - centre, own.shape)[..., None])[..., 0]
        logs = -0.5 * (solved**2).sum(axis=1) - np.log(np.diagonal(shown, axis1=1, axis2=2)).sum(axis=1)
        logs = logs + means.scatter_fit(own)
        weights = np.exp(logs - logs.max())
        chosen = np.searchsorted(np.cumsum(weights), (np.arange(DRAWS) + 0.5) / DRAWS * weights.sum())
        scores = np.empty((DRAWS, len(self.grid)))
        rng = np.random.default_rng(len(runs.scores))
        for index in np.unique(chosen):
            mine = np.flatnonzero(chosen == index)
            drawn = self.normal[mine] @ self.roots[index].T
            chance = rng.standard_normal((len(mine), len(at))) @ np.linalg.cholesky(noise[index]).T
            missed = (means.scores - centre - drawn[:, at] - chance).T
            moved = np.linalg.solve(shown[index].T, np.linalg.solve(shown[index], missed))
            scores[mine] = centre + drawn + (self.priors[index][:, at] @ moved).T
        return Belief(scores[self.order], self.scatters[chosen][self.order], self.luck, self.span)


def _prior(grid: Grid, span: float, rng: np.random.Generator) -> np.ndarray:
    """(A, A) covariance of the settings' scores, for one draw of sizes and bends."""
    bends = BEND[0] * np.exp(BEND[1] * rng.standard_normal(len(grid.distances)))
    alike = [np.exp(-0.5 * (d / bend) ** 2) for d, bend in zip(grid.distances, bends, strict=True)]
    curve = CURVE[0] * np.exp(CURVE[1] * rng.standard_normal())
    found = LEVEL**2 + curve**2 * alike[0] + MISFIT**2 * np.eye(len(grid))
    for axis in range(1, len(alike)):
        effect = EFFECT[0] * np.exp(EFFECT[1] * rng.standard_normal())
        others = [1.0] + [INTERACTION**2 * one for j, one in enumerate(alike) if j != axis]
        found = found + effect**2 * alike[axis] * sum(others)
    return span**2 * found
