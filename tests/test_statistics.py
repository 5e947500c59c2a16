"""Intervals, comparisons and rankings: against independent tools, on bad input, and as sentences."""

import ast
import dataclasses
import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import f1_score
from statsmodels.stats.multitest import multipletests

from llama_exp import formatting, statistics
from llama_exp.statistics import (
    Contender,
    RunSums,
    cluster_sums,
    first_against_second,
    holm,
    mean_interval,
    messages,
    paired_difference,
    rank_cells,
    ratio_interval,
    robust_variance,
    satterthwaite_df,
    sign_flip,
    statistic_interval,
    variance_components,
)
from llama_exp.statistics.ranking import Sweep
from llama_exp.statistics.run_luck import run_luck
from llama_exp.statistics.single_runs import typical_scatters
from llama_exp.statistics.variance import run_sums
from llama_exp.statistics.winner import correct_winner

RNG = np.random.default_rng(7)
GROUPS = [f"article{g}" for g, size in enumerate([40, 12, 5, 33, 8, 21, 3, 17, 9, 26]) for _ in range(size)]
SCORES = RNG.uniform(0, 100, len(GROUPS)) + np.array([int(g[7:]) for g in GROUPS])
IDS = [f"q{i}" for i in range(len(GROUPS))]
GROUP_OF = dict(zip(IDS, GROUPS, strict=True))


def cell(seed: int, chance: float = 0.6) -> dict[str, float]:
    return dict(zip(IDS, np.random.default_rng(seed).binomial(1, chance, len(IDS)).astype(float), strict=True))


PINNED = [48.274411, 50.980066, 48.274402, 50.979963, 47.3995, 52.119732]  # without bounds, with, drawn


# Against independent tools


@pytest.mark.parametrize("weighted", [False, True])
def test_residuals_of_clusters_equal_those_of_statsmodels_cluster_robust_variance(weighted):
    weights = RNG.uniform(1, 9, len(SCORES)) if weighted else np.ones(len(SCORES))
    codes = np.unique(GROUPS, return_inverse=True)[1]
    model = sm.WLS(SCORES, np.ones(len(SCORES)), weights=weights)
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": codes, "use_correction": False})
    ours = cluster_sums(SCORES * weights, weights, GROUPS)
    assert ours.estimate == pytest.approx(fitted.params[0], rel=1e-9)
    uncorrected = (ours.residuals**2).sum() / ours.weights.sum() ** 2
    assert uncorrected == pytest.approx(fitted.cov_params()[0, 0], rel=1e-9)


def test_cr2_of_single_items_equals_statsmodels_hc2():
    fitted = sm.OLS(SCORES, np.ones(len(SCORES))).fit(cov_type="HC2")
    assert robust_variance(cluster_sums(SCORES, np.ones(len(SCORES)), None)) == pytest.approx(
        fitted.cov_params()[0, 0], rel=1e-9
    )


def test_cr2_and_its_degrees_of_freedom_equal_their_definition_by_matrices():
    codes = np.unique(GROUPS, return_inverse=True)[1]
    count, ones = len(SCORES), np.ones((len(SCORES), 1))
    residual_maker = np.eye(count) - ones @ ones.T / count
    residuals, rows, variance = residual_maker @ SCORES, [], 0.0
    for g in range(codes.max() + 1):
        at = np.flatnonzero(codes == g)
        values, vectors = np.linalg.eigh(residual_maker[np.ix_(at, at)])
        adjust = vectors @ np.diag(values**-0.5) @ vectors.T
        variance += (ones[at].T @ adjust @ residuals[at]).item() ** 2 / count**2
        rows.append(residual_maker[:, at] @ adjust @ ones[at][:, 0] / count)
    gram = np.array(rows) @ np.array(rows).T
    ours = cluster_sums(SCORES, np.ones(count), GROUPS)
    assert robust_variance(ours) == pytest.approx(variance, rel=1e-9)
    assert satterthwaite_df(ours.weights) == pytest.approx(np.trace(gram) ** 2 / (gram**2).sum(), rel=1e-9)


def test_one_item_per_group_is_the_ordinary_t_interval():
    ordinary = stats.ttest_1samp(SCORES, 0).confidence_interval(0.95)
    for groups in (None, IDS):
        found = mean_interval(SCORES, groups)
        assert (found.low, found.high) == pytest.approx((ordinary.low, ordinary.high), rel=1e-9)
        assert found.clusters == found.items == len(SCORES)


def test_groups_of_equal_size_give_the_t_interval_over_group_means():
    values = SCORES[:60]
    ordinary = stats.ttest_1samp(values.reshape(12, 5).mean(axis=1), 0).confidence_interval(0.95)
    found = mean_interval(values, np.repeat(np.arange(12), 5).tolist())
    assert (found.low, found.high) == pytest.approx((ordinary.low, ordinary.high), rel=1e-9)


def test_paired_with_one_item_per_group_is_the_paired_t_test():
    a, b = dict(zip(IDS, SCORES, strict=True)), dict(zip(IDS, SCORES + RNG.normal(1, 5, len(IDS)), strict=False))
    ordinary = stats.ttest_rel([a[i] for i in IDS], [b[i] for i in IDS])
    assert paired_difference(a, b).p_value == pytest.approx(ordinary.pvalue, rel=1e-9)


def test_sign_flips_of_single_items_equal_scipys_binomial_test_which_is_exact_mcnemar():
    a, b = cell(1, 0.7), cell(2, 0.6)
    only_a, only_b = sum(a[i] > b[i] for i in IDS), sum(a[i] < b[i] for i in IDS)
    exact = stats.binomtest(only_a, only_a + only_b)
    assert sign_flip(a, b).p_value == pytest.approx(exact.pvalue, rel=1e-9) and sign_flip(a, b).note == ""


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["whole numbers", "percent"])
def test_sign_flips_of_groups_equal_scipys_permutation_test(scale):
    a, b = ({i: value * scale for i, value in cell(seed, chance).items()} for seed, chance in ((1, 0.7), (2, 0.6)))
    sums = cluster_sums([a[i] - b[i] for i in IDS], np.ones(len(IDS)), GROUPS).sums
    exact = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(a, b, GROUP_OF).p_value == pytest.approx(exact.pvalue, rel=1e-9)


def test_the_first_of_several_cells_against_the_second_is_corrected_for_all_pairs():
    cells = [cell(1, 0.8), cell(2, 0.6), cell(3, 0.5)]
    p_values = [sign_flip(*pair, GROUP_OF).p_value for pair in combinations(cells, 2)]
    found = first_against_second(cells, GROUP_OF)
    assert found.p_value == pytest.approx(multipletests(p_values, method="holm")[1][0], rel=1e-12)
    assert found.comparisons == 3 and found.p_value > p_values[0]


def test_holm_equals_statsmodels():
    p = np.random.default_rng(0).uniform(0, 0.2, 25)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-9)
    assert holm([0.01, 0.04, 0.03, 0.005]) == [0.03, 0.06, 0.06, 0.02]
    assert holm([]) == []


def test_macro_f1_is_scikit_learns_and_a_mean_gets_the_same_interval_as_interval():
    truth, answer = RNG.integers(0, 3, len(IDS)), RNG.integers(0, 3, len(IDS))
    macro = lambda items: f1_score(*zip(*items, strict=True), average="macro")  # noqa: E731
    found = statistic_interval(macro, list(zip(truth, answer, strict=True)), GROUPS, bounds=(0, 1))
    assert found.estimate == pytest.approx(f1_score(truth, answer, average="macro"), rel=1e-9)
    assert 0 < found.low < found.estimate < found.high < 1
    mean, same = mean_interval(SCORES, GROUPS), statistic_interval(lambda items: float(np.mean(items)), SCORES, GROUPS)
    assert (same.low, same.high) == pytest.approx((mean.low, mean.high), rel=1e-9)


def test_the_package_imports_neither_torch_nor_the_rest_of_the_project():
    files = sorted(Path(statistics.__file__).parent.rglob("*.py"))
    assert len(files) >= 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), file.name
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            ours = [name for name in names if name.split(".")[0] == "llama_exp"]
            assert all(name.startswith(("llama_exp.statistics", "llama_exp.formatting")) for name in ours), file.name
            assert not [name for name in names if name.split(".")[0] == "torch"], file.name


# What the numbers mean


def test_clustering_widens_the_interval_and_bounds_keep_it_inside():
    right = (np.array([int(g[7:]) for g in GROUPS]) != 3).astype(float)  # one whole article is wrong
    assert mean_interval(right, GROUPS).standard_error > 3 * mean_interval(right).standard_error
    near = mean_interval(np.where(np.arange(len(right)) % 60 == 0, 0.0, 1.0), GROUPS, bounds=(0, 1))
    assert 0 < near.low < near.estimate < near.high < 1


@pytest.mark.parametrize("groups", [8, 20, 300])
def test_a_mean_nearer_to_a_bound_than_half_an_item_lies_in_its_interval(groups):
    low, high = (
        mean_interval([0.0] * (groups - 1) + [0.05], bounds=(0, 1)),
        mean_interval([1.0] * (groups - 1) + [0.95], bounds=(0, 1)),
    )
    assert 0 <= low.low < low.estimate < low.high < 0.4
    assert (high.low, high.high) == pytest.approx((1 - low.high, 1 - low.low))


def test_perplexity_is_the_exponential_of_the_token_weighted_mean():
    tokens = RNG.integers(5, 50, len(IDS))
    nll = tokens * RNG.normal(1.6, 0.3, len(IDS))
    found, plain = ratio_interval(nll, tokens, GROUPS, transform=math.exp), ratio_interval(nll, tokens, GROUPS)
    assert found.estimate == pytest.approx(math.exp(nll.sum() / tokens.sum()))
    assert (found.low, found.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    assert found.standard_error == pytest.approx(plain.standard_error * found.estimate, rel=1e-6)


def test_a_ratio_that_is_the_same_in_every_group_has_an_interval_of_its_function_too():
    ones, twos = [1.0] * 12, [2.0] * 12
    plain = ratio_interval(ones, twos, bounds=(0, 1))
    found = ratio_interval(ones, twos, bounds=(0, 1), transform=math.exp)
    assert (found.low, found.high) == pytest.approx((math.exp(plain.low), math.exp(plain.high)))
    assert found.estimate == pytest.approx(math.exp(0.5)) and found.standard_error is None


def test_the_same_on_every_machine():
    values = [i * 37 % 101 for i in range(len(GROUPS))]
    many = [f"g{int(i**0.6)}" for i in range(len(GROUPS))]  # 23 groups: sign patterns are drawn, not counted
    found = (
        mean_interval(values, GROUPS),
        mean_interval(values, GROUPS, bounds=(0, 101)),
        mean_interval(values, many, seed=1),
    )
    assert [round(x, 6) for i in found for x in (i.low, i.high)] == PINNED


def test_significant_is_when_the_interval_leaves_out_zero():
    base = cell(3)
    for seed in range(30):
        other = {i: value if RNG.random() < 0.8 else 1 - value for i, value in base.items()}
        found = paired_difference(base, other, GROUP_OF, seed=seed)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize(
    "count, method", [(11, "cluster-robust t (CR2, Satterthwaite)"), (12, "restricted wild cluster bootstrap")]
)
def test_a_comparison_of_fewer_than_12_groups_is_a_t_test_whose_level_no_sign_patterns_limit(count, method):
    rng = np.random.default_rng(7)
    sizes = np.array([300, *rng.integers(5, 40, count - 1)])  # one group holds over half
    groups = {f"q{i}": f"g{g}" for i, g in enumerate(np.repeat(np.arange(count), sizes))}
    a, b = ({i: float(rng.random() < 0.7) for i in groups} for _ in range(2))
    found = paired_difference(a, b, groups)
    sums = cluster_sums([a[i] - b[i] for i in groups], np.ones(len(groups)), list(groups.values()))
    t, df = abs(found.difference) / found.standard_error, satterthwaite_df(sums.weights)
    assert found.method == method
    assert (found.p_value == pytest.approx(2 * stats.t.sf(t, df), rel=1e-9)) == (count < 12)


def test_order_of_items_does_not_matter_to_a_comparison():
    a, b = cell(1), cell(2)
    shuffled = dict(sorted(a.items(), key=lambda pair: hash(pair[0])))
    assert paired_difference(a, b, GROUP_OF) == paired_difference(shuffled, b, GROUP_OF)


def contender(key: str, *runs: dict[str, float], first_seed: int = 0) -> Contender:
    """A cell of one run per data seed."""
    return Contender(key, run_sums(runs, GROUP_OF), tuple((first_seed + seed, 0) for seed in range(len(runs))))


ALIKE = np.zeros(1)  # scatter of runs: none, so that the test set's noise is all there is


def ranked(*contenders: Contender, scatters=ALIKE):
    return rank_cells(sorted(contenders, key=lambda one: -one.sums.means.mean()), scatters=scatters)


def test_the_best_and_all_that_do_not_differ_significantly_from_it_are_marked():
    base = {i: float(value) for i, value in zip(IDS, np.random.default_rng(5).random(len(IDS)) < 0.7, strict=True)}
    flip = lambda share, seed: {  # noqa: E731
        i: 0.0 if r < share else v
        for (i, v), r in zip(base.items(), np.random.default_rng(seed).random(len(IDS)), strict=True)
    }
    cells = [contender("r64", base), contender("r16", flip(0.03, 0)), contender("r8", flip(0.5, 1))]
    found = ranked(*cells)
    assert (found.best, found.tied, found.worse) == ("r64", ("r16",), ("r8",))
    difference, p = found.against["r8"]
    pairs = [paired_difference(*pair, GROUP_OF) for pair in combinations((base, flip(0.03, 0), flip(0.5, 1)), 2)]
    assert difference == pairs[1]
    assert p == pytest.approx(multipletests([one.p_value for one in pairs], method="holm")[1][1], rel=1e-9)
    lowest = rank_cells([cells[2], cells[0]], scatters=ALIKE)  # a metric that falls: the caller says which is best
    assert (lowest.best, lowest.worse) == ("r8", ("r64",))
    assert rank_cells(cells[:1]).tied == rank_cells(cells[:1]).worse == ()


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    weights, runs = np.ones(len(IDS)), ((0, 0),)
    a, b, c = (
        Contender(seed, RunSums(np.array([list(cell(seed).values())]), weights, len(IDS)), runs) for seed in (1, 2, 3)
    )
    size = rank_cells([a, b], scatters=ALIKE).detectable
    error, df = paired_difference(cell(1), cell(2)).standard_error, len(IDS) - 1
    assert size == pytest.approx(error * (stats.t.ppf(0.975, df) + stats.t.ppf(0.8, df)), rel=0.03)
    assert rank_cells([a, b, c], scatters=ALIKE).detectable > size
    rng, draws = np.random.default_rng(0), 4000
    t = size / error + rng.standard_t(df, draws)
    assert np.mean(np.abs(t) > stats.t.ppf(0.975, df)) == pytest.approx(0.8, abs=0.02)


def test_variance_components_add_up_and_name_their_sources():
    rng = np.random.default_rng(1)
    level = rng.normal(60, 10, len(IDS))

    def run(shift: float) -> dict[str, float]:
        return dict(zip(IDS, level + shift + rng.normal(0, 1, len(IDS)), strict=True))

    def parts(runs: list[dict[str, float]], data_seeds):
        return variance_components(run_sums(runs, GROUP_OF), list(data_seeds))

    alone = parts([run(0)], [0])
    assert alone.total.note == "test set only; one training seed" and [(p.name, p.share) for p in alone.parts] == [
        ("test set", 1.0)
    ]
    draws = np.repeat(range(4), 3)
    shifts = np.repeat(rng.normal(0, 4, 4), 3) + rng.normal(0, 1, 12)
    full = parts([run(s) for s in shifts], draws)
    assert sum(part.share for part in full.parts) == pytest.approx(1)
    assert [part.name for part in full.parts] == ["test set", "training", "sampling"]
    assert all(0 <= part.low <= part.share <= part.high <= 1 for part in full.parts)
    assert full.parts[2].share > full.parts[1].share
    assert full.total.high - full.total.low > alone.total.high - alone.total.low
    pooled = parts([run(s) for s in shifts[::3]], range(4))
    assert [part.name for part in pooled.parts] == ["test set", "training and sampling"]
    assert pooled.parts[1].share > 0 and "cannot be separated" in pooled.total.note
    assert "one data sample" in parts([run(0), run(1)], [0, 0]).total.note


@pytest.mark.parametrize("luck", [0.5, 1.5, 2.5])
def test_runs_that_show_no_luck_are_not_known_to_have_none(luck):
    """Three runs often lie close together by chance; their luck is then rarely larger than `unseen` allows."""
    rng, missed, zero = np.random.default_rng(3), 0, 0
    level = rng.normal(60, 10, len(IDS))
    for _ in range(200):
        runs = [
            dict(zip(IDS, level + rng.normal(0, luck) + rng.normal(0, 12, len(IDS)), strict=True)) for _ in range(3)
        ]
        found = variance_components(run_sums(runs, GROUP_OF), [0, 1, 2])
        assert (found.unseen is None) == (found.parts[1].share > 0)
        zero += found.unseen is not None
        missed += found.unseen is not None and found.unseen < luck / math.sqrt(3)
    assert zero > 15 and missed <= 0.08 * 200
    assert "cannot rule out that it adds up to ±" in messages.describe_unseen(1.5, 3)


def test_runs_without_any_spread_have_no_zero_width_interval():
    same = dict.fromkeys(IDS, 100.0)
    sums = run_sums([same] * 3, GROUP_OF)
    bounded = variance_components(sums, [0, 1, 2], bounds=(0.0, 100.0)).total
    assert 100 * 0.025 ** (1 / 6) < bounded.low < 100 * 0.025 ** (1 / len(IDS)) and bounded.high == 100
    assert "10 groups leave open" in bounded.note and bounded.note.startswith("test set and 3 data samples")
    assert variance_components(sums, [0, 1, 2]).total.low is None
    ((equal, p),) = ranked(contender("a", same, same, same), contender("b", same, same, same)).against.values()
    assert (equal.difference, equal.p_value, p) == (0.0, 1.0, 1.0)


def test_cells_of_several_runs_differ_as_recipes_only_beyond_the_luck_of_their_runs():
    rng = np.random.default_rng(5)
    level = rng.normal(60, 10, len(IDS))

    def runs(lift: float, luck: float) -> list[dict[str, float]]:
        return [
            dict(zip(IDS, level + lift + rng.normal(0, luck) + rng.normal(0, 1, len(IDS)), strict=True))
            for _ in range(4)
        ]

    def compare(one: list[dict[str, float]], other: list[dict[str, float]]):
        (found,) = ranked(contender("a", *one), contender("b", *other)).against.values()
        return found

    lucky, plain = runs(0, 3), runs(0, 3)
    as_runs, (as_recipes, p) = paired_difference(lucky[0], plain[0], GROUP_OF), compare(lucky, plain)
    assert as_runs.p_value < 0.001 < 0.05 < p and as_recipes.low < 0 < as_recipes.high
    better, p = compare(runs(8, 0.5), plain)
    assert better.low > 0 and p < 0.05
    assert better.note == "test set and 4 runs of each" and "between-run variance" in better.method
    one_run, p = compare(lucky[:1], plain[:1])
    assert abs(one_run.difference) == pytest.approx(abs(as_runs.difference)) and p == pytest.approx(as_runs.p_value)
    fewer, _ = compare(lucky, plain[:3])
    assert set(fewer.note.removeprefix("test set and ").replace(" runs", "").split(" against ")) == {"3", "4"}


def of_means(key: str, means: list[float], seeds: list[int], groups: int = 20, scatter: float = 3.0) -> Contender:
    """A cell whose runs have these scores, with seeds; its items scatter by themselves."""
    own = np.random.default_rng(ord(key)).normal(0, scatter, (len(means), groups))
    own -= own.mean(axis=1, keepdims=True)
    sums = np.array(means)[:, None] + np.linspace(-9, 9, groups) + own
    return Contender(key, RunSums(sums * 5, np.full(groups, 5.0), 5 * groups), tuple((0, seed) for seed in seeds))


@pytest.mark.parametrize(("cells", "lead"), [(9, 0.0), (9, 6.0), (2, 0.5)], ids=["nine equal", "one clear", "two near"])
def test_the_corrected_interval_of_the_best_cell_holds_its_true_score(cells, lead):
    """Uncorrected, the best of nine equal independent cells is in its own interval 79 times of 100, never above it."""
    rng, covered, above = np.random.default_rng(0), [], []
    for _ in range(300):
        scores = rng.normal(0, 1, cells) + np.where(np.arange(cells) == 0, lead, 0.0)
        order = np.argsort(-scores)
        truth = lead if order[0] == 0 else 0.0
        found = correct_winner(scores[order], np.eye(cells))
        covered.append(found.low <= truth <= found.high)
        above.append(found.estimate > truth)
    assert 0.91 <= np.mean(covered) <= 0.985 and 0.4 < np.mean(above) < 0.6


def test_a_cell_that_is_clearly_best_keeps_its_score_and_interval():
    found = correct_winner(np.array([80.0, 20.0, 10.0]), np.eye(3))
    assert found.estimate == pytest.approx(80, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((80 - 1.96, 80 + 1.96), abs=0.05)
    assert correct_winner(np.array([80.0, 20.0]), np.zeros((2, 2))) is None


def test_the_best_of_a_sweep_is_corrected_towards_the_others_also_where_lower_is_better():
    means = [60.0, 59.5, 59.2, 58.8]
    cells = [of_means(key, [mean], [0]) for key, mean in zip("abcd", means, strict=True)]
    found = rank_cells(cells).winner
    assert found.cells == 4 and found.estimate < 60 and found.low < found.estimate < found.high
    falling = [replace(one, sums=replace(one.sums, sums=-one.sums.sums)) for one in cells]
    mirrored = rank_cells(falling).winner
    assert (mirrored.estimate, mirrored.low, mirrored.high) == pytest.approx((-found.estimate, -found.high, -found.low))
    assert rank_cells(cells, (59.9, 100.0)).winner.low == 59.9 and rank_cells(cells[:1]).winner is None


UNBALANCED = {
    "one seed shared, on which the other is ahead": ([50.0, 68.0, 70.0], [0, 1, 2], [60.0], [0]),
    "no seed shared": ([50.0, 68.0, 70.0], [0, 1, 2], [61.0, 60.0], [7, 8]),
    "two of three shared": ([50.0, 68.0, 70.0], [0, 1, 2], [58.0, 60.0, 61.0], [1, 2, 3]),
}


@pytest.mark.parametrize("design", UNBALANCED)
def test_a_difference_is_that_of_the_printed_means_whatever_seeds_two_cells_have(design):
    first, seeds, second, others = UNBALANCED[design]
    found = rank_cells([of_means("a", first, seeds), of_means("b", second, others)])
    ((difference, p),) = found.against.values()
    assert difference.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert p > 0.05 and difference.low < 0 < difference.high and found.repeated, "the three runs alone scatter by 11"


def test_cells_of_one_run_scatter_over_seeds_as_those_do_that_have_several():
    single = [of_means("b", [60.0], [0]), of_means("c", [55.0], [0])]
    as_runs = rank_cells(single, scatters=ALIKE).against["c"][0]
    found = rank_cells([of_means("a", [50.0, 68.0, 70.0], [0, 1, 2]), *single])
    several = rank_cells([*single, of_means("a", [50.0, 68.0, 70.0], [0, 1, 2])]).against["c"][0]
    assert not rank_cells(single).repeated and found.repeated and found.runs == 1
    assert several.difference == pytest.approx(as_runs.difference) and several.p_value > as_runs.p_value
    assert several.standard_error > 3 * as_runs.standard_error


def test_single_runs_differ_only_beyond_the_scatter_that_runs_usually_have():
    """By hand: the average over the scatters of a normal test, with the test set's variance beside them."""
    scores, weights = np.random.default_rng(3).normal(0, 6, (2, 400)) + np.array([[60.0], [57.0]]), np.ones(400)
    cells = [Contender(key, RunSums(row[None], weights, 400), ((0, 0),)) for key, row in enumerate(scores)]
    same, usual = rank_cells(cells, (0, 100), ALIKE), rank_cells(cells, (0, 100))
    assert same.worse == (1,) and usual.worse == (), "three points are within two typical scatters of 1.2"
    difference, p = usual.against[1]
    test, size = same.against[1][0].standard_error ** 2, difference.difference
    by_hand = np.mean(2 * stats.norm.sf(size / np.sqrt(test + 2 * typical_scatters(100.0) ** 2)))
    assert p == pytest.approx(by_hand, rel=0.05) and difference.low < 0 < difference.high
    far = [cells[0], Contender(1, RunSums(scores[1:] - 20.0, weights, 400), ((0, 0),))]
    assert rank_cells(far, (0, 100)).worse == (1,), "no usual scatter explains 23 points"
    untuned = [cells[0], replace(cells[1], fixed=True)]
    assert rank_cells(untuned, (0, 100)).against[1][1] < p, "an untuned model has no luck of its own"
    assert usual.detectable > 2 * same.detectable and usual.winner.high - usual.winner.low > 3


def test_one_run_of_few_examples_is_not_judged_by_the_repeats_of_many():
    rng, weights = np.random.default_rng(4), np.full(40, 10.0)

    def of(key: str, mean: float, runs: int, relative: float) -> Contender:
        rows = (mean + rng.normal(0, 0.2, (runs, 1)) + rng.normal(0, 2, (runs, 40))) * weights
        return Contender(
            key, RunSums(rows, weights, 400), tuple((0, i) for i in range(runs)), relative_scatter=relative
        )

    large, alike, few = of("large", 65.0, 5, 1.0), of("alike", 60.0, 1, 1.0), of("few", 60.0, 1, 3.2)
    assert rank_cells([large, alike], (0, 100)).worse == ("alike",), "5 points, where runs scatter by 0.2"
    assert rank_cells([large, few], (0, 100)).worse == (), "5 points, where runs of 100 examples scatter by 3.8"


def test_the_best_of_single_runs_that_lie_close_is_hardly_corrected():
    """That nine cells lie close shows that their runs scatter little, so that the best one was not so lucky."""
    rng, weights = np.random.default_rng(0), np.full(50, 20.0)
    rows = 60 + rng.normal(0, 8, 50) + rng.normal(0, 1, (9, 50))
    cells = [Contender(i, RunSums((row * weights)[None], weights, 1000), ((0, i),)) for i, row in enumerate(rows)]
    cells.sort(key=lambda one: -one.sums.means.mean())
    found, best = rank_cells(cells, (0, 100)).winner, cells[0].sums.means.mean()
    assert best - 1.5 < found.estimate <= best
    same = [Contender(i, cells[0].sums, ((0, i),)) for i in range(3)]
    assert rank_cells(same, (0, 100)).winner is None, "of equals none is flattered by the choice"


def test_scores_that_are_not_numbers_are_refused_by_name():
    weights = np.full(4, 5.0)
    cells = [
        Contender(key, RunSums(np.full((1, 4), value), weights, 20), ((0, 0),))
        for key, value in (("a", 1.0), ("b", np.nan))
    ]
    with pytest.raises(ValueError, match="scores of b: 4 of 4 are NaN"):
        rank_cells(cells)
    with pytest.raises(ValueError, match="NaN"):
        run_luck(RunSums(np.full((3, 4), np.nan), weights, 20), [0, 0, 0])


def test_luck_is_none_where_all_runs_are_the_same_and_says_of_how_many_samples_it_is():
    rng, weights = np.random.default_rng(0), np.full(20, 5.0)
    alike = RunSums(np.full((3, 20), 250.0), weights, 100)
    assert run_luck(alike, [0, 0, 0]) is None
    apart = RunSums((50 + rng.normal(0, 3, (4, 1)) + rng.normal(0, 1, (4, 20))) * weights, weights, 100)
    assert run_luck(apart, [0, 0, 0, 0]).samples == 1 and run_luck(apart, [0, 0, 1, 1]).samples == 2
    assert run_luck(apart, [0, 1, 2, 3]).seeds_needed(-5.0) == run_luck(apart, [0, 1, 2, 3]).seeds_needed(5.0)


def test_where_no_group_differs_from_another_both_few_groups_and_runs_may_explain_a_difference():
    def alike(score: float, groups: int) -> Contender:
        weights = np.full(groups, 5.0)
        return Contender(score, RunSums(np.full((1, groups), 5.0 * score), weights, 5 * groups), ((0, 0),))

    few, many = (rank_cells([alike(100.0, n), alike(0.0, n)], (0, 100)).against[0.0][1] for n in (4, 12))
    assert few == pytest.approx(2 / 2**4) and many < 0.05
    assert rank_cells([alike(51.0, 12), alike(50.0, 12)], (0, 100)).worse == (), "one point may be luck"


def test_a_difference_of_fully_shared_runs_is_the_paired_t_over_runs_where_items_do_not_matter():
    """The moments of a balanced design are the mean squares of the analysis of variance."""
    a, b = [50.0, 58.0, 70.0, 61.0], [47.0, 57.0, 64.0, 60.0]
    two = [of_means(key, means, [0, 1, 2, 3], scatter=0.0) for key, means in (("a", a), ("b", b))]
    found = Sweep(two, ALIKE).own[0, 1]
    ordinary = stats.ttest_rel(a, b)
    assert found.df == pytest.approx(3) and found.items == pytest.approx(0, abs=1e-9)
    assert np.sqrt(found.total) == pytest.approx((np.mean(a) - np.mean(b)) / ordinary.statistic, rel=1e-9)


def test_a_difference_larger_than_the_scale_is_not_called_detectable():
    cells = [of_means("a", [20.0, 90.0], [0, 1]), of_means("b", [50.0], [0])]
    inside, outside = rank_cells(cells), rank_cells(cells, (0, 100))
    assert inside.detectable > 100 and not inside.beyond_scale
    assert outside.detectable is None and outside.beyond_scale
    assert "No true difference within the scale" in messages.describe_detectable(outside.detectable)


@pytest.mark.parametrize("result", ["interval", "difference", "components", "ranking", "exact"])
def test_results_are_of_built_in_types_and_survive_json(result):
    a, b = cell(1), cell(2)
    made = {
        "interval": lambda: mean_interval(SCORES, GROUPS, bounds=(0, 200)),
        "difference": lambda: paired_difference(a, b, GROUP_OF),
        "components": lambda: variance_components(run_sums([a, b, cell(3), cell(4)], GROUP_OF), [0, 0, 1, 1]),
        "ranking": lambda: ranked(contender("r8", a), contender("r16", b)),
        "exact": lambda: sign_flip(a, b, GROUP_OF),
    }[result]()

    def types(value) -> set[type]:
        if isinstance(value, dict | list | tuple):
            return set().union(*map(types, value.values() if isinstance(value, dict) else value))
        return {type(value)}

    assert types(dataclasses.asdict(made)) <= {int, float, str, bool, type(None)}
    assert json.loads(json.dumps(dataclasses.asdict(made), allow_nan=False))


# Bad input


def test_nan_is_refused_and_counted():
    with pytest.raises(ValueError, match=r"values: 2 of 4 are NaN or infinite \(first at position 1\)"):
        mean_interval([1.0, math.nan, 2.0, math.inf])


def test_different_items_refuse_to_be_paired_and_the_ids_are_named():
    a, b = {"q1": 1.0, "q2": 0.0, "q3": 1.0}, {"q2": 1.0, "q3": 0.0, "q4": 1.0, "q5": 0.0}
    with pytest.raises(ValueError, match=r"1 only in a \(q1\); 2 only in b \(q4, q5\); 2 are shared"):
        paired_difference(a, b)
    with pytest.raises(ValueError, match="run 0 and run 1 answered different items"):
        run_sums([a, b], None)


@pytest.mark.parametrize(
    "values, groups, why",
    [
        pytest.param([], [], "there are no items to score", id="no items"),
        pytest.param([1.0, 2.0], ["a", "a"], "all 2 items are of one group", id="one group"),
        pytest.param([5.0, 5.0], ["a", "b"], "every group has the same score", id="no spread"),
    ],
)
def test_where_there_is_no_interval_a_note_says_why(values, groups, why):
    found = mean_interval(values, groups)
    assert found.low is None and found.high is None and why in found.note
    assert str(found) == "undefined" if not values else str(found).endswith("(no interval)")


def test_all_right_is_not_certainly_100_percent():
    found = mean_interval([1.0] * 40, [f"g{i // 4}" for i in range(40)], bounds=(0, 1))
    groups, items = (stats.binomtest(n, n).proportion_ci().low for n in (10, 40))
    assert found.high == 1 and groups < found.low < items, "between 10 independent ones and 40"
    alone = mean_interval([1.0] * 40, bounds=(0, 1))
    assert alone.low == pytest.approx(items, abs=1e-3), "each item its own group: Clopper and Pearson's"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mean_interval([1.0, 2.0], ["a"]), "one group per item is needed: got 1 groups for 2 items"),
        (lambda: mean_interval([1.0, 2.0], weights=[1.0]), "as many weights as values"),
        (lambda: mean_interval([50.0], bounds=(0, 1)), "outside the bounds"),
        (lambda: ratio_interval([1.0], [-1.0]), "1 weights or denominators are negative"),
        (lambda: sign_flip({"a": 0.5, "b": 1.0}, {"a": 1.0, "b": 0.0}), "scores must be right or wrong, 0 or 1: got 3"),
        (lambda: paired_difference({"q": 1.0}, {"q": 0.0}, {}), r"1 of 1 items have no group \(first: q\)"),
        (lambda: holm([0.5, 1.5]), "between 0 and 1"),
    ],
)
def test_errors_say_what_was_wanted_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_exact_test_says_when_so_few_groups_differ_that_it_cannot_become_significant():
    a, b = cell(1), cell(2)
    few = dict.fromkeys(IDS, "one") | dict.fromkeys(IDS[:80], "two")
    assert "only 2 groups differ: p cannot fall below 0.5" in sign_flip(a, b, few).note
    assert "only 1 group differs: p cannot fall below 1" in sign_flip(a, a | {IDS[0]: 1 - a[IDS[0]]}, few).note
    assert sign_flip(a, b, GROUP_OF).note == ""
    alike = a | {IDS[0]: a[IDS[1]], IDS[1]: a[IDS[0]]}  # two items of one group, changed places
    for found in (sign_flip(a, a), sign_flip(a, alike, GROUP_OF)):
        assert (found.p_value, found.note) == (1.0, "the two give every group the same score")


def test_identical_cells_are_equal_with_p_1():
    found = paired_difference(cell(1), cell(1), GROUP_OF)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert sign_flip(cell(1), cell(1)).p_value == 1.0


# Sentences


@pytest.mark.parametrize(
    "estimate, low, high, written",
    [
        (71.234, 69.6, 72.8, "71.2 ± 1.6"),
        (0.71234, 0.696, 0.728, "0.712 ± 0.016"),
        (71.2, 55.0, 87.0, "71 ± 16"),
        (98.9, 95.1, 99.7, "98.9 (95.1 to 99.7)"),
        (1.0, -0.01, 4.1, "1.0 (0.0 to 4.1)"),  # no minus before a zero
        (-0.001, -2.0, 2.0, "0.0 ± 2.0"),
        (71.234, None, None, "71.23 (no interval)"),
        (None, None, None, "undefined"),
    ],
)
def test_numbers_are_written_to_two_figures_of_their_uncertainty(estimate, low, high, written):
    assert formatting.plus_minus(estimate, low, high) == written


def test_differences_are_shown_with_their_sign_and_without_an_interval_where_they_have_none():
    a = cell(1)
    none, all_right = dict.fromkeys(a, 0.0), dict.fromkeys(a, 1.0)
    assert str(paired_difference(a, cell(2), GROUP_OF)).startswith(("+0.", "-0."))
    alike = paired_difference(all_right, none, GROUP_OF)  # by as much in every group
    assert str(alike) == "+1 (no interval)" and alike.p_value == 2.0 ** (1 - 10)
    alone = paired_difference(all_right, none, dict.fromkeys(a, "one group"))
    assert alone.p_value is None and "of one group" in alone.note


def test_the_sentence_on_what_can_be_detected_names_its_chance():
    assert "chance of 80 %, is 3.2;" in messages.describe_detectable(3.21)
