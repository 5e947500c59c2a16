"""How much the seeds move a cell's mean or a difference of cells: one mixed model for every design.

    score of a run = cell + data seed + data seed x cell + run + run x cell + test items

`run` is a pair (data seed, seed): runs of two cells that share it saw the same sample in the same order, so part of
their luck is common and cancels in a difference. Cells may have any number of runs, shared or not. The variance of a
contrast l'm of the run scores m is the sum of l'K_j l times the variance of effect j, where K_j says which runs share
that effect. The variances are estimated by moments (Rao 1972, MINQUE; for balanced designs these are the mean squares
of the analysis of variance): each is a quadratic form m'Qm, so that Satterthwaite's degrees of freedom are
tr(QS)^2 / tr(QSQS). What the finite test set adds to each run is a form of the items' residuals with the same Q
(two-way clustering, Cameron, Gelbach & Miller 2011), and is taken off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

EFFECTS = ("run x cell", "run", "data seed x cell", "data seed")
SMALLEST = 1e-8  # an effect whose moments others determine to this precision is not in the design


@dataclass(frozen=True, slots=True)
class RunVariance:
    """The part of a contrast's variance that is due to runs.

    total   as the runs' scores scatter
    items   the part of `total` that is chance on these test items, and in the test set's own variance already
    df      degrees of freedom of `total`; 0: the design shows no scatter of runs
    """

    total: float
    items: float
    df: float

    @property
    def beyond_items(self) -> float:
        """What runs add to the variance of the test set; 0 where the items explain all their scatter."""
        return max(self.total - self.items, 0.0)

    def at_least(self, added: float, df: float) -> "RunVariance":
        """With no less than `added` beyond the items, known with no more than these degrees of freedom."""
        if added <= 0:
            return self
        return RunVariance(max(self.total, self.items + added), self.items, min(self.df, df) if self.df else df)


NOTHING_SHOWN = RunVariance(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RunEffects:
    """The runs of one or more cells.

    scores      (R,) each run's score
    residuals   (R, G) each run's residual per group, in units of the score: cross products are covariances
    cells       (R,) index of the cell
    runs        (data seed, seed) of each
    """

    scores: np.ndarray
    residuals: np.ndarray
    cells: np.ndarray
    runs: tuple[tuple[int, int], ...]

    def select(self, cells: Sequence[int]) -> "RunEffects":
        """The runs of these cells only."""
        rows = np.flatnonzero(np.isin(self.cells, cells))
        runs = tuple(self.runs[row] for row in rows)
        return RunEffects(self.scores[rows], self.residuals[rows], self.cells[rows], runs)

    def weights(self, plus: int, minus: int | None = None) -> np.ndarray:
        """(R,) of the mean of cell `plus`, less that of cell `minus`."""
        own = [1.0 * (self.cells == cell) for cell in (plus, minus) if cell is not None]
        means = [one / max(one.sum(), 1.0) for one in own]
        return means[0] - means[1] if len(means) > 1 else means[0]

    def variance(self, weights: np.ndarray) -> RunVariance:
        """Of the contrast with these weights of the runs."""
        if not len(self._kept):
            return NOTHING_SHOWN
        counts = np.array([weights @ self._kernels[j] @ weights for j in self._kept])
        scores, residuals = self._both_squares
        # An effect whose estimate is below 0 counts as 0: less would let chance cancel what is certainly there.
        total = float(counts @ np.maximum(np.linalg.solve(self._moments, scores), 0.0))
        share = np.linalg.solve(self._moments, counts)
        items = min(max(float(share @ residuals), 0.0), total)
        mean, spread = float(share @ self._expected), float(share @ self._cross @ share)
        return RunVariance(total, items, mean**2 / spread if spread > 0 else 0.0)

    def unbiased(self, weights: np.ndarray) -> float:
        """What runs add to this contrast's variance beyond the test items; below 0 where chance has it so."""
        kernels = dict(zip(EFFECTS, self._kernels, strict=True))
        return float(sum(value * (weights @ kernels[name] @ weights) for name, value in self.components().items()))

    def own_run(self) -> tuple[float, float]:
        """The variance that is each run's own, as the scores scatter, and the part that is chance on these items."""
        scores, items = (float(np.linalg.solve(self._moments, squares)[0]) for squares in self._both_squares)
        return scores, items

    def components(self) -> dict[str, float]:
        """{effect: its variance beyond the test items}, of those that this design shows; unbiased, so it may be < 0."""
        if not len(self._kept):
            return {}
        squares = self._both_squares[0] - self._both_squares[1]
        return dict(zip([EFFECTS[j] for j in self._kept], np.linalg.solve(self._moments, squares), strict=True))

    def covariance(self, weights: np.ndarray) -> np.ndarray:
        """(C, C) what runs add to the covariance of C contrasts, `weights` (C, R); components below 0 count as 0."""
        found = self.components()
        added = sum(max(found.get(name, 0.0), 0.0) * k for name, k in zip(EFFECTS, self._kernels, strict=True))
        return weights @ added @ weights.T if found else np.zeros((len(weights), len(weights)))

    @cached_property
    def _kernels(self) -> list[np.ndarray]:
        """(R, R) of each effect: 1 where two runs share it."""
        samples = np.array([data_seed for data_seed, _ in self.runs])
        codes = np.unique(np.array(self.runs).reshape(-1, 2), axis=0, return_inverse=True)[1].reshape(-1)
        same = [one[:, None] == one[None, :] for one in (codes, samples, self.cells)]
        run, sample, cell = same
        return [np.where(one, 1.0, 0.0) for one in (run & cell, run, sample & cell, sample)]

    @cached_property
    def _centred(self) -> list[np.ndarray]:
        """The kernels less each cell's mean: the cells themselves drop out."""
        cell = np.where(self.cells[:, None] == self.cells[None, :], 1.0, 0.0)
        maker = np.eye(len(self.cells)) - cell / cell.sum(axis=1, keepdims=True)
        return [maker @ kernel @ maker for kernel in self._kernels]

    @cached_property
    def _kept(self) -> list[int]:
        """The effects that can be told apart, from the finest on."""
        kept: list[int] = []
        for j in range(len(EFFECTS)):
            rows = np.stack([self._centred[i].ravel() for i in [*kept, j]])
            sizes = np.linalg.norm(rows, axis=1)
            if sizes[-1] > SMALLEST:
                unit = rows / sizes[:, None]
                if np.linalg.eigvalsh(unit @ unit.T)[0] > SMALLEST:
                    kept.append(j)
        return kept

    @cached_property
    def _moments(self) -> np.ndarray:
        """(k, k) expected squares of each effect, per unit of each variance."""
        return np.array([[(self._centred[i] * self._centred[j]).sum() for j in self._kept] for i in self._kept])

    @cached_property
    def _both_squares(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) the quadratic forms of the scores, and of the residuals: the same for every contrast of a sweep."""
        return self._squares(self.scores[:, None]), self._squares(self.residuals)

    def _squares(self, columns: np.ndarray) -> np.ndarray:
        """(k,) the quadratic forms of these columns, added up."""
        return np.array([(columns * (self._centred[j] @ columns)).sum() for j in self._kept])

    @cached_property
    def _spread(self) -> list[np.ndarray]:
        """Each kept kernel times the covariance of the scores as they scatter."""
        found = np.linalg.solve(self._moments, self._both_squares[0])
        found = np.maximum(found, 0.0)
        found[0] = max(found[0], 1e-6 * found.sum(), 1e-300)  # runs are never exactly the same
        covariance = sum(v * self._kernels[j] for v, j in zip(found, self._kept, strict=True))
        return [self._centred[j] @ covariance for j in self._kept]

    @cached_property
    def _expected(self) -> np.ndarray:
        return np.array([np.trace(one) for one in self._spread])

    @cached_property
    def _cross(self) -> np.ndarray:
        return np.array([[(one * other.T).sum() for other in self._spread] for one in self._spread])
