"""How much of a score is luck: how far single runs of one cell lie apart, and how many runs a comparison needs.

    a run's score = cell + luck of its sample and seed + chance on the test items

Where the runs have several samples (data seeds) the scatter is that of one run with a sample and a seed of its own;
where they share one sample, that of the training seed alone. It is estimated over all runs of the cell
(run_effects.py); the number of runs is that of the two-sample t test, by its exact power (the noncentral t).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import special, stats

from llama_exp.statistics.clusters import finite_array
from llama_exp.statistics.ranking import LEVEL, POWER
from llama_exp.statistics.run_effects import RunEffects
from llama_exp.statistics.variance import RunSums

MOST = 1000  # runs of a cell: more is no answer


@dataclass(frozen=True, slots=True)
class RunLuck:
    """The scatter of single runs of a cell, as a standard deviation in units of the score.

    spread     beyond what the test items add; `low` to `high`: its 95 % interval
    as_scored  with it: what the runs' scores scatter by
    samples    data seeds among the runs: with one, the luck of the sample is not in it
    runs       it was measured on
    """

    spread: float
    low: float
    high: float
    as_scored: float
    samples: int
    runs: int

    def seeds_needed(self, difference: float) -> int | None:
        """Runs of each of two cells that find this true difference in 4 of 5 experiments; None: over 1,000.

        As far as this scatter is known; that two cells differ from item to item comes on top.
        """
        if abs(difference) >= 10 * self.as_scored:
            return 2
        counts = range(2, MOST + 1)
        found = bisect_left(counts, POWER, key=lambda runs: _power(abs(difference) / self.as_scored, runs))
        return counts[found] if found < len(counts) else None


def _power(effect: float, runs: int) -> float:
    """The chance that a t test of so many runs each finds a difference of `effect` standard deviations."""
    df, shift = 2 * runs - 2, effect * sqrt(runs / 2)
    critical = stats.t.ppf(1 - LEVEL / 2, df)
    return float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))


def run_luck(runs: RunSums, data_seeds: Sequence[int]) -> RunLuck | None:
    """From the runs of one cell; None where there are fewer than three, or all are the same.

    Training seeds are nested in data seeds. Raises ValueError for NaN.
    """
    count = len(runs.sums)
    finite_array("scores", runs.sums.ravel())
    if count < 3 or len(runs.weights) < 2:
        return None
    nested = tuple((int(data_seed), run) for run, data_seed in enumerate(data_seeds))
    effects = RunEffects(runs.means, runs.scaled_residuals(), np.zeros(count, dtype=int), nested)
    one = effects.variance(np.eye(count)[0])
    if one.total <= 0 or one.df <= 0:
        return None
    ends = (one.total * one.df / float(special.chdtri(one.df, tail)) for tail in (0.025, 0.975))
    low, high = (sqrt(max(end - one.items, 0.0)) for end in ends)
    return RunLuck(sqrt(one.beyond_items), low, high, sqrt(one.total), len(set(data_seeds)), count)
