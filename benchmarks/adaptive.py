"""Is a sweep with a question right as often as it says, and what does it save?

    python benchmarks/adaptive.py [--worlds 200] [--noisy]

Worlds of 45 settings (5 sizes x 3 ranks x 3 learning rates): curves of several shapes, with and without effects of rank
and rate, runs that scatter. In each, question=best within=1 chooses runs as the sweeper does, up to five a setting, and
is judged by the true scores. Printed beside it: the full grid with five seeds judged by the same belief, and the best
of the grid run once and five times. Costs are in units of the grid run once.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from llama_exp.adaptive.belief import Believer, Grid, Observed
from llama_exp.adaptive.choose import verdict, worth
from llama_exp.adaptive.questions import Best

CELLS = list(product((100, 300, 1000, 3000, 10000), (4, 16, 64), (1e-4, 2e-4, 4e-4)))
GRID = Grid(
    {"lora.r": tuple(c[1] for c in CELLS), "optimizer.lr": tuple(c[2] for c in CELLS)},
    np.array([c[0] for c in CELLS], float),
)
COSTS = 40 + 0.04 * GRID.examples  # seconds: an evaluation, and the training
QUESTION, SEEDS, CERTAIN = Best(1.0), 5, 0.95


@dataclass(frozen=True)
class World:
    """truth: (A,) scores; spread: (A,) of one run; items: standard deviation by chance of the items."""

    truth: np.ndarray
    spread: np.ndarray
    items: float


def draw_world(rng: np.random.Generator, noisy: bool) -> World:
    n, steps = GRID.examples, np.log2(np.array(GRID.axes["lora.r"]) / 16) / 2
    turn, power = 10 ** rng.uniform(1.5, 3.5), rng.uniform(0.2, 1.0)
    shapes = ((1 + n / turn) ** -power, np.exp(-n / (3 * turn)), 1 / (1 + (n / turn) ** (1 + power)))
    truth = rng.uniform(50, 90) - rng.uniform(5, 50) * shapes[rng.integers(3)]
    grows = np.clip(np.log(n / 100) / np.log(100), 0, 1)
    truth = truth + rng.choice([0, 0, 0.3, 1, 3]) * rng.choice([-1, 1, 1]) * steps * grows
    best_rate = np.log2(2e-4) + rng.normal() - rng.choice([0, 0.6]) * steps
    away = (np.log2(np.array(GRID.axes["optimizer.lr"])) - best_rate) / 1.5
    truth = truth - rng.choice([0, 0.3, 1, 3, 6]) * rng.uniform(0.5, 1) * away**2
    scatter = (3.0 if noisy else 0.7) * np.exp(rng.normal(0, 0.5))
    return World(truth, np.minimum(scatter * np.sqrt(np.maximum(1000 / n, 1)), 10.0), rng.choice([0.2, 0.4]))


def observed(runs: list[tuple[int, float]], items: float) -> Observed:
    settings, scores = [setting for setting, _ in runs], [score for _, score in runs]
    return Observed(np.array(settings, int), np.array(scores, float), np.eye(len(runs)) * items**2)


def play(seed: int, noisy: bool) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    world, believer = draw_world(rng, noisy), Believer(GRID, 100.0)
    scores = world.truth[:, None] + rng.normal(size=(len(GRID), SEEDS)) * np.hypot(world.spread, world.items)[:, None]
    runs: list[tuple[int, float]] = []
    count = np.zeros(len(GRID), int)
    while True:
        belief = believer.after(observed(runs, world.items))
        losses = QUESTION.loss(belief.scores, GRID)
        found, left = verdict(losses), np.flatnonzero(count < SEEDS)
        if found.certainty >= CERTAIN or not len(left):
            break
        chosen = int(left[np.argmax(worth(belief, losses, left, world.items**2) / COSTS[left])])
        runs.append((chosen, scores[chosen, count[chosen]]))
        count[chosen] += 1
    whole = [(setting, score) for setting in range(len(GRID)) for score in scores[setting]]
    full = verdict(QUESTION.loss(believer.after(observed(whole, world.items)).scores, GRID))
    right = world.truth >= world.truth.max() - QUESTION.within
    return {
        "answered": found.certainty >= CERTAIN,
        "right": right[found.answer],
        "cost": (COSTS * count).sum() / COSTS.sum(),
        "runs": count.sum(),
        "full answered": full.certainty >= CERTAIN,
        "full right": right[full.answer],
        "grid run once right": right[scores[:, 0].argmax()],
        "grid run five times right": right[scores.mean(axis=1).argmax()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--noisy", action="store_true", help="runs scatter by 3 points instead of 0.7")
    given = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(play, range(given.worlds), [given.noisy] * given.worlds))
    found = {key: np.array([row[key] for row in rows], float) for key in rows[0]}
    answered, full = found["answered"] > 0, found["full answered"] > 0
    print(f"answered: {answered.sum()} of {len(rows)}, right: {found['right'][answered].sum():.0f}")
    print(f"open: {(~answered).sum()}, its best guess right: {found['right'][~answered].sum():.0f}")
    for name, costs in (("all", found["cost"]), ("answered", found["cost"][answered])):
        low, median, high = np.quantile(costs, [0.1, 0.5, 0.9])
        print(f"cost of {name}: median {median:.2f} of the grid run once (10 to 90 %: {low:.2f} to {high:.2f})")
    print(f"full grid, five seeds: answered {full.sum()}, right {found['full right'][full].sum():.0f}")
    for name in ("grid run once right", "grid run five times right"):
        print(f"{name}: {found[name].sum():.0f} of {len(rows)}")


if __name__ == "__main__":
    main()
