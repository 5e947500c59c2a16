"""Learning curves in worlds that the package does not assume: do the intervals hold the truth, and how wide are they?

    python benchmarks/curves.py [--draws 300] [--out FILE]

One factor at a time from a centre: an exponential that has turned, 5 sizes, one seed, run noise of 1 point, test noise
of 2 points that all sizes share. Each line of FILE (JSON lines) is one setting; those that are there are not computed
again. For the gain of 2 and 10 times the data: coverage of the 95 % interval with its Monte-Carlo error, median width,
and the mean interval score (Gneiting & Raftery 2007) beside those of a fit that knows the law's family, and of "the
last score, plus or minus what seeds vary".
"""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import special

from llama_exp.statistics.learning_curve.curve import LearningCurve
from llama_exp.statistics.learning_curve.fit import fit_points
from llama_exp.statistics.learning_curve.laws import WEIGHTS, Laws, laws_between
from llama_exp.statistics.learning_curve.noise import Points
from llama_exp.statistics.learning_curve.posterior import Scale, draw, noise_grid, posterior_weights, weigh
from llama_exp.statistics.single_runs import relative_scatter

LAWS: dict[str, tuple[str, Callable]] = {
    "exponential": ("exponential", lambda n: 70 - 40 * np.exp(-n / 600)),
    "fast exponential": ("exponential", lambda n: 70 - 40 * np.exp(-n / 250)),
    "power 0.2": ("power", lambda n: 80 - 110 * n**-0.2),
    "power 0.5": ("power", lambda n: 75 - 400 * n**-0.5),
    "power 1": ("power", lambda n: 70 - 3000 / n),
    "logarithm": ("power", lambda n: 10 + 6 * np.log(n)),
    "logistic": ("logistic", lambda n: 40 + 35 / (1 + np.exp(-3 * (np.log10(n) - 2.9)))),
    "plateau": ("plateau", lambda n: 20 + 8 * np.log(np.minimum(n, 700))),
    "broken": ("broken", lambda n: 40 + 2 * np.log(n) + 4 * np.log(np.maximum(n / 600, 1))),
    "double descent": ("broken", lambda n: 30 + 5 * np.log(n) - 8 * np.exp(-((np.log(n / 400) / 0.6) ** 2))),
    "no effect": ("flat", lambda n: 60 + 0 * n),
    "ceiling": ("exponential", lambda n: 98 - 30 * np.exp(-n / 400)),
}


@dataclass(frozen=True)
class World:
    law: str = "exponential"
    sizes: tuple[int, ...] = (100, 200, 500, 1000, 3000)
    seeds: int = 1
    noise: float = 1.0
    test: float = 2.0

    @property
    def name(self) -> str:
        return f"{self.law}, {len(self.sizes)} x {self.seeds}, noise {self.noise:g}, test {self.test:g}"


def worlds() -> list[World]:
    centre = World()
    grids = [
        ((100, 1000), 1),
        ((100, 300, 1000), 1),
        ((100, 300, 1000, 3000), 1),
        ((100, 300, 1000, 3000), 3),
        ((50, 100, 300, 1000, 3000, 10_000), 3),
    ]
    return [
        *(replace(centre, law=law) for law in LAWS),
        *(replace(centre, sizes=sizes, seeds=seeds) for sizes, seeds in grids),
        *(replace(centre, law="power 0.5", sizes=sizes, seeds=seeds) for sizes, seeds in grids),
        *(replace(centre, noise=noise) for noise in (0.2, 3.0)),
        *(replace(centre, seeds=3, noise=noise) for noise in (0.2, 3.0)),
        *(replace(centre, test=test) for test in (0.3, 6.0)),
    ]


def points(world: World, rng: np.random.Generator) -> Points:
    """One sweep of the world: a mean per size, and what a sweep knows about its noise."""
    sizes, count = np.array(world.sizes, float), len(world.sizes)
    runs = LAWS[world.law][1](sizes)[:, None] + rng.normal(0, world.noise, (count, world.seeds))
    shared = np.full((count, count), world.test**2)
    spread = float(runs.var(axis=1, ddof=1).mean()) if world.seeds > 1 else 0.0
    means = runs.mean(axis=1) + rng.normal(0, world.test)
    draws, df = np.full(count, world.seeds), float(count * (world.seeds - 1))
    profile = np.ones(count) if spread > 0 else relative_scatter(sizes) ** 2
    return Points(sizes, means, draws, shared, world.test**2, spread, profile, df)


def with_known_law(one: Points, kind: str) -> LearningCurve:
    """The same fit for somebody who knows the law's family."""
    every = laws_between(one.sizes[0], one.sizes[-1])
    mine = every.kinds == list(WEIGHTS).index(kind)
    prior = every.log_prior[mine]
    laws = Laws(every.first, every.last, every.kinds[mine], every.parameters[mine], prior - special.logsumexp(prior))
    scale = Scale.of([one], (0.0, 100.0))
    noises = noise_grid([one], scale)
    evidence = weigh(one, laws, noises, scale)
    [weights] = posterior_weights([evidence], laws, noises)
    found = draw(weights, evidence, laws, noises, scale, True)
    sizes = tuple(int(n) for n in one.sizes)
    return LearningCurve(sizes, tuple(map(float, one.means)), bounds=(0.0, 100.0), grid=laws, draws=found)


def interval_score(low: float, high: float, truth: float, level: float = 0.05) -> float:
    return high - low + 2 / level * (max(low - truth, 0.0) + max(truth - high, 0.0))


def measure(world: World, draws: int, seed: int) -> dict:
    rng, (kind, law) = np.random.default_rng(seed), LAWS[world.law]
    largest = float(world.sizes[-1])
    rows: dict[float, list[tuple]] = {2.0: [], 10.0: []}
    for _ in range(draws):
        one = points(world, rng)
        ours, knowing = fit_points({0: one}, (0.0, 100.0), rises=True)[0], with_known_law(one, kind)
        still = 2 * world.noise * np.sqrt(2 / world.seeds)
        for factor, found in rows.items():
            truth = float(law(np.array(largest * factor)) - law(np.array(largest)))
            a, b = ours.gain(factor), knowing.gain(factor)
            scores = [interval_score(x.low, x.high, truth) for x in (a, b)] + [interval_score(-still, still, truth)]
            found.append((a.low - 1e-9 <= truth <= a.high + 1e-9, a.high - a.low, *scores))
    result: dict = {"world": world.name, "draws": draws}
    for factor, found in rows.items():
        table = np.array(found, float)
        cover = float(table[:, 0].mean())
        result[f"{factor:g}x"] = {
            "covers": round(cover, 4),
            "error": round(2.58 * (max(cover * (1 - cover), 1 / draws) / draws) ** 0.5, 4),
            "width": round(float(np.median(table[:, 1])), 2),
            "score": round(float(table[:, 2].mean()), 2),
            "knowing the law": round(float(table[:, 3].mean()), 2),
            "last score": round(float(table[:, 4].mean()), 2),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("outputs/curves.jsonl"))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    chosen = parser.parse_args()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    lines = chosen.out.read_text().splitlines() if chosen.out.exists() else []
    known = {(row["world"], row["draws"]): row for row in map(json.loads, lines)}
    every = list(dict.fromkeys(worlds()))
    left = [(n, world) for n, world in enumerate(every) if (world.name, chosen.draws) not in known]
    with ProcessPoolExecutor(chosen.workers) as pool:
        for done in as_completed([pool.submit(measure, world, chosen.draws, n) for n, world in left]):
            row = done.result()
            with open(chosen.out, "a") as file:
                file.write(json.dumps(row) + "\n")
            known[row["world"], row["draws"]] = row
    print("| world | covers 2x | width | score / knowing / last | covers 10x | width | score / knowing / last |")
    print("|---|---|---|---|---|---|---|")
    for world in every:
        cells = [known[world.name, chosen.draws][key] for key in ("2x", "10x")]
        shown = [
            f"{100 * c['covers']:.1f} % (± {100 * c['error']:.1f}) | {c['width']} | "
            f"{c['score']} / {c['knowing the law']} / {c['last score']}"
            for c in cells
        ]
        print(f"| {world.name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
