"""Draws from a posterior by adaptive importance sampling, for a few parameters whose prior is a standard normal.

Rounds of draws: the first from the prior, each later one from a Student t fitted to all draws before it. Every draw is
weighted by posterior over the mixture of all rounds' densities, so the prior's own draws bound the weights (Cornuet,
Marin, Mira & Robert 2012, "Adaptive multiple importance sampling"). Where few draws carry the weight, the fit is to the
weights raised to the power that leaves SPREAD of them.
"""

from collections.abc import Callable

import numpy as np
from scipy import special

FIRST, ROUNDS, MOST, EACH = 256, 8, 24, 160
SPREAD = 48.0  # effective draws that a fit rests on at least, and the result: else there are more rounds, up to MOST
DF = 8.0  # of Student's t


class ImportanceSampler:
    """`draw` uses the same random numbers each time.

    size   number of parameters
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.prior = rng.standard_normal((FIRST, size))
        normal = rng.standard_normal((MOST, EACH, size))
        self.students = normal / np.sqrt(rng.chisquare(DF, (MOST, EACH, 1)) / DF)

    def draw(self, log_likelihood: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
        """(count, size) values, each as likely as any other. log_likelihood: (H, size) -> (H,)."""
        values, weights = self.weigh(log_likelihood)
        places = (np.arange(count) + 0.5) / count
        return values[np.searchsorted(np.cumsum(weights), places).clip(max=len(values) - 1)]

    def weigh(self, log_likelihood: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(H, size) values of all rounds, and their weights (H,), which sum to 1."""
        values, logs = self.prior, _log_normal(self.prior) + log_likelihood(self.prior)
        proposals = [(FIRST, _log_normal)]
        for done, students in enumerate(self.students):
            if done >= ROUNDS and _effective(_shares(logs - _log_mixture(values, proposals))) >= SPREAD:
                break
            student = _Student.fitted(values, logs - _log_mixture(values, proposals))
            new = student.centre + students @ student.root.T
            proposals.append((EACH, student.log_density))
            values = np.concatenate([values, new])
            logs = np.concatenate([logs, _log_normal(new) + log_likelihood(new)])
        return values, _shares(logs - _log_mixture(values, proposals))


class _Student:
    def __init__(self, centre: np.ndarray, covariance: np.ndarray) -> None:
        self.centre, self.root = centre, np.linalg.cholesky(covariance)

    @classmethod
    def fitted(cls, values: np.ndarray, logs: np.ndarray) -> "_Student":
        weights = _shares(logs * _power(logs))
        centre = weights @ values
        off = values - centre
        return cls(centre, (weights * off.T) @ off + 1e-4 * np.eye(values.shape[1]))

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Without (2 pi)^(-size / 2), as `_log_normal`."""
        size = len(self.centre)
        z = np.linalg.solve(self.root, (values - self.centre).T)
        constant = special.gammaln((DF + size) / 2) - special.gammaln(DF / 2) - size / 2 * np.log(DF / 2)
        return constant - np.log(np.diag(self.root)).sum() - (DF + size) / 2 * np.log1p((z**2).sum(axis=0) / DF)


def _log_normal(values: np.ndarray) -> np.ndarray:
    """Without (2 pi)^(-size / 2)."""
    return -0.5 * (values**2).sum(axis=1)


def _log_mixture(values: np.ndarray, proposals: list) -> np.ndarray:
    logs = np.stack([np.log(count) + density(values) for count, density in proposals])
    return special.logsumexp(logs, axis=0)


def _shares(logs: np.ndarray) -> np.ndarray:
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def _effective(weights: np.ndarray) -> float:
    """As many draws of equal weight would say as much."""
    return float(1 / (weights**2).sum())


def _power(logs: np.ndarray) -> float:
    """1, or the power of the weights that leaves SPREAD effective draws (by halving the interval)."""

    def enough(power: float) -> bool:
        return _effective(_shares(logs * power)) >= SPREAD

    low, high = 0.0, 1.0
    if enough(high):
        return high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low
