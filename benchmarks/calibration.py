"""Do the intervals, comparisons and corrections of llama_exp.statistics hold in worlds that they were not made for?

    python benchmarks/calibration.py                          every world, 1,000 draws each; resumes where it stopped
    python benchmarks/calibration.py scores equal --draws 200 two families, quickly
    python benchmarks/calibration.py --table                  the table of what has been run

A family is one question (scores, equal, power, parts, winner) and one function `world -> [outcome per draw]`; each of
its worlds differs from a stated centre in one factor, and CORNERS seeded worlds differ in all. Results are JSON lines,
one a world, in benchmarks/calibration.jsonl. A limit counts as missed only where it lies outside the 99 % Monte-Carlo
interval (Wilson) of what was measured.
"""

import argparse
import json
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from math import inf, sqrt
from pathlib import Path

import numpy as np
from scipy import special

from llama_exp.statistics import (
    Clusters,
    Contender,
    Ranking,
    RunSums,
    cluster_interval,
    rank_cells,
    variance_components,
)

RESULTS = Path(__file__).with_suffix(".jsonl")
CORNERS, WIDE = 30, 2.5758  # the normal quantile of a 99 % interval


# Test sets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """The centre; every other world says what it changes.

    kind         of scores: binary, bounded (beta) or heavy (log-normal, no upper end)
    sizes        of groups: even, lognormal, or one of 60 %
    correlation  within groups
    mean         of binary and bounded scores, 0 to 1; heavy ones have mean 1
    runs         seeds of each cell, by name in DESIGNS
    luck         standard deviation of runs, in standard errors of the test set; `common`: the part that seeds share
    lead         of the first cell, in standard errors of the test set
    """

    kind: str = "binary"
    groups: int = 30
    sizes: str = "even"
    correlation: float = 0.1
    mean: float = 0.7
    runs: str = "3v3"
    luck: float = 1.0
    common: float = 0.0
    cells: int = 2
    lead: float = 0.0

    def name(self, centre: "World") -> str:
        own, usual = asdict(self), asdict(centre)
        return ", ".join(f"{key}={value}" for key, value in own.items() if value != usual[key]) or "centre"


# Seeds of cells, (data seed, seed) each; where a grid has more cells than a design, its last one is repeated.
DESIGNS = {
    "1v1": [range(1), range(1)], "3v1": [range(3), range(1)], "5v1": [range(5), range(1)], "2v2": [range(2), range(2)],
    "3v3": [range(3), range(3)], "3v3, one shared": [range(3), range(2, 5)],
    "3v3, none shared": [range(3), range(3, 6)],
    "5v3": [range(5), range(3)], "5v5": [range(5), range(5)],
}  # fmt: skip


def group_sizes(world: World) -> np.ndarray:
    items, count = 20 * world.groups, world.groups
    if world.sizes == "one of 60 %":
        shares = np.r_[0.6, np.full(count - 1, 0.4 / (count - 1))]
    elif world.sizes == "lognormal":
        shares = np.exp(special.ndtri((np.arange(count) + 0.5) / count))
        shares /= shares.sum()
    else:
        shares = np.full(count, 1 / count)
    return np.maximum(np.round(shares * items), 1).astype(int)


def draw_scores(world: World, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(G,) sums of scores whose expectation is `world.mean` (heavy: 1) and whose correlation is as stated."""
    rho = world.correlation
    if world.kind == "heavy":
        level = rng.normal(0, sqrt(rho), len(sizes)) - rho / 2
        own = sqrt(1 - rho)
        return np.array(
            [np.exp(a + rng.normal(0, own, n) - own**2 / 2).sum() for a, n in zip(level, sizes, strict=True)]
        )
    chance = np.full(len(sizes), world.mean)
    if rho > 0:
        chance = rng.beta(*(np.array([world.mean, 1 - world.mean]) * (1 / rho - 1)), size=len(sizes))
    if world.kind == "binary":
        return rng.binomial(sizes, chance).astype(float)
    chance = np.clip(chance, 1e-4, 1 - 1e-4)
    return np.array([rng.beta(2 * p, 2 * (1 - p), n).sum() for p, n in zip(chance, sizes, strict=True)])


# Families -----------------------------------------------------------------------------------------------------------


def scores(world: World, draws: int, rng: np.random.Generator) -> list[dict]:
    """A score of one run: does its interval hold the truth?"""
    sizes, truth = group_sizes(world), 1.0 if world.kind == "heavy" else world.mean
    bounds = (0.0, inf) if world.kind == "heavy" else (0.0, 1.0)
    found = []
    for _ in range(draws):
        one = cluster_interval(
            Clusters(draw_scores(world, sizes, rng), sizes.astype(float), int(sizes.sum())), bounds=bounds
        )
        known = one.low is not None and one.high is not None
        found.append({"hit": known and one.low <= truth <= one.high, "width": one.high - one.low if known else None})
    return found


def draw_cells(world: World, rng: np.random.Generator, lead: float | None = None) -> list[Contender]:
    """Cells on one test set, best first: shared difficulty, each cell's own, the luck of runs, items.

    The unit is the standard error of a difference of two single runs on these items.
    """
    sizes = group_sizes(world).astype(float)
    share = sizes / sizes.sum()
    unit = 1 / sqrt(2 * float((share**2 * (4 + 100 / sizes)).sum()))  # of groups' own 2 points, of items' 10
    hard, common, cells = rng.normal(0, 8, len(sizes)), {}, []
    ahead = world.lead if lead is None else lead
    for cell in range(world.cells):
        seeds = DESIGNS[world.runs][min(cell, len(DESIGNS[world.runs]) - 1)]
        own, rows = rng.normal(0, 2, len(sizes)), []
        for seed in seeds:
            shared = common.setdefault(seed, rng.normal())
            luck = world.luck * (sqrt(world.common) * shared + sqrt(1 - world.common) * rng.normal())
            noise = rng.normal(0, 10, len(sizes)) / np.sqrt(sizes)
            rows.append((hard + (ahead * (cell == 0) + luck) / unit + own + noise) * sizes)
        table = RunSums(np.array(rows), sizes, int(sizes.sum()))
        cells.append(Contender(cell, table, tuple((0, seed) for seed in seeds)))
    return sorted(cells, key=lambda one: -one.sums.means.mean())


def ranking_of(world: World, rng: np.random.Generator, lead: float | None = None) -> Ranking:
    """The scores lie on a scale of 100 points, about 60, far from its ends."""
    return rank_cells(draw_cells(world, rng, lead), (-40.0, 60.0))


def equal(world: World, draws: int, rng: np.random.Generator) -> list[dict]:
    """Equally good cells: is any called worse?"""
    return [{"hit": bool(ranking_of(world, rng).worse)} for _ in range(draws)]


def power(world: World, draws: int, rng: np.random.Generator) -> list[dict]:
    """A cell that is ahead by what an experiment called detectable: does the next experiment find it?"""
    sizes = group_sizes(world).astype(float)
    share = sizes / sizes.sum()
    unit = 1 / sqrt(2 * float((share**2 * (4 + 100 / sizes)).sum()))
    found = []
    for _ in range(draws):
        size = ranking_of(world, rng).detectable
        again = ranking_of(world, rng, (size or 0.0) * unit)
        found.append({"hit": again.best == 0 and 1 in again.worse, "width": size})
    return found


def parts(world: World, draws: int, rng: np.random.Generator) -> list[dict]:
    """3 data seeds x 3 seeds: the estimated variance of sampling and of training, less the true one, of the whole.

    `luck` is the variance of both together, in points, and `common` the part that is sampling.
    """
    sizes, found = group_sizes(world).astype(float), []
    sampling, training = world.luck * world.common, world.luck * (1 - world.common)
    for _ in range(draws):
        hard, lift = rng.normal(0, 6, len(sizes)), np.repeat(rng.normal(0, sqrt(sampling), 3), 3)
        level = lift + rng.normal(0, sqrt(training), 9)
        rows = hard + level[:, None] + rng.normal(0, 10, (9, len(sizes))) / np.sqrt(sizes)
        table = RunSums(rows * sizes, sizes, int(sizes.sum()))
        by_name = {
            part.name: part.variance for part in variance_components(table, np.repeat(range(3), 3).tolist()).parts
        }
        test = 36 * float(((sizes / sizes.sum()) ** 2).sum()) + 100 / sizes.sum() / 9
        whole = sampling / 3 + training / 9 + test
        errors = by_name["sampling"] - sampling / 3, by_name["training"] - training / 9
        found.append(
            {"value": max(errors, key=abs) / whole, "sampling": errors[0] / whole, "training": errors[1] / whole}
        )
    return found


def winner(world: World, draws: int, rng: np.random.Generator) -> list[dict]:
    """The best cell: does its corrected interval hold the cell's true score?"""
    sizes = group_sizes(world).astype(float)
    share = sizes / sizes.sum()
    unit = 1 / sqrt(2 * float((share**2 * (4 + 100 / sizes)).sum()))
    found = []
    for _ in range(draws):
        one = ranking_of(world, rng)
        truth = world.lead / unit if one.best == 0 else 0.0
        found.append({"hit": one.winner.low <= truth <= one.winner.high, "width": one.winner.high - one.winner.low})
    return found


# Worlds -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """What is asked of which worlds, and the limits that the rate of `hit` (parts: the mean of each part) must keep."""

    run: Callable[[World, int, np.random.Generator], list[dict]]
    centre: World
    factors: dict[str, tuple]
    limits: tuple[float, float]
    corners: int = CORNERS

    def worlds(self) -> Iterator[World]:
        yield self.centre
        for key, values in self.factors.items():
            yield from (replace(self.centre, **{key: value}) for value in values)
        rng = np.random.default_rng(0)
        for _ in range(self.corners):
            yield replace(self.centre, **{k: v[rng.integers(len(v))] for k, v in self.factors.items()})


SHAPES = {"groups": (3, 5, 8, 12, 48, 110, 500), "sizes": ("lognormal", "one of 60 %")}
SCORES = {
    **SHAPES,
    "kind": ("binary", "bounded", "heavy"),
    "correlation": (0.0, 0.3, 0.6, 0.9),
    "mean": (0.02, 0.5, 0.9, 0.98),
}
RUNS = {"runs": tuple(DESIGNS), "luck": (0.0, 0.3, 3.0), "common": (0.5, 0.9)}
FAMILIES = {
    "scores": Family(scores, World(), SCORES, (0.93, 0.97)),
    "equal": Family(equal, World(), {**SHAPES, **RUNS, "cells": (4, 9)}, (0.0, 0.06)),
    "power": Family(power, World(), {"groups": (8, 110), **RUNS, "cells": (4,)}, (0.75, 0.85), corners=0),
    "parts": Family(
        parts, World(common=0.5), {"common": (0.0, 1.0), "luck": (0.0, 3.0), "groups": (8, 110)}, (-0.1, 0.1), 0
    ),
    "winner": Family(winner, World(cells=9), {**SHAPES, **RUNS, "lead": (0.5, 2.0, 8.0)}, (0.93, 0.97)),
}


# Running and reading ------------------------------------------------------------------------------------------------


def wilson(hits: int, draws: int, wide: float = WIDE) -> tuple[float, float]:
    """The Monte-Carlo interval of a rate."""
    rate, more = hits / draws, wide**2 / draws
    half = wide * sqrt(rate * (1 - rate) / draws + more / (4 * draws))
    return (rate + more / 2 - half) / (1 + more), (rate + more / 2 + half) / (1 + more)


def measure(family: str, world: World, draws: int) -> dict:
    """One line of the results."""
    asked = FAMILIES[family]
    seed = zlib.crc32(json.dumps([family, asdict(world)]).encode())
    found = asked.run(world, draws, np.random.default_rng(seed))
    line = {"family": family, "world": asdict(world), "draws": draws}
    widths = [one["width"] for one in found if one.get("width") is not None]
    line["width"] = float(np.median(widths)) if widths else None
    if "hit" in found[0]:
        hits = sum(bool(one["hit"]) for one in found)
        return line | {"rate": hits / draws, "interval": wilson(hits, draws)}
    names = [key for key in found[0] if key != "value"]
    means = {key: np.mean([one[key] for one in found]) for key in names}
    worst = max(means, key=lambda key: abs(means[key]))
    error = WIDE * np.std([one[worst] for one in found]) / sqrt(draws)
    return line | {"rate": float(means[worst]), "interval": (float(means[worst] - error), float(means[worst] + error))}


def limits_of(line: dict) -> tuple[float, float]:
    """Below 8 groups, or the worth of 8, an interval may be wide: it must hold the truth and say that it is wide."""
    low, high = FAMILIES[line["family"]].limits
    sizes = group_sizes(World(**line["world"]))
    few = sizes.sum() ** 2 / (sizes**2).sum() < 8
    return (low, 1.0) if few and line["family"] in ("scores", "winner") else (low, high)


def missed(line: dict) -> bool:
    low, high = limits_of(line)
    return line["interval"][1] < low or line["interval"][0] > high


def stored(path: Path) -> list[dict]:
    """The finished worlds; a line cut short by a killed run is measured again."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def run(families: list[str], draws: int, path: Path, workers: int) -> None:
    done = {(line["family"], json.dumps(line["world"]), line["draws"]) for line in stored(path)}
    worlds = [(family, world) for family in families for world in dict.fromkeys(FAMILIES[family].worlds())]
    left = [one for one in worlds if (one[0], json.dumps(asdict(one[1])), draws) not in done]
    with ProcessPoolExecutor(workers) as pool:
        for finished in as_completed([pool.submit(measure, family, world, draws) for family, world in left]):
            with path.open("a") as file:
                file.write(json.dumps(finished.result()) + "\n")
            print(row(finished.result()), flush=True)


def row(line: dict) -> str:
    name = World(**line["world"]).name(FAMILIES[line["family"]].centre)
    low, high = (f"{100 * end:.1f}" for end in line["interval"])
    least, most = (f"{100 * end:.0f}" for end in limits_of(line))
    verdict = "missed" if missed(line) else "kept"
    width = "" if line["width"] is None else f"{line['width']:.3g}"
    rate = f"{100 * line['rate']:.1f} ({low} to {high})"
    return f"| {line['family']} | {name} | {rate} | {least} to {most} | {width} | {verdict} |"


def table(path: Path) -> str:
    head = [
        "| family | world | percent (99 % Monte-Carlo interval) | wanted | width | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    order = list(FAMILIES)
    lines = sorted(stored(path), key=lambda line: order.index(line["family"]))
    kept = sum(not missed(line) for line in lines)
    return "\n".join([*head, *map(row, lines), "", f"{kept} of {len(lines)} worlds keep their limits."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help=f"which: {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what has been run, and run nothing")
    asked = parser.parse_args()
    if unknown := set(asked.families) - set(FAMILIES):
        parser.error(f"unknown family {', '.join(sorted(unknown))}; known: {', '.join(FAMILIES)}")
    if asked.draws < 1:
        parser.error(f"--draws={asked.draws}; wanted 1 or more")
    if not asked.table:
        run(asked.families or list(FAMILIES), asked.draws, asked.results, asked.workers)
    print(table(asked.results))


if __name__ == "__main__":
    main()
