"""All curves a - b n^(-c) that the points allow: the profile over the exponent, by weighted least squares.

For a fixed exponent c the law is a straight line,

    score = alpha + beta * z,   z = (1 - (n / n0)^(-c)) / c     (Box & Cox; z = log(n / n0) at c = 0)

with a = alpha + beta / c and b = beta / c * n0^c, so that nothing has to be guessed or iterated: one fit for each c on
a grid. The interval of a prediction holds every value that some allowed c gives it; allowed are those whose misfit
exceeds the best one's by no more than t^2. Such profile intervals follow the curve, where estimate +- 2 standard errors
cannot (Bates & Watts 1988, "Nonlinear Regression Analysis", ch. 6).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EXPONENTS = 3.0 * np.linspace(0.0, 1.0, 201) ** 2  # bounds on c: 0 (a logarithm, no plateau) to 3; denser near 0


@dataclass(frozen=True, slots=True)
class Profile:
    """One weighted fit per exponent (C of them).

    exponents   (C,) rising
    centre      n0, the geometric mean of the sizes
    covariance  (K, K) all of the means' noise
    operators   (C, 2, K) the points' means -> (alpha, beta)
    lines       (C, 2) alpha, beta
    misfit      (C,) weighted sum of squared residuals
    """

    exponents: np.ndarray
    centre: float
    covariance: np.ndarray
    operators: np.ndarray
    lines: np.ndarray
    misfit: np.ndarray

    @property
    def best(self) -> int:
        """Index of the exponent that fits best."""
        return int(self.misfit.argmin())

    def z(self, n) -> np.ndarray:
        """(C, ...) the transformed size, for every exponent."""
        return transformed(np.log(np.asarray(n, dtype=np.float64) / self.centre), self.exponents)

    def band(self, contrasts: np.ndarray, critical: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(estimate, low, high), each (M,), of contrasts (C, M, 2) of (alpha, beta)."""
        values = np.einsum("cmi,ci->cm", contrasts, self.lines)
        weights = np.einsum("cmi,cik->cmk", contrasts, self.operators)
        return self._hull(values, self._variance(weights), critical)

    def interval(
        self, weights: np.ndarray, values: np.ndarray, covariance: np.ndarray, critical: float
    ) -> tuple[float, float, float]:
        """(estimate, low, high) of values (C,) that depend on more points than were fitted, through weights (C, K')."""
        variance = np.einsum("ck,kl,cl->c", weights, covariance, weights)
        return tuple(float(part[0]) for part in self._hull(values[:, None], variance[:, None], critical))

    def allowed(self, critical: float) -> np.ndarray:
        """(C,) which exponents the points do not exclude."""
        return self.misfit - self.misfit.min() <= critical**2

    def _variance(self, weights: np.ndarray) -> np.ndarray:
        return np.einsum("cmk,kl,cml->cm", weights, self.covariance, weights)

    def _hull(self, values: np.ndarray, variance: np.ndarray, critical: float):
        slack = critical**2 - (self.misfit - self.misfit.min())
        allowed = slack >= 0
        half = np.sqrt(np.maximum(variance[allowed], 0) * slack[allowed, None])
        return values[self.best], (values[allowed] - half).min(axis=0), (values[allowed] + half).max(axis=0)


def transformed(log_ratio: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """(C, ...) the Box-Cox transform of the size for each exponent, exact at and near c = 0."""
    exponents = exponents.reshape(-1, *[1] * np.ndim(log_ratio))
    safe = np.where(exponents == 0, 1.0, exponents)
    return np.where(exponents == 0, log_ratio, -np.expm1(-safe * log_ratio) / safe)


def fit(
    sizes: np.ndarray, means: np.ndarray, variances: np.ndarray, covariance: np.ndarray, critical: float
) -> Profile:
    """Fit every exponent, then again on a finer grid over those within twice `critical`: precise points allow few.

    variances   (K,) the points' own noise: the inverse of the fit's weights
    covariance  (K, K) all of the means' noise, with what moves all points together and so shows in no residual
    """
    coarse = fit_exponents(EXPONENTS, sizes, means, variances, covariance)
    near = np.flatnonzero(coarse.misfit <= coarse.misfit.min() + (2 * critical) ** 2)
    low, high = EXPONENTS[max(near[0] - 1, 0)], EXPONENTS[min(near[-1] + 1, len(EXPONENTS) - 1)]
    roots = np.linspace(np.sqrt(low), np.sqrt(high), len(EXPONENTS))
    fine = np.union1d(roots**2, EXPONENTS[coarse.best])
    return fit_exponents(fine, sizes, means, variances, covariance)


def fit_exponents(
    exponents: np.ndarray, sizes: np.ndarray, means: np.ndarray, variances: np.ndarray, covariance: np.ndarray
) -> Profile:
    """One weighted straight line for each exponent, in closed form."""
    centre = float(np.exp(np.log(sizes).mean()))
    z = transformed(np.log(sizes / centre), exponents)  # (C, K)
    weight = 1 / variances
    total = weight.sum()
    middle = (z @ weight / total)[:, None]
    slope = (z - middle) * weight / (((z - middle) ** 2) @ weight)[:, None]  # (C, K)
    level = weight / total - middle * slope
    operators = np.stack([level, slope], axis=1)
    lines = operators @ means
    residuals = means - lines[:, :1] - lines[:, 1:] * z
    return Profile(exponents, centre, covariance, operators, lines, (residuals**2) @ weight)


def contrast(profile: Profile, build: Callable[[Callable], tuple]) -> np.ndarray:
    """(C, M, 2) from a function of z that gives the factors of alpha and beta."""
    alpha, beta = np.broadcast_arrays(*build(profile.z))
    return np.stack([alpha, beta], axis=-1)
