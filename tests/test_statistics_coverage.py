"""Coverage and false positives by small simulations; the full ones are in benchmarks/coverage.py (docs/statistics.md).

With 200 replications a true 95 % scatters by 1.5 points, so the limits here are wide: they catch a broken formula.
"""

import numpy as np
import pytest

from llama_exp.statistics import (
    Clusters,
    Contender,
    RunSums,
    cluster_difference,
    cluster_interval,
    rank_cells,
    variance_components,
)
from llama_exp.statistics.learning_curve.fit import fit_points
from llama_exp.statistics.learning_curve.noise import SweepScores, estimate_points

UNEVEN = np.array([81, 51, 48, 41, 32, 30, 29, 29, 27, 26, 25, 24, 24, 23, 22, 21, 20, 19, 18, 17, 15, 12, 11, 10])
LAYOUTS = {
    "24 uneven articles": (UNEVEN, 0.75, 25),
    "8 articles": (np.array([40, 55, 60, 35, 50, 45, 70, 30]), 0.75, 25),
    "heavy-tailed": (np.array([150, 60, 35, 25, 18, 14, 11, 9, 7, 6, 5, 4, 4, 3, 3]), 0.7, 15),
    "near 100 %": (UNEVEN, 0.97, 20),
}


def clusters(sums: np.ndarray, sizes: np.ndarray) -> Clusters:
    return Clusters(sums.astype(float), sizes.astype(float), int(sizes.sum()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_intervals_hold_the_truth_in_95_of_100(layout):
    sizes, mean, concentration = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    chances = rng.beta(mean * concentration, (1 - mean) * concentration, (200, len(sizes)))
    found = [cluster_interval(clusters(sums, sizes), bounds=(0, 1)) for sums in rng.binomial(sizes, chances)]
    assert 0.91 <= np.mean([i.low <= mean <= i.high for i in found]) <= 0.985


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_cells_differ_in_5_of_100(layout):
    sizes, mean, concentration = LAYOUTS[layout]
    rng, hits = np.random.default_rng(1), []
    for _ in range(200):
        chance = rng.beta(mean * concentration, (1 - mean) * concentration, len(sizes))
        one, other = rng.binomial(sizes, np.clip(chance + rng.normal(0, 0.02, (2, len(sizes))), 0, 1))
        hits.append(cluster_difference(clusters(one - other, sizes)).p_value < 0.05)
    assert 0.01 <= np.mean(hits) <= 0.09


def test_of_six_equal_cells_one_is_called_worse_in_at_most_5_of_100():
    sizes, mean, concentration = LAYOUTS["24 uneven articles"]
    rng, hits = np.random.default_rng(2), []
    for _ in range(60):
        chance = rng.beta(mean * concentration, (1 - mean) * concentration, len(sizes))
        answers = rng.binomial(sizes, np.clip(chance + rng.normal(0, 0.02, (6, len(sizes))), 0, 1))
        cells = [
            Contender(i, RunSums(right[None].astype(float), sizes.astype(float), int(sizes.sum())), ((0, 0),))
            for i, right in enumerate(answers)
        ]
        best_first = sorted(cells, key=lambda one: -one.sums.means.mean())
        hits.append(bool(rank_cells(best_first, scatters=np.zeros(1)).worse))  # runs without luck
    assert np.mean(hits) <= 0.08


def test_two_equal_recipes_of_three_runs_differ_in_5_of_100():
    rng, hits, weights = np.random.default_rng(5), [], UNEVEN.astype(float)
    runs = tuple((seed, 0) for seed in range(3))
    for _ in range(200):
        hard = rng.normal(70, 6, len(UNEVEN))
        scores = hard + rng.normal(0, 1.2, (2, 3, 1)) + rng.normal(0, 3, (2, 3, len(UNEVEN)))
        cells = [
            Contender(i, RunSums(one * weights, weights, int(weights.sum())), runs) for i, one in enumerate(scores)
        ]
        hits.append(bool(rank_cells(sorted(cells, key=lambda one: -one.sums.means.mean())).worse))
    assert 0.01 <= np.mean(hits) <= 0.1


def test_intervals_over_seeds_hold_the_recipes_mean():
    rng, hits = np.random.default_rng(3), []
    for _ in range(200):
        level = rng.normal(70, 6, len(UNEVEN)) + rng.normal(0, 1.2, (3, 1)) + rng.normal(0, 3, (3, len(UNEVEN)))
        table = RunSums(level * UNEVEN, UNEVEN.astype(float), int(UNEVEN.sum()))
        total = variance_components(table, [0, 1, 2]).total
        hits.append(total.low <= 70 <= total.high)
    assert 0.91 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("law", [(80, 150, 0.4), (95, 70, 0.12)], ids=["bends", "slow"])
def test_a_curve_holds_the_score_at_four_times_its_largest_size(law):
    sizes, rng, hits = np.array([100.0, 300, 1000, 3000, 10000]), np.random.default_rng(4), []
    truth = law[0] - law[1] * np.append(sizes, 40_000) ** -law[2]
    for _ in range(100):
        level = truth[:5, None] + rng.normal(0, 0.8, (5, 3))
        scores = level[..., None] + rng.normal(0, 8, len(UNEVEN)) + rng.normal(0, 3, (5, 3, len(UNEVEN)))
        sums = RunSums((scores * UNEVEN).reshape(15, -1), UNEVEN.astype(float), int(UNEVEN.sum()))
        table = SweepScores(sizes, np.repeat(np.arange(5), 3), np.tile(np.arange(3), 5), sums.means, sums)
        ahead = fit_points({0: estimate_points(table)}, (0, 100), rises=True)[0].predict(40_000)
        hits.append(ahead.low <= truth[5] <= ahead.high)
    assert np.mean(hits) >= 0.9
