"""A variance of two parts, each estimated with its own degrees of freedom: the test set and the runs.

    half-width = reach x sqrt(test set + runs beyond the items)

With two or three runs Satterthwaite's approximation is too short where the runs' part dominates: covers 87 to 92 % for
1 degree of freedom beside 47 (simulated). Cochran & Cox's (1950) t weighted by the variances is too long where it does
not (98 %). The square of the weighted mean of the roots of both t lies between, 93 to 97.5 % for every mixture.
Where few groups show the test set's variance it often looks far too small, and its weight with it: then the larger t
holds for the whole (never too short: Mickey & Brown 1966).
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import optimize, special

from llama_exp.statistics.run_effects import RunVariance
from llama_exp.statistics.single_runs import FEW_DF

DRAWS = 4000
# With as many degrees of freedom as the variances have, the difference would be found in 84 of 100 where 80 are
# promised; with twice as many in 78 (simulated: 2 to 8 degrees of freedom, runs' part 20 to 80 %).
CENTRE = 1.5


@dataclass(frozen=True, slots=True)
class TwoSources:
    """`test` with its `test_df`, and the runs'. The scatter of runs holds what the items add to each of them."""

    test: float
    test_df: float
    runs: RunVariance

    @property
    def runs_count(self) -> bool:
        """Whether runs are part of the variance."""
        return self.runs.df > 0

    @property
    def error(self) -> float:
        """Standard error of both together."""
        return sqrt(self.test + self.runs.beyond_items)

    def reach(self, level: float) -> float:
        """How many standard errors the interval extends to each side; `level`: what it may miss, 0.05."""
        return float(_reach(self._share(self.runs.total), self.test_df, max(self.runs.df, 1.0), level))

    def p_value(self, difference: float) -> float:
        """Two-sided: the level at which the interval of this difference ends at 0."""
        size = abs(difference) / self.error

        def excess(log_level: float) -> float:
            return self.reach(np.exp(log_level)) - size

        if size <= 1e-9:
            return 1.0
        if excess(-60.0) < 0:
            return float(np.exp(-60.0))
        return float(np.exp(optimize.brentq(excess, -60.0, -1e-12, xtol=1e-10)))

    def detectable(self, level: float, pairs: int, power: float, seed: int = 0) -> float:
        """The true difference that such a test, on new items and runs, finds with this chance.

        `level` is divided by the pairs that are compared.

        Drawn: the true variances given these estimates, then their estimates of a new experiment, then the difference.
        """
        rng, run_df = np.random.default_rng(seed), max(self.runs.df, 1.0)
        chi = [(_ratio(rng, CENTRE * df), _ratio(rng, df)) for df in (self.test_df, run_df)]
        own = max(self.test - self.runs.items, 0.0)  # the test set's, without what is in the runs' scatter
        true = own / chi[0][0] + self.runs.total / chi[1][0]
        profile, scatter = own * chi[0][1] / chi[0][0], self.runs.total * chi[1][1] / chi[1][0]
        found = np.maximum(profile + scatter, 1e-300)
        needed = _reach(scatter / found, self.test_df, run_df, level / pairs) * np.sqrt(found)
        return float(np.quantile(needed + rng.standard_normal(DRAWS) * np.sqrt(true), power))

    def _share(self, scatter: float) -> float:
        """The part of the variance that is known no better than the runs' scatter."""
        return min(scatter / max(self.test + self.runs.beyond_items, 1e-300), 1.0) if self.runs.df else 0.0


def _ratio(rng: np.random.Generator, df: float) -> np.ndarray:
    """(DRAWS,) an estimated variance, relative to the true one."""
    return rng.chisquare(df, DRAWS) / df


def _reach(share, test_df: float, run_df: float, level: float):
    test, runs = (-special.stdtrit(df, level / 2) for df in (test_df, run_df))
    if test_df < FEW_DF and np.any(share > 0):
        return np.maximum(test, runs)
    return ((1 - share) * np.sqrt(test) + share * np.sqrt(runs)) ** 2
