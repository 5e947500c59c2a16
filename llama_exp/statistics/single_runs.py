"""The variance of a difference of cells where none was run twice: the test set's, and an assumed scatter of runs.

How much runs differ cannot be measured from one run a cell, and to take it for zero calls one equal cell in four worse
(simulated: luck of one standard error). So it has a distribution: a prior, or what learning curves made of that prior.

    s ~ log-normal, median 1.2 % of the scale (1.2 points of F1), spread 0.7: half of all tasks between 0.7 and 1.9
    runs of fewer than 1,000 examples scatter by s x sqrt(1,000 / n), 3.8 points at 100, up to 10 % of the scale
    p-value = average over s of the p-value for this s

All cells share s, so that corrections for several comparisons are averaged over s, too.
"""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from scipy import optimize, special

from llama_exp.statistics.intervals import FEW

TYPICAL_SCATTER = 0.012  # median of s, as a share of the scale
LOG_SCATTER_SPREAD = 0.7
LARGEST = 0.1  # of the scale: few examples do not raise a scatter beyond it
FEWEST = 20  # examples: fewer do not scatter farther
SCENARIOS = 40  # values of s, equally likely
DRAWS = 4000
FEW_DF = FEW - 1.0  # fewer degrees of freedom of the test set: they are those of the whole


def relative_scatter(examples: np.ndarray, power: np.ndarray | float = 0.5) -> np.ndarray:
    """(K,) how far runs of so many examples scatter, relative to runs of 1,000 or more: the fewer, the farther."""
    return (1000.0 / np.clip(examples, FEWEST, 1000.0)) ** power


def run_variances(scatters: np.ndarray, relative: np.ndarray | float, span: float) -> np.ndarray:
    """(S,) or (S, K) variances of runs that scatter `relative` to those of 1,000 examples; span: of the scale."""
    return np.minimum(scatters * relative, np.maximum(scatters, LARGEST * span)) ** 2


def typical_scatters(span: float) -> np.ndarray:
    """(SCENARIOS,) standard deviations of one run of 1,000 examples, equally likely, on a scale of this length."""
    shares = (np.arange(SCENARIOS) + 0.5) / SCENARIOS
    return TYPICAL_SCATTER * span * np.exp(LOG_SCATTER_SPREAD * special.ndtri(shares))


@dataclass(frozen=True)
class SingleRuns:
    """`test` with its `test_df`, and what runs add to the variance in each scenario, (S,)."""

    test: float
    test_df: float
    added: np.ndarray

    @property
    def runs_count(self) -> bool:
        """Whether runs are part of the variance."""
        return bool(self.added.max(initial=0.0) > 0)

    @cached_property
    def error(self) -> float:
        """Standard error, by the mean of the variances."""
        return sqrt(self.test + float(self.added.mean()))

    @cached_property
    def _df(self) -> np.ndarray:
        """(S,) Welch's degrees of freedom: the scatter is known within a scenario."""
        if self.test_df < FEW_DF or self.test <= 0:
            return np.full(len(self.added), self.test_df if self.test > 0 else np.inf)
        return self.test_df * (1 + self.added / self.test) ** 2

    def p_values(self, difference: float) -> np.ndarray:
        """(S,) two-sided."""
        return 2 * special.stdtr(self._df, -abs(difference) / np.sqrt(np.maximum(self.test + self.added, 1e-300)))

    def reach(self, level: float) -> float:
        """How many standard errors the interval extends to each side; `level`: what it may miss, 0.05."""
        return self._needed(level, 1) / self.error

    def detectable(self, level: float, pairs: int, power: float) -> float:
        """The true difference that such an experiment finds with this chance, at the level divided by the pairs."""
        rng, needed = np.random.default_rng(0), self._needed(level, pairs)
        test = self.test * self.test_df / rng.chisquare(self.test_df, DRAWS)
        spread = np.sqrt(test + rng.choice(self.added, DRAWS))
        return float(np.quantile(needed + rng.standard_normal(DRAWS) * spread, power))

    def _needed(self, level: float, pairs: int) -> float:
        """The difference whose p-value, corrected for so many pairs, is `level`."""

        def excess(size: float) -> float:
            return float(np.minimum(1.0, pairs * self.p_values(size)).mean()) - level

        most = 4 * self.error
        while excess(most) > 0:
            most *= 4
        return float(optimize.brentq(excess, 0.0, most))
