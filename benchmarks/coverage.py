"""Do the intervals and tests of llama_exp.statistics hold at their stated level? By simulation, against known truths.

    python benchmarks/coverage.py                     everything, 2,000 replications, about 10 minutes on one core
    python benchmarks/coverage.py mean paired --replications 200

Prints the tables of docs/statistics.md. Every part has its own seed, so one part alone gives the same numbers.
Each layout of clusters is a population from which articles are drawn: an article has its own difficulty, its questions
share it. With 2,000 replications a true 95.0 % shows as 94.0 to 96.0 in 19 of 20 tables' rows.
"""

import argparse
import math
import time

import numpy as np
from scipy import stats

from llama_exp.human.analysis import two_way_interval
from llama_exp.statistics import (
    Clusters,
    Contender,
    RunSums,
    cluster_difference,
    cluster_interval,
    holm,
    mean_interval,
    rank_cells,
    robust_variance,
    satterthwaite_df,
    sign_flip,
    statistic_interval,
    t_interval,
    variance_components,
)
from llama_exp.statistics.comparisons import difference_p_value

# Questions per article in SQuAD v1.1's development set: 10,570 questions, 48 articles.
SQUAD = [810, 511, 479, 407, 319, 297, 295, 295, 291, 268, 264, 247, 247, 245, 243, 242, 238, 231, 228, 217, 215, 206,
         200, 197, 197, 191, 189, 187, 183, 182, 180, 176, 172, 153, 136, 129, 124, 116, 113, 112, 112, 108, 108, 106,
         106, 104, 98, 96]  # fmt: skip
HEAVY = np.round(8 * np.exp(1.3 * stats.norm.ppf((np.arange(30) + 0.5) / 30))).astype(int) + 1

# name: (cluster sizes, mean score, concentration of the clusters' difficulty: smaller = more alike within a cluster)
LAYOUTS = {
    "SQuAD's 48 articles": (
        np.array(SQUAD),
        0.75,
        50,
    ),  # clustered / naive standard error as in real results: 2.3 to 2.8
    "8 articles": (np.array([40, 55, 60, 35, 50, 45, 70, 30]), 0.75, 25),
    "30 articles, heavy-tailed sizes": (HEAVY, 0.70, 15),  # the largest holds a quarter of the items
    "48 articles, scores near 100 %": (np.array(SQUAD) // 5, 0.97, 20),
    "110 dialogues of 9 turns": (np.full(110, 9), 0.40, 5),
    "8 articles, one with over half": (np.array([400, 120, 80, 60, 40, 20, 10, 5]), 0.75, 25),
}


def difficulties(mean: float, concentration: float, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    return rng.beta(mean * concentration, (1 - mean) * concentration, size=shape)


def rate(hits: list[bool]) -> str:
    return f"{100 * np.mean(hits):5.1f} %"


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(title: str, *columns: str) -> None:
    print(f"\n### {title}\n")
    row(*columns)
    row(*["---"] * len(columns))


def mean(replications: int) -> None:
    """Coverage of the mean's interval, beside the methods that were not chosen."""
    columns = (
        "chosen, bounds given",
        "chosen, no bounds",
        "CR2 t, Satterthwaite",
        "CR1 t(G-1)",
        "not clustered",
        "clustered / naive s.e.",
    )
    head("Mean of per-item scores: how often the 95 % interval holds the truth", "layout", *columns)
    for number, (name, (sizes, truth, concentration)) in enumerate(LAYOUTS.items()):
        rng = np.random.default_rng([1, number])
        hits = [[] for _ in range(5)]
        ratios = []
        for chances in difficulties(truth, concentration, (replications, len(sizes)), rng):
            data = Clusters(rng.binomial(sizes, chances).astype(float), sizes.astype(float), int(sizes.sum()))
            found, count = data.estimate, len(sizes)
            naive = math.sqrt(max(found * (1 - found), 1e-12) / sizes.sum())
            error = math.sqrt(robust_variance(data))
            ends = [
                _ends(cluster_interval(data, bounds=(0, 1))),
                _ends(cluster_interval(data)),
                t_interval(found, error, satterthwaite_df(data.weights)),
                t_interval(found, math.sqrt(cr1_variance(data)), count - 1),
                t_interval(found, naive, sizes.sum() - 1),
            ]
            for hit, (low, high) in zip(hits, ends, strict=True):
                hit.append(low <= truth <= high)
            ratios.append(error / naive)
        row(name, *map(rate, hits), f"{np.median(ratios):.1f}")


def cr1_variance(clusters: Clusters) -> float:
    """What most packages call cluster-robust: no cluster's own leverage, but G / (G - 1)."""
    count = len(clusters.sums)
    return float((clusters.residuals**2).sum() / clusters.weights.sum() ** 2 * count / (count - 1))


def _ends(found) -> tuple[float, float]:
    return (math.nan, math.nan) if found.low is None else (found.low, found.high)  # no interval counts as a miss


def ratio(replications: int) -> None:
    """Perplexity: skewed sums over token counts that vary."""
    head("Perplexity: sum of negative log-likelihoods over tokens", "layout", "chosen", "CR1 t(G-1)")
    for number, name in enumerate(["SQuAD's 48 articles", "8 articles", "30 articles, heavy-tailed sizes"]):
        sizes, rng = LAYOUTS[name][0], np.random.default_rng([2, number])
        chosen, plain = [], []
        for _ in range(replications):
            tokens = rng.poisson(20 * sizes).astype(float)
            level = 1.6 * np.exp(rng.normal(0, 0.3, len(sizes)) - 0.045)  # mean 1.6 nats, skewed across articles
            data = Clusters(tokens * level + rng.normal(0, np.sqrt(tokens)), tokens, int(sizes.sum()))
            low, high = _ends(cluster_interval(data))
            chosen.append(math.exp(low) <= math.exp(1.6) <= math.exp(high))
            low, high = t_interval(data.estimate, math.sqrt(cr1_variance(data)), len(sizes) - 1)
            plain.append(low <= 1.6 <= high)
        row(name, rate(chosen), rate(plain))


def macro_f1(items: list) -> float:
    """Unweighted mean of three classes' F1; items are (truth, answer)."""
    table = np.bincount(np.asarray(items) @ [3, 1], minlength=9).reshape(3, 3)
    return float(np.mean(2 * np.diag(table) / np.maximum(table.sum(0) + table.sum(1), 1)))


def statistic(replications: int) -> None:
    """Macro-F1 of three classes of 55 / 35 / 10 %: the jackknife against the cluster bootstrap."""
    head("Macro-F1 (three classes, the rarest 10 %)", "layout", "jackknife, wild", "cluster bootstrap, percentile")
    layouts = {"40 groups of 10": np.full(40, 10), "12 groups of 30": np.full(12, 30), "30 groups, heavy-tailed": HEAVY}
    for number, (name, sizes) in enumerate(layouts.items()):
        rng, groups = np.random.default_rng([3, number]), np.repeat(np.arange(len(sizes)), sizes)
        truth = macro_f1(np.concatenate([_answers(np.arange(20_000), rng) for _ in range(20)]))
        wild, boot = [], []
        for _ in range(replications // 2):
            data = _answers(groups, rng)
            low, high = _ends(statistic_interval(macro_f1, list(map(tuple, data)), groups.tolist(), bounds=(0, 1)))
            wild.append(low <= truth <= high)
            low, high = _bootstrap_f1(data, groups, rng)
            boot.append(low <= truth <= high)
        row(name, rate(wild), rate(boot))


def _answers(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(items, 2) truth and answer; how often a group is answered rightly varies."""
    labels = rng.choice(3, size=len(groups), p=[0.55, 0.35, 0.10])
    skill = rng.beta(6, 2, size=groups.max() + 1)[groups] * np.array([1.0, 0.9, 0.7])[labels]
    right = rng.random(len(groups)) < skill
    return np.stack([labels, np.where(right, labels, rng.integers(0, 3, len(groups)))], axis=1)


def _bootstrap_f1(data: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = groups.max() + 1
    tables = np.zeros((count, 9))
    np.add.at(tables, (groups, data @ [3, 1]), 1)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=999) @ tables
    cube = drawn.reshape(-1, 3, 3)
    f1 = 2 * np.einsum("bii->bi", cube) / np.maximum(cube.sum(1) + cube.sum(2), 1)
    return np.quantile(f1.mean(1), [0.025, 0.975])


def two_cells(sizes, truth, concentration, rng) -> tuple[np.ndarray, np.ndarray]:
    """(G,) numbers right of two equally good cells: shared difficulty, and what each cell finds easy."""
    base = difficulties(truth, concentration, (1, len(sizes)), rng)
    return rng.binomial(sizes, difficulties(base, 3 * concentration, (2, len(sizes)), rng).clip(1e-9, 1 - 1e-9))


def paired(replications: int) -> None:
    """False positives of the paired tests for two equally good cells; of `paired_difference` over 5 x replications."""
    head(
        "Two equally good cells, same items: how often p < 0.05",
        "layout",
        "paired_difference",
        "sign flips (exact)",
        "McNemar, ignoring groups",
    )
    for number, (name, (sizes, truth, concentration)) in enumerate(LAYOUTS.items()):
        rng, order, hits = np.random.default_rng([4, number]), np.random.default_rng([10, number]), [[], [], []]
        for turn in range(5 * replications):
            one, other = two_cells(sizes, truth, concentration, rng)
            data = Clusters((one - other).astype(float), sizes.astype(float), int(sizes.sum()))
            hits[0].append(difference_p_value(data) < 0.05)
            if turn < replications // 2:  # these go through dictionaries of items, and are slow
                a, b, groups = _as_items(one, other, sizes, order)
                hits[1].append(sign_flip(a, b, groups).p_value < 0.05)
                hits[2].append(sign_flip(a, b).p_value < 0.05)
        row(name, *map(rate, hits))


def _as_items(one: np.ndarray, other: np.ndarray, sizes: np.ndarray, rng: np.random.Generator):
    """Item-level answers with these numbers right, independent within an article."""
    a, b, groups = {}, {}, {}
    for g, (right_a, right_b, size) in enumerate(zip(one, other, sizes, strict=True)):
        for scores, right in ((a, right_a), (b, right_b)):
            scores.update({f"{g}-{i}": float(index < right) for i, index in enumerate(rng.permutation(size))})
        groups.update({f"{g}-{i}": g for i in range(size)})
    return a, b, groups


def family(replications: int) -> None:
    """Eight cells that are all equal: how often any of them is marked as worse than the best."""
    head(
        "Eight equal cells: how often any is called worse than the best (at most 5 %)",
        "layout",
        "Holm over all pairs (chosen)",
        "Holm over the best's own pairs",
        "no correction",
    )
    for number, name in enumerate(list(LAYOUTS)[:5]):
        sizes, truth, concentration = LAYOUTS[name]
        rng, hits = np.random.default_rng([5, number]), [[], [], []]
        for _ in range(replications // 2):
            base = difficulties(truth, concentration, (1, len(sizes)), rng)
            chances = difficulties(base, 3 * concentration, (8, len(sizes)), rng).clip(1e-9, 1 - 1e-9)
            weights, items = sizes.astype(float), int(sizes.sum())
            cells = [
                Contender(cell, RunSums(right[None], weights, items), ((0, 0),))
                for cell, right in enumerate(rng.binomial(sizes, chances).astype(float))
            ]
            best_first = sorted(cells, key=lambda one: -one.sums.means[0])
            ranking = rank_cells(best_first, scatters=np.zeros(1))  # runs without luck: the test set alone
            raw = [difference.p_value for difference, _ in ranking.against.values()]
            hits[0].append(bool(ranking.worse))
            hits[1].append(min(holm(raw)) < 0.05)
            hits[2].append(min(raw) < 0.05)
        row(name, *map(rate, hits))


def seeds(replications: int) -> None:
    """A cell's interval from several runs: coverage of the recipe's true mean score."""
    head(
        "Several runs: how often the interval holds the recipe's mean",
        "runs",
        "all noises (variance_components)",
        "test set only",
    )
    sizes = np.array(SQUAD) // 5
    designs = {
        "3 data seeds x 1 seed": (3, 1),
        "3 data seeds x 3 seeds": (3, 3),
        "5 data seeds x 2 seeds": (5, 2),
        "1 data seed x 5 seeds": (1, 5),
    }
    for number, (name, (draws, runs)) in enumerate(designs.items()):
        rng, full, naive = np.random.default_rng([6, number]), [], []
        for _ in range(replications):
            base = rng.normal(70, 6, len(sizes))
            lift = rng.normal(0, 1.0, draws) if draws > 1 else np.zeros(1)  # with one, sampling noise is not claimed
            luck = lift[:, None] + rng.normal(0, 0.8, (draws, runs))
            level = base + luck[..., None] + rng.normal(0, 2, (draws, runs, len(sizes)))
            sums = sizes * (level + rng.normal(0, 20, level.shape) / np.sqrt(sizes))
            table = RunSums(sums.reshape(draws * runs, -1), sizes.astype(float), int(sizes.sum()))
            owner = np.repeat(np.arange(draws), runs).tolist()
            first = RunSums(table.sums[:1], table.weights, table.items)
            for hits, runs_of, owners in ((full, table, owner), (naive, first, [0])):
                found = variance_components(runs_of, owners).total
                hits.append(found.low <= 70 <= found.high)
        row(name, rate(full), rate(naive))


def recipes(replications: int) -> None:
    """Two equally good recipes, several runs each: how often they are called different."""
    columns = ("rank_cells", "paired_difference, on the first run alone")
    head("Two equally good recipes, runs paired by data seed: how often p < 0.05", "runs of each", *columns)
    sizes = np.array(SQUAD) // 5
    weights, items = sizes.astype(float), int(sizes.sum())
    for number, draws in enumerate((3, 5)):
        rng, full, alone, runs = np.random.default_rng([9, number]), [], [], tuple((seed, 0) for seed in range(draws))
        for _ in range(replications):
            gap = rng.normal(0, 1.0, (draws, 1)) + rng.normal(0, 3, len(sizes)) + rng.normal(0, 2, (draws, len(sizes)))
            sums = sizes * (gap + rng.normal(0, 25, gap.shape) / np.sqrt(sizes))
            cells = [
                Contender("a", RunSums(sums, weights, items), runs),
                Contender("b", RunSums(0 * sums, weights, items), runs),
            ]
            full.append(bool(rank_cells(cells).worse))
            alone.append(cluster_difference(Clusters(sums[0], weights, items)).p_value < 0.05)
        row(f"{draws} data seeds", rate(full), rate(alone))


# name: (law, sizes, data seeds, spread of one run as a function of n, articles, spread of the articles' slopes)
def raters(replications: int) -> None:
    """Human studies: 22 groups of 3 items, each judged by all raters, who lean to one side or the other."""
    head(
        "Win rates: how often the 95 % interval holds the truth of all raters there could be",
        "raters",
        "any raters (two-way)",
        "these raters (items only)",
    )
    group = np.repeat(np.arange(22), 3)
    for number, count in enumerate((3, 5, 10)):
        rng, hits = np.random.default_rng([9, number]), [[], []]
        for _ in range(replications // 5):
            leaning, ease = rng.normal(0, 12, count), rng.normal(0, 10, 22)
            chance = np.clip(60 + leaning[:, None] + ease[group], 0, 100) / 100
            won = 100.0 * (rng.random(chance.shape) < chance)
            rows = [(won[rater, item], 1.0, str(group[item]), rater) for rater in range(count) for item in range(66)]
            low, high = two_way_interval(rows, (0.0, 100.0)) or (math.nan, math.nan)
            hits[0].append(low <= 60 <= high)
            low, high = _ends(mean_interval(won.mean(0).tolist(), group.tolist(), bounds=(0.0, 100.0)))
            hits[1].append(low <= 60 <= high)
        row(count, *map(rate, hits))


PARTS = {part.__name__: part for part in (mean, ratio, statistic, paired, family, seeds, recipes, raters)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"which tables: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--replications", type=int, default=2000)
    chosen = parser.parse_args()
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    for name in chosen.parts or PARTS:
        start = time.perf_counter()
        PARTS[name](chosen.replications)
        print(f"\n{name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
