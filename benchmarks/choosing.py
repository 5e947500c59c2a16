"""Is the reported score of the best cell true, where validation chose it, and where the test set did?

    python benchmarks/choosing.py [--draws 2000]

Nine cells answer the same test items in groups. Printed for each world, in points: by how much the reported score lies
above the chosen cell's true one on average, with the Monte-Carlo error, and how much of the best true score the choice
loses. The corrected score is median-unbiased by construction, so its share above the truth is shown beside it.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from llama_exp.statistics import Contender, RunSums, rank_cells

CELLS, ITEMS = 9, 20  # items of a group


@dataclass(frozen=True)
class World:
    """spread: standard deviation of the cells' true scores; luck: of a run, in points; validation: items."""

    name: str
    spread: float = 1.0
    groups: int = 30
    validation: int = 200
    luck: float = 0.7


WORLDS = (
    World("cells alike", spread=0.0),
    World("cells close"),
    World("cells apart", spread=6.0),
    World("few groups", groups=8),
    World("little validation", validation=50),
    World("much validation", validation=2000),
    World("lucky runs", luck=3.0),
)


def draw(world: World, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """{way of choosing: (reported minus true score, true score minus the best true one)} of one sweep."""
    true = 60 + rng.normal(0, world.spread, CELLS) + rng.normal(0, world.luck, CELLS)  # of these runs
    shared, own = rng.normal(0, 8, world.groups), rng.normal(0, 3, (CELLS, world.groups))
    sums = true[:, None] * ITEMS + ITEMS * (shared + own) + rng.normal(0, 35, (CELLS, world.groups)) * np.sqrt(ITEMS)
    validation = true + rng.normal(0, 35 / np.sqrt(world.validation), CELLS)
    test = sums.mean(axis=1) / ITEMS
    order = np.argsort(-test)
    weights, runs = np.full(world.groups, float(ITEMS)), ((0, 0),)
    cells = [Contender(int(i), RunSums(sums[i][None], weights, ITEMS * world.groups), runs) for i in order]
    winner = rank_cells(cells).winner
    by_test, by_validation = order[0], int(np.argmax(validation))
    corrected = winner.estimate if winner else test[by_test]

    def outcome(chosen: int, reported: float) -> tuple[float, float]:
        return float(reported - true[chosen]), float(true[chosen] - true.max())

    return {
        "validation": outcome(by_validation, test[by_validation]),
        "test": outcome(by_test, test[by_test]),
        "test, corrected": outcome(by_test, corrected),
    }


def measure(world: World, draws: int, seed: int = 0) -> dict[str, np.ndarray]:
    """{way of choosing: (draws, 2)}"""
    rng = np.random.default_rng(seed)
    found = [draw(world, rng) for _ in range(draws)]
    return {way: np.array([one[way] for one in found]) for way in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print("| world | chosen by | reported − true | above the truth | lost by the choice |\n|---|---|---|---|---|")
    for world in WORLDS:
        for way, found in measure(world, draws).items():
            bias, error = found[:, 0].mean(), found[:, 0].std(ddof=1) / np.sqrt(draws)
            above, lost = 100 * (found[:, 0] > 0).mean(), -found[:, 1].mean()
            print(f"| {world.name} | {way} | {bias:+.2f} ± {error:.2f} | {above:.0f} % | {lost:.2f} |", flush=True)


if __name__ == "__main__":
    main()
