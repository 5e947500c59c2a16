"""How much of a score is luck: how far single runs of one cell lie apart, and how many runs a comparison needs.

    a run's score = cell + luck of its sample and seed + chance on the test items

The scatter is that of one run with a sample and a seed of its own, estimated over all runs of the cell
(run_effects.py); the number of runs is that of the two-sample t test, by its exact power (the noncentral t).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import special, stats

from llama_exp.statistics.run_effects import RunEffects
from llama_exp.statistics.variance import RunSums

LEVEL, POWER = 0.05, 0.8
MOST = 1000  # runs of a cell: more is no answer


@dataclass(frozen=True, slots=True)
class RunLuck:
    """The scatter of single runs of a cell, as a standard deviation in units of the score.

    spread     beyond what the test items add; `low` to `high`: its 95 % interval
    as_scored  with it: what the runs' scores scatter by
    runs       it was measured on
    """

    spread: float
    low: float
    high: float
    as_scored: float
    runs: int

    def seeds_needed(self, difference: float) -> int | None:
        """Runs of each of two cells that find this true difference in 4 of 5 experiments; None: over 1,000.

        At least: that two cells differ from item to item comes on top.
        """
        if difference >= 10 * self.as_scored:
            return 2
        counts = range(2, MOST + 1)
        found = bisect_left(counts, POWER, key=lambda runs: _power(difference / self.as_scored, runs))
        return counts[found] if found < len(counts) else None


def _power(effect: float, runs: int) -> float:
    """The chance that a t test of so many runs each finds a difference of `effect` standard deviations."""
    df, shift = 2 * runs - 2, effect * sqrt(runs / 2)
    critical = stats.t.ppf(1 - LEVEL / 2, df)
    return float(stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift))


def run_luck(runs: RunSums, data_seeds: Sequence[int]) -> RunLuck | None:
    """From the runs of one cell; None where fewer than three show it. Training seeds are nested in data seeds."""
    count = len(runs.sums)
    if count < 3 or len(runs.weights) < 2:
        return None
    nested = tuple((int(data_seed), run) for run, data_seed in enumerate(data_seeds))
    effects = RunEffects(runs.means, runs.scaled_residuals(), np.zeros(count, dtype=int), nested)
    one = effects.variance(np.eye(count)[0])
    ends = (one.total * one.df / float(special.chdtri(one.df, tail)) for tail in (0.025, 0.975))
    low, high = (sqrt(max(end - one.items, 0.0)) for end in ends)
    return RunLuck(sqrt(one.beyond_items), low, high, sqrt(one.total), count)
