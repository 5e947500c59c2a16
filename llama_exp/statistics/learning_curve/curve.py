"""A fitted learning curve, and what is read off it.

    score(n) = a - b n^(-c)      a: the plateau; c: how fast the curve approaches it

The power law with a plateau is what learning curves of neural networks follow over a wide range (Hestness et al. 2017,
"Deep Learning Scaling is Predictable, Empirically"; Rosenfeld et al. 2020). Yours need not: the fit (fit.py) is tested
against the spread of runs and against its own largest size, and reports when it fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from llama_exp.statistics import messages
from llama_exp.statistics.learning_curve.profile import Profile, contrast, fit

REACH = 1000  # sizes are searched up to this many times the largest tried


@dataclass(frozen=True, slots=True)
class Band:
    """A value read off the curve, with its interval; what is not identified is None, and `note` says why."""

    estimate: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RequiredSize:
    """How many examples a target takes. `high` None: perhaps no number does; all None: not within `limit`."""

    estimate: float | None
    low: float | None
    high: float | None
    limit: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class HoldoutCheck:
    """The fit without the largest size, and what was measured there; the interval includes the measurement's noise."""

    size: int
    predicted: float
    low: float
    high: float
    measured: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """A fitted law, or a `refusal`: the reason why the points do not identify one.

    sizes, scores   the points: number of examples, mean score
    a, b, c         best fit; a is None at c = 0, where the score is a logarithm with slope b in log n
    c_low, c_high   the exponents that the points allow, between 0 and 3
    critical        how many standard errors the intervals reach
    misfit_p        probability of so bad a fit if the law holds; None when runs are too few to test it
    check           None when sizes are too few to predict the largest one from the others

    Plain data: everything else is computed on demand.
    """

    sizes: tuple[int, ...]
    scores: tuple[float, ...]
    a: float | None
    b: float | None
    c: float | None
    c_low: float | None
    c_high: float | None
    critical: float
    variances: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    misfit_p: float | None
    check: HoldoutCheck | None
    refusal: str = ""
    bounds: tuple[float, float] | None = None
    confidence: float = 0.95

    @property
    def misfit(self) -> bool:
        """Whether the points scatter about the law by more than their runs do among themselves, at the 5 % level."""
        return self.misfit_p is not None and self.misfit_p < 0.05

    @property
    def trusted(self) -> bool:
        """Neither refused, nor contradicted by its own points or by its largest size."""
        return not self.refusal and not self.misfit and (self.check is None or self.check.agrees)

    def predict(self, n: float) -> Band:
        """The score at n examples."""
        return self.predict_many([n])[0]

    def predict_many(self, sizes: Sequence[float]) -> list[Band]:
        """The score at each size: the band of a figure."""
        return self._bands(lambda z: (1.0, z(np.asarray(sizes, dtype=np.float64))))

    def leaves_scale(self, sizes: Sequence[float]) -> list[bool]:
        """At which sizes the law lies outside the bounds. There it cannot be true, whatever its interval says."""
        if self.bounds is None:
            return [False] * len(sizes)
        bands = self._bands(lambda z: (1.0, z(np.asarray(sizes, dtype=np.float64))), clip=False)
        return [not self.bounds[0] <= band.estimate <= self.bounds[1] for band in bands]

    def gain(self, factor: float) -> Band:
        """What `factor` times the largest size tried buys over that size. Test-set noise mostly cancels."""
        largest = self.sizes[-1]
        gain = self._bands(lambda z: (0.0, z(np.array([largest * factor])) - z(np.array([largest]))), clip=False)[0]
        if self.bounds is None:
            return gain
        now = self.predict(largest)  # no gain beyond the ends of the scale
        down, up = self.bounds[0] - now.high, self.bounds[1] - now.low
        return Band(*(float(np.clip(part, down, up)) for part in (gain.estimate, gain.low, gain.high)))

    def plateau(self) -> Band:
        """a, where the curve ends. Unidentified when c = 0, a logarithm that never ends, is allowed."""
        profile = self._profile()
        if profile.allowed(self.critical)[0] and profile.exponents[0] == 0:
            rises = self.b is not None and self.b > 0
            note = messages.NO_BEND_BELOW.format(end=self.bounds[1]) if self.bounds and rises else messages.NO_BEND
            return Band(self.a, None, None, note)
        ends = 1 / np.where(profile.exponents == 0, inf, profile.exponents)
        return self._bands(lambda z: (1.0, ends[:, None]))[0]

    def size_for(self, target: float) -> RequiredSize:
        """How many examples reach `target`, with the interval that the two edges of the band give."""
        rises = self.scores[-1] >= self.scores[0] if self.b is None else self.b > 0
        grid = np.geomspace(self.sizes[0], self.sizes[-1] * REACH, 200)
        bands = self.predict_many(grid)
        sign, limit = (1.0 if rises else -1.0), float(grid[-1])
        near, far = ("high", "low") if rises else ("low", "high")
        earliest, likely, latest = (
            _crossing(grid, [sign * getattr(band, edge) for band in bands], sign * target)
            for edge in (near, "estimate", far)
        )
        if earliest is None:
            return RequiredSize(None, None, None, limit, messages.ALL_END_SHORT)
        if likely is None:
            return RequiredSize(None, earliest, None, limit, messages.BEST_ENDS_SHORT)
        return RequiredSize(likely, earliest, latest, limit)

    def _profile(self) -> Profile:
        if self.refusal:
            raise ValueError(f"this curve was refused: {self.refusal}")
        sizes, scores = np.array(self.sizes, float), np.array(self.scores)
        return fit(sizes, scores, np.array(self.variances), np.array(self.covariance), self.critical)

    def _bands(self, build: Callable, clip: bool = True) -> list[Band]:
        profile = self._profile()
        estimate, low, high = profile.band(contrast(profile, build), self.critical)
        if clip and self.bounds is not None:
            estimate, low, high = (np.clip(part, *self.bounds) for part in (estimate, low, high))
        return [Band(*map(float, row)) for row in zip(estimate, low, high, strict=True)]


def _crossing(sizes: np.ndarray, values: Sequence[float], target: float) -> float | None:
    """The size from which on values stay at or above the target, interpolated in log n; None if they never do."""
    values = np.asarray(values)
    below = np.flatnonzero(values < target)
    if not len(below):
        return float(sizes[0])
    last = below[-1]
    if last == len(values) - 1:
        return None
    part = (target - values[last]) / (values[last + 1] - values[last])
    return float(sizes[last] * (sizes[last + 1] / sizes[last]) ** part)
