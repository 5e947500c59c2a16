"""A learning curve, and what is read off it: scores at other sizes, gains, and the size for a target."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llama_exp.statistics.learning_curve.laws import WEIGHTS, Laws
from llama_exp.statistics.learning_curve.posterior import Draws

REACH = 1000  # sizes are searched up to this many times the largest tried


@dataclass(frozen=True, slots=True)
class Band:
    """A value read off the curve, with its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RequiredSize:
    """How many examples a target takes. `high` None: perhaps no number does; all None: not within `limit`.

    chance   probability that `limit` examples reach the target
    """

    estimate: float | None
    low: float | None
    high: float | None
    limit: float
    chance: float


@dataclass(frozen=True)
class LearningCurve:
    """Curves that agree with the runs, weighted by how well they do; or a `refusal`, the reason why there are none.

    sizes, scores   the points: number of examples, mean score
    laws            {law: its probability}
    rises           whether more data is expected to raise the score; None: as the points do
    repeated        whether any size was run more than once: only then do the runs show their own scatter
    """

    sizes: tuple[int, ...]
    scores: tuple[float, ...]
    laws: dict[str, float] = field(default_factory=dict)
    repeated: bool = False
    refusal: str = ""
    bounds: tuple[float, float] | None = None
    confidence: float = 0.95
    rises: bool | None = None
    grid: Laws | None = field(default=None, repr=False, compare=False)  # None where refused
    draws: Draws | None = field(default=None, repr=False, compare=False)

    def predict(self, n: float) -> Band:
        """The expected score at n examples."""
        return self.predict_many([n])[0]

    def predict_many(self, sizes: Sequence[float]) -> list[Band]:
        """The expected score at each size: the band of a figure."""
        return self._bands(self.values(sizes))

    def gain(self, factor: float) -> Band:
        """What `factor` times the largest size tried buys over that size. Test-set noise mostly cancels."""
        return self.difference(self.sizes[-1] * factor, self.sizes[-1])

    def difference(self, n: float, other: float) -> Band:
        """The score at n examples minus that at `other`."""
        values = self.values([n, other])
        return self._bands(values[:, :1] - values[:, 1:])[0]

    def size_for(self, target: float) -> RequiredSize:
        """How many examples reach `target`: the median of the curves' own sizes, with an interval."""
        rises = self.scores[-1] >= self.scores[0] if self.rises is None else self.rises
        grid = np.geomspace(self.sizes[0], self.sizes[-1] * REACH, 200)
        values = self.values(grid, offset=False)
        reached = values >= target if rises else values <= target
        first = np.where(reached.any(axis=1), reached.argmax(axis=1), len(grid))
        needed = np.append(grid, np.inf)[first]
        tail = (1 - self.confidence) / 2
        ends = np.quantile(needed, [0.5, tail, 1 - tail], method="inverted_cdf").tolist()
        estimate, low, high = (one if np.isfinite(one) else None for one in ends)
        chance = float(np.isfinite(needed).mean())
        return RequiredSize(estimate, low, high, limit=float(grid[-1]), chance=chance)

    def values(self, sizes: Sequence[float] | np.ndarray, offset: bool = True) -> np.ndarray:
        """(D, N) the drawn curves at each size, on the scale; beyond the points with their distance from the law."""
        if self.grid is None or self.draws is None:
            raise ValueError(f"this curve was refused: {self.refusal}")
        draws, n = self.draws, np.asarray(sizes, dtype=np.float64)
        found = np.einsum("dna,da->dn", self.grid.coefficients(n, draws.laws), draws.ends)
        if offset:
            away = np.random.default_rng(1).standard_normal(len(draws.misfits)) * draws.misfits
            found = found + np.where(n > self.sizes[-1], away[:, None], 0.0)
        return found if self.bounds is None else np.clip(found, *self.bounds)

    def _bands(self, values: np.ndarray) -> list[Band]:
        tail = (1 - self.confidence) / 2
        found = np.quantile(values, [0.5, tail, 1 - tail], axis=0).T
        return [Band(*map(float, row)) for row in found]


def law_shares(laws: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """{law: probability} of the drawn laws."""
    counts = np.bincount(kinds[laws], minlength=len(WEIGHTS))
    return {name: round(float(count / len(laws)), 4) for name, count in zip(WEIGHTS, counts, strict=True)}
