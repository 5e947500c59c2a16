"""Learning curves: how the score grows with the number of training examples, and what more of them would buy.

    score(n) = a - b n^(-c)      a: where it ends; c: how fast it gets there

The power law with a floor is what learning curves of neural networks follow over a wide range (Hestness et al. 2017,
"Deep Learning Scaling is Predictable, Empirically"; Rosenfeld et al. 2020). Nothing forces yours to: the fit
(fitting.py) is tested against the spread of runs and against its own largest size, and says so when it fails.

A `Curve` is plain data; what is read off it is computed when asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from .profile import Profile, contrast, fit
from .words import plus_minus

REACH = 1000  # sizes are searched up to this many times the largest tried


@dataclass(frozen=True, slots=True)
class Band:
    """A value read off the curve, with its interval; None and a `note` where it has none."""

    estimate: float | None
    low: float | None
    high: float | None
    note: str = ""

    def __str__(self) -> str:
        return plus_minus(self.estimate, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Need:
    """How many examples a target takes. `high` None: perhaps never; all None: not within `limit`."""

    estimate: float | None
    low: float | None
    high: float | None
    limit: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The fit without the largest size, and what was measured there; the interval includes the measurement's noise."""

    size: int
    predicted: float
    low: float
    high: float
    measured: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted law, or a `refusal` that says in words what the points do not identify.

    sizes, scores   the points: number of examples, mean score
    a, b, c         best fit; a is None at c = 0, where the score is a logarithm with slope b in log n
    c_low, c_high   the exponents that the points allow, between 0 and 3
    critical        how many standard errors the intervals reach
    misfit_p        chance of so bad a fit if the law holds; None when runs are too few to test it
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
    check: Check | None
    refusal: str = ""
    bounds: tuple[float, float] | None = None
    confidence: float = 0.95

    @property
    def misfit(self) -> bool:
        """The points scatter about the law by more than their runs do among themselves, at the 5 % level."""
        return self.misfit_p is not None and self.misfit_p < 0.05

    @property
    def trusted(self) -> bool:
        """Neither refused, nor contradicted by its own points or by its largest size."""
        return not self.refusal and not self.misfit and (self.check is None or self.check.agrees)

    def predict(self, n: float) -> Band:
        """The score at n examples."""
        return self._band(lambda z: (1.0, z(np.array([n]))))[0]

    def predict_many(self, sizes: Sequence[float]) -> list[Band]:
        """The score at each size: the band of a figure."""
        return self._band(lambda z: (1.0, z(np.asarray(sizes, dtype=np.float64))))

    def leaves_scale(self, sizes: Sequence[float]) -> list[bool]:
        """At which sizes the law itself lies outside the bounds: there it cannot be true, whatever its interval says."""
        if self.bounds is None:
            return [False] * len(sizes)
        bands = self._band(lambda z: (1.0, z(np.asarray(sizes, dtype=np.float64))), clip=False)
        return [not self.bounds[0] <= band.estimate <= self.bounds[1] for band in bands]

    def gain(self, factor: float) -> Band:
        """What `factor` times the largest size tried buys over that size. Test-set noise mostly cancels."""
        now = self.sizes[-1]
        gain = self._band(lambda z: (0.0, z(np.array([now * factor])) - z(np.array([now]))), clip=False)[0]
        if self.bounds is None:
            return gain
        here = self.predict(now)  # no gain beyond the scale's ends
        down, up = self.bounds[0] - here.high, self.bounds[1] - here.low
        return Band(*(float(np.clip(part, down, up)) for part in (gain.estimate, gain.low, gain.high)))

    def plateau(self) -> Band:
        """a, where the curve ends. Unidentified when c = 0, a logarithm that never ends, is allowed."""
        profile = self._profile()
        allowed = profile.allowed(self.critical)
        room = self.bounds[1] if self.bounds and self.b is not None and self.b > 0 else None
        if allowed[0] and profile.exponents[0] == 0:
            end = "" if room is None else f" below the scale's end, {room:g}"
            return Band(self.a, None, None, f"the points do not bend enough to show where they end{end}")
        ends = 1 / np.where(profile.exponents == 0, inf, profile.exponents)
        return self._band(lambda z: (1.0, ends[:, None]))[0]

    def size_for(self, target: float) -> Need:
        """How many examples reach `target`, with the interval that the band's two edges give."""
        rises = self.scores[-1] >= self.scores[0] if self.b is None else self.b > 0
        grid = np.geomspace(self.sizes[0], self.sizes[-1] * REACH, 200)
        bands = self.predict_many(grid)
        sign, limit = (1.0 if rises else -1.0), float(grid[-1])
        near, far = ("high", "low") if rises else ("low", "high")
        earliest = _crossing(grid, [sign * getattr(band, near) for band in bands], sign * target)
        likely = _crossing(grid, [sign * band.estimate for band in bands], sign * target)
        latest = _crossing(grid, [sign * getattr(band, far) for band in bands], sign * target)
        if earliest is None:
            return Need(None, None, None, limit, "even the best curve that the points allow ends short of it")
        if likely is None:
            return Need(None, earliest, None, limit, "the best-fitting curve ends short of it")
        return Need(likely, earliest, latest, limit)

    def _profile(self) -> Profile:
        if self.refusal:
            raise ValueError(f"this curve was refused: {self.refusal}")
        return fit(
            np.array(self.sizes, float), np.array(self.scores), np.array(self.variances), np.array(self.covariance),
            self.critical,
        )  # fmt: skip

    def _band(self, build, clip: bool = True) -> list[Band]:
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
