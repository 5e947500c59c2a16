"""Is a sweep with a question right as often as it says, and what does it save?

    python benchmarks/adaptive.py [--worlds 200] [--noisy] [--rows rows.jsonl] [--figure figure.png]
    python benchmarks/adaptive.py --curve [--worlds 200] [--noisy] [--rows curves.jsonl]

Worlds of 45 settings (5 sizes x 3 ranks x 3 learning rates): curves of several shapes, with and without effects of rank
and rate, runs that scatter. In each, question=best within=1 chooses runs as the sweeper does, up to five a setting, and
is judged by the true scores. Beside it, on the same scores: the full grid with five seeds judged by the same belief;
the best of the grid run once and five times; the best of random cells; ASHA and Hyperband (Optuna's pruners) over the
nine pairs of rank and rate, with the sizes as rungs. Costs are in units of the grid run once. Worlds that --rows holds
already are not played again. --curve asks question=curve within=2 of one pair's sizes, and is judged by the true gain.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna

from llama_exp.adaptive.belief import Belief, Believer, Grid, Observed
from llama_exp.adaptive.choose import best_cell, verdict
from llama_exp.adaptive.questions import FACTOR, Best, Curve
from llama_exp.statistics.learning_curve import fit_curve
from llama_exp.statistics.single_runs import relative_scatter

SIZES, RANKS, RATES = (100, 300, 1000, 3000, 10000), (4, 16, 64), (1e-4, 2e-4, 4e-4)
CELLS = list(product(SIZES, RANKS, RATES))
GRID = Grid(
    {"lora.r": tuple(c[1] for c in CELLS), "optimizer.lr": tuple(c[2] for c in CELLS)},
    np.array([c[0] for c in CELLS], float),
)
COSTS = 40 + 0.04 * GRID.examples  # seconds: an evaluation, and the training
SHARES = COSTS / COSTS.sum()
FIRST = (4, 13)  # the middle one of each of the two smallest sizes
QUESTION, GAIN, SEEDS, CERTAIN = Best(1.0), Curve(2.0), 5, 0.95


@dataclass(frozen=True)
class World:
    """truth: (A,) scores; far: (9,) those of ten times the largest size, by pair of rank and rate; spread: (A,) of one
    run; items: standard deviation by chance of the items."""

    truth: np.ndarray
    far: np.ndarray
    spread: np.ndarray
    items: float

    def right(self, setting: int) -> bool:
        return bool(self.truth[setting] >= self.truth.max() - QUESTION.within)


def draw_world(rng: np.random.Generator, noisy: bool) -> World:
    sizes, ranks, rates = np.array([*CELLS, *product([FACTOR * SIZES[-1]], RANKS, RATES)], float).T
    n, steps = sizes, np.log2(ranks / 16) / 2
    turn, power = 10 ** rng.uniform(1.5, 3.5), rng.uniform(0.2, 1.0)
    shapes = ((1 + n / turn) ** -power, np.exp(-n / (3 * turn)), 1 / (1 + (n / turn) ** (1 + power)))
    truth = rng.uniform(50, 90) - rng.uniform(5, 50) * shapes[rng.integers(3)]
    grows = np.clip(np.log(n / 100) / np.log(100), 0, 1)
    truth = truth + rng.choice([0, 0, 0.3, 1, 3]) * rng.choice([-1, 1, 1]) * steps * grows
    best_rate = np.log2(2e-4) + rng.normal() - rng.choice([0, 0.6]) * steps
    away = (np.log2(rates) - best_rate) / 1.5
    truth = truth - rng.choice([0, 0.3, 1, 3, 6]) * rng.uniform(0.5, 1) * away**2
    scatter = (3.0 if noisy else 0.7) * np.exp(rng.normal(0, 0.5))
    spread = np.minimum(scatter * np.sqrt(np.maximum(1000 / GRID.examples, 1)), 10.0)
    return World(truth[: len(CELLS)], truth[len(CELLS) :], spread, rng.choice([0.2, 0.4]))


def observed(runs: list[tuple[int, float]], items: float) -> Observed:
    settings, scores = [setting for setting, _ in runs], [score for _, score in runs]
    return Observed(np.array(settings, int), np.array(scores, float), np.eye(len(runs)) * items**2)


def play(seed: int, noisy: bool) -> dict:
    rng = np.random.default_rng(seed)
    world, believer = draw_world(rng, noisy), Believer(GRID, 100.0)
    scores = world.truth[:, None] + rng.normal(size=(len(GRID), SEEDS)) * np.hypot(world.spread, world.items)[:, None]
    whole = [(setting, score) for setting in range(len(GRID)) for score in scores[setting]]
    once = believer.after(observed([(setting, scores[setting, 0]) for setting in range(len(GRID))], world.items))
    fixed = intervals(world, once.scores, verdict(QUESTION.loss(once.scores, GRID)).answer)
    full = verdict(QUESTION.loss(believer.after(observed(whole, world.items)).scores, GRID))
    return {
        "seed": seed,
        "noisy": noisy,
        **play_question(world, believer, scores),
        **{f"grid {name}": value for name, value in fixed.items()},
        "full answered": full.certainty >= CERTAIN,
        "full right": world.right(full.answer),
        "once right": world.right(int(scores[:, 0].argmax())),
        "five right": world.right(int(scores.mean(axis=1).argmax())),
        "random": play_random(world, scores, rng),
        "ASHA": play_pruner(world, scores, optuna.pruners.SuccessiveHalvingPruner(SIZES[0], 3), str(seed)),
        "Hyperband": play_pruner(world, scores, optuna.pruners.HyperbandPruner(SIZES[0], SIZES[-1], 3), str(seed)),
    }


def play_question(world: World, believer: Believer, scores: np.ndarray) -> dict:
    """As llama_exp/adaptive/search.py does, but for seconds and chance of the items, which are known here.

    path: (cost, right) of the best guess after each run.
    """
    runs: list[tuple[int, float]] = []
    count, path = np.zeros(len(GRID), int), []
    for setting in FIRST:
        runs.append((setting, scores[setting, 0]))
        count[setting] += 1
    while True:
        belief = believer.after(observed(runs, world.items))
        losses = QUESTION.loss(belief.scores, GRID)
        found, left = verdict(losses), np.flatnonzero(count < SEEDS)
        path.append((float(SHARES @ count), world.right(found.answer)))
        known = found.certainty >= CERTAIN
        if (known and count[found.answer]) or not len(left):
            break
        if known:  # an answer is run before it is given
            chosen = found.answer
        else:
            chosen = best_cell(belief, belief.scores, losses, left.tolist(), world.items**2, COSTS)
        runs.append((chosen, scores[chosen, count[chosen]]))
        count[chosen] += 1
    return {
        "answered": found.certainty >= CERTAIN,
        "right": world.right(found.answer),
        "cost": path[-1][0],
        "runs": int(count.sum()),
        "path": path,
        **intervals(world, belief.scores, found.answer),
    }


def intervals(world: World, draws: np.ndarray, answer: int) -> dict:
    """Of the gaps of all settings to the answer, where the sweep stopped: share of the 95 % intervals that hold the
    truth, and their mean width in points."""
    low, high = np.quantile(draws - draws[:, [answer]], [0.025, 0.975], axis=0)
    gaps = world.truth - world.truth[answer]
    others = np.arange(len(gaps)) != answer
    return {
        "covered": float(((low <= gaps) & (gaps <= high))[others].mean()),
        "width": float((high - low)[others].mean()),
    }


def play_random(world: World, scores: np.ndarray, rng: np.random.Generator) -> list[tuple[float, bool]]:
    """(cost, right) of the best score so far, after each cell in random order."""
    order = rng.permutation(len(GRID))
    best = [order[: k + 1][scores[order[: k + 1], 0].argmax()] for k in range(len(order))]
    return [(float(cost), world.right(one)) for cost, one in zip(np.cumsum(SHARES[order]), best, strict=True)]


def play_pruner(world: World, scores: np.ndarray, pruner: optuna.pruners.BasePruner, name: str) -> tuple[float, bool]:
    """(cost, right) once each pair of rank and rate was tried or pruned. Hyperband's bracket goes by the name."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pairs = {"r": RANKS, "lr": RATES}
    sampler = optuna.samplers.GridSampler(pairs, 0)
    study = optuna.create_study(study_name=name, direction="maximize", pruner=pruner, sampler=sampler)
    seen: dict[int, float] = {}

    def objective(trial: optuna.Trial) -> float:
        rank, rate = (trial.suggest_categorical(name, values) for name, values in pairs.items())
        for size in SIZES:
            setting = CELLS.index((size, rank, rate))
            seen[setting] = scores[setting, 0]
            trial.report(seen[setting], size)
            if trial.should_prune():
                raise optuna.TrialPruned
        return seen[setting]

    study.optimize(objective)
    best = max(seen, key=lambda setting: seen[setting])
    return float(SHARES[list(seen)].sum()), world.right(best)


def play_curve(seed: int, noisy: bool) -> dict:
    """As llama_exp/adaptive/{search,curve}.py do."""
    rng = np.random.default_rng(seed)
    world, pair = draw_world(rng, noisy), int(rng.integers(9))
    column = np.arange(len(SIZES)) * 9 + pair
    grid, costs = Grid({}, np.array(SIZES, float)), COSTS[column]
    scores = world.truth[column, None] + rng.normal(size=(5, SEEDS)) * np.hypot(world.spread, world.items)[column, None]
    count = np.array([1, 1, 0, 0, 0])
    while True:
        runs = [(SIZES[i], scores[i, k]) for i in range(5) for k in range(count[i])]
        curve = fit_curve([n for n, _ in runs], [score for _, score in runs], bounds=(0.0, 100.0), rises=True)
        draws = curve.values([*SIZES, FACTOR * SIZES[-1]])
        luck = np.ones(5) if curve.repeated else relative_scatter(grid.examples)
        belief = Belief(draws, curve.draws.scatters, luck, 100.0)
        losses = GAIN.loss(draws, grid)
        found, left = verdict(losses), np.flatnonzero(count < SEEDS)
        if found.certainty >= CERTAIN or not len(left):
            break
        count[best_cell(belief, draws, losses, left.tolist(), 0.0, costs)] += 1
    gains, true = GAIN.gains(draws, grid), world.far[pair] - world.truth[column[-1]]
    low, high = np.quantile(gains, [0.025, 0.975])
    answer = np.linspace(*np.quantile(gains, [0.01, 0.99]), losses.shape[1])[found.answer]
    return {
        "seed": seed,
        "noisy": noisy,
        "answered": found.certainty >= CERTAIN,
        "right": abs(answer - true) <= GAIN.within,
        "covered": low <= true <= high,
        "width": high - low,
        "cost": float(costs @ count / costs.sum()),
    }


def summarise_curves(rows: list[dict]) -> None:
    found = {key: np.array([row[key] for row in rows], float) for key in rows[0]}
    answered = found["answered"] > 0
    print(f"answered: {answered.sum()} of {len(rows)}, right: {found['right'][answered].sum():.0f}")
    for name, mine in (("answered", answered), ("open", ~answered)):
        if mine.any():
            cost, covered, width = (found[key][mine] for key in ("cost", "covered", "width"))
            print(
                f"{name}: cost {np.median(cost):.2f} of all sizes run once; {covered.mean():.3f} of the 95 % intervals"
            )
            print(f"  of the gain hold the true one, mean width {width.mean():.1f}")


def summarise(rows: list[dict]) -> None:
    found = {
        key: np.array([row[key] for row in rows], float) for key in rows[0] if key not in ("path", "random", "noisy")
    }
    answered, full = found["answered"] > 0, found["full answered"] > 0
    print(f"answered: {answered.sum()} of {len(rows)}, right: {found['right'][answered].sum():.0f}")
    print(f"open: {(~answered).sum()}, its best guess right: {found['right'][~answered].sum():.0f}")
    for name, costs in (("all", found["cost"]), ("answered", found["cost"][answered])):
        low, median, high = np.quantile(costs, [0.1, 0.5, 0.9])
        print(f"cost of {name}: median {median:.2f} of the grid run once (10 to 90 %: {low:.2f} to {high:.2f})")
    print(f"at the stop: {found['covered'].mean():.3f} of the intervals of gaps hold the truth, mean width "
          f"{found['width'].mean():.2f}")  # fmt: skip
    print(f"all cells run once: {found['grid covered'].mean():.3f}, mean width {found['grid width'].mean():.2f}")
    print(f"full grid, five seeds: answered {full.sum()}, right {found['full right'][full].sum():.0f}")
    for name in ("once", "five"):
        print(f"best of the grid run {name}: right {found[f'{name} right'].mean():.3f}")
    for name in ("ASHA", "Hyperband"):
        print(f"{name}: right {found[name][:, 1].mean():.3f} at a mean cost of {found[name][:, 0].mean():.2f}")


def share_right(paths: list[list[tuple[float, bool]]], costs: np.ndarray) -> np.ndarray:
    """Of the best guesses that so much cost has bought; the last one stays."""
    found = np.zeros(len(costs))
    for path in paths:
        spent, right = np.array(path, float).T
        at = np.searchsorted(spent, costs + 1e-9, side="right") - 1
        found += np.where(at < 0, 0.0, right[at.clip(0)])
    return found / len(paths)


def draw_figure(rows: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    costs = np.geomspace(0.03, 5, 100)
    axes.plot(costs, share_right([row["path"] for row in rows], costs), color="#0b6e99", lw=2.5, label="question=best")
    axes.plot(costs[costs <= 1], share_right([row["random"] for row in rows], costs[costs <= 1]), color="#888888",
              label="random cells")  # fmt: skip
    for name, marker in (("ASHA", "^"), ("Hyperband", "s")):
        cost, right = np.array([row[name] for row in rows], float).mean(axis=0)
        axes.plot(cost, right, marker, color="#c05020", label=f"{name} (Optuna)")
    axes.plot([1, 5], [np.mean([row[f"{name} right"] for row in rows]) for name in ("once", "five")], "D",
              color="black", label="full grid, once and five times")  # fmt: skip
    stop = np.median([row["cost"] for row in rows])
    axes.axvline(stop, color="#0b6e99", ls=":", lw=1)
    axes.annotate("median stop", (stop, 0.5), xytext=(4, 0), textcoords="offset points", color="#0b6e99", fontsize=8)
    axes.set(xscale="log", ylim=(0, 1.03), xlabel="cost (the grid run once = 1)",
             ylabel="share of worlds with the chosen setting\nwithin 1 point of the best")  # fmt: skip
    axes.set_xticks([0.03, 0.1, 0.3, 1, 5], ["0.03", "0.1", "0.3", "1", "5"])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--noisy", action="store_true", help="runs scatter by 3 points instead of 0.7")
    parser.add_argument("--rows", type=Path, help="what each world came to, a line each")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--curve", action="store_true", help="question=curve in place of question=best")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    stored = given.rows.read_text().splitlines() if given.rows and given.rows.exists() else []
    rows = [row for row in map(json.loads, stored) if row["noisy"] == given.noisy]
    left = sorted(set(range(given.worlds)) - {row["seed"] for row in rows})
    with ProcessPoolExecutor(given.processes) as pool:
        for done in as_completed(
            [pool.submit(play_curve if given.curve else play, seed, given.noisy) for seed in left]
        ):
            rows.append(json.loads(json.dumps(done.result(), default=float)))
            if given.rows:
                with open(given.rows, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    (summarise_curves if given.curve else summarise)(rows)
    if given.figure:
        draw_figure(rows, given.figure)


if __name__ == "__main__":
    main()
