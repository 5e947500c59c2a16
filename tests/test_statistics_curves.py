"""Learning curves: known laws are found again, and intervals are as wide as what the points leave open."""

import math

import numpy as np
import pytest

from llama_exp.statistics import Series, fit_curve, fit_curves, messages
from llama_exp.statistics.learning_curve.laws import WEIGHTS, laws_between

FIVE = [100, 300, 1000, 3000, 10000]


def law(n, a=80.0, b=150.0, c=0.4):
    return a - b * np.asarray(n, dtype=float) ** -c


def sweep(truth=law, sizes=FIVE, draws=3, noise=0.5, seed=2, **options):
    """Runs of every size with every data seed, as one score each."""
    rng = np.random.default_rng(seed)
    runs = [(size, draw) for size in sizes for draw in range(draws)]
    scores = [float(truth(size)) + rng.normal(0, noise) for size, _ in runs]
    return fit_curve([s for s, _ in runs], scores, data_seeds=[d for _, d in runs] if draws > 1 else None, **options)


def test_a_law_without_noise_is_found_again():
    curve = sweep(noise=1e-4, bounds=(0, 100))
    assert curve.laws["power"] > 0.9
    assert curve.predict(40_000).estimate == pytest.approx(law(40_000), abs=0.05)
    assert curve.gain(10).estimate == pytest.approx(law(100_000) - law(10_000), abs=0.1)
    assert curve.size_for(77.0).estimate == pytest.approx((3 / 150) ** -2.5, rel=0.1)


def test_intervals_hold_the_truth_and_widen_away_from_the_points():
    curve = sweep()
    inside, far, further = (curve.predict(n) for n in (1000, 40_000, 1_000_000))
    for band, n in ((inside, 1000), (far, 40_000), (further, 1_000_000)):
        assert band.low <= law(n) <= band.high
    assert inside.high - inside.low < far.high - far.low < further.high - further.low


def test_items_and_groups_bring_in_the_test_sets_noise_but_not_into_the_gain():
    rng = np.random.default_rng(3)
    groups = {f"q{i}": f"article{i // 20}" for i in range(240)}
    level = np.repeat(rng.normal(0, 10, 12), 20)
    runs = [(size, draw) for size in FIVE for draw in range(3)]
    shifts = rng.normal(0, 0.3, len(runs))
    scores = [
        {q: float(x) for q, x in zip(groups, law(size) + level + shift + rng.normal(0, 1, 240), strict=True)}
        for (size, _), shift in zip(runs, shifts, strict=True)
    ]
    options = {"data_seeds": [draw for _, draw in runs]}
    full = fit_curve([s for s, _ in runs], scores, groups, **options)
    alone = fit_curve([s for s, _ in runs], [float(np.mean(list(run.values()))) for run in scores], **options)
    width = lambda band: band.high - band.low  # noqa: E731
    assert width(full.predict(1000)) > 3 * width(alone.predict(1000))
    assert width(full.gain(2)) < 2 * width(alone.gain(2))
    assert full.predict(1000).low <= law(1000) <= full.predict(1000).high


def test_one_size_is_refused_with_a_size_to_add():
    curve = sweep(sizes=[1000])
    assert curve.refusal == "there is one size, 1,000. Add another, such as 2,000"
    assert messages.describe_curve(curve) == [f"No learning curve: {curve.refusal}."]
    with pytest.raises(ValueError, match="this curve was refused"):
        curve.predict(10)


@pytest.mark.parametrize("sizes", [[100, 1000], [30, 100, 300], [100, 300, 1000, 3000]])
def test_few_sizes_and_one_seed_give_a_wide_interval_not_a_refusal(sizes):
    truth = lambda n: 60 - 300 / n**0.8  # noqa: E731
    curve = sweep(truth, sizes, draws=1, noise=1.0, bounds=(0, 100), rises=True)
    gain = curve.gain(10)
    assert gain.low <= truth(10 * sizes[-1]) - truth(sizes[-1]) <= gain.high
    assert 1 < gain.high - gain.low < 60
    assert messages.describe_curve(curve)[-1] == messages.NOT_REPEATED


def test_no_effect_of_data_is_no_gain():
    gain = sweep(lambda n: 60.0, bounds=(0, 100), rises=True).gain(10)
    assert gain.low <= 0 <= gain.high and gain.high - gain.low < 3


@pytest.mark.parametrize(
    "truth",
    [
        lambda n: 70 - 40 * math.exp(-n / 900),
        lambda n: 40 + 35 / (1 + math.exp(-3 * (math.log10(n) - 3))),
        lambda n: 20 + 8 * math.log(min(n, 1200)),
        lambda n: 20 + 5 * math.log(n),
    ],
    ids=["exponential", "logistic", "plateau", "logarithm"],
)
def test_curves_that_are_no_power_laws_are_held_too(truth):
    """No interval promises what the points do not show: today's best fit of one law did, and was wrong each time."""
    curve = sweep(truth, noise=1.0, bounds=(0, 100), rises=True)
    for factor in (2, 10):
        gain = curve.gain(factor)
        assert gain.low <= truth(factor * FIVE[-1]) - truth(FIVE[-1]) <= gain.high


def test_precise_points_are_not_forced_onto_a_shape_of_the_grid():
    """A logistic whose steepness, 1.3, and turn lie between grid values, seen almost without noise."""
    truth = lambda n: 40 + 35 / (1 + (794 / n) ** 1.3)  # noqa: E731
    curve = sweep(truth, [100, 200, 500, 1000, 3000], noise=0.1, bounds=(0, 100), rises=True)
    gain = curve.gain(2)
    assert gain.low <= truth(6000) - truth(3000) <= gain.high and gain.high - gain.low < 5


def test_laws_that_agree_on_the_points_disagree_beyond_them():
    """60, 62, 64 at 100, 300, 1,000 may be a logarithm or the middle of a logistic: the interval holds both."""
    curve = fit_curve([100, 300, 1000], [60.0, 62.0, 64.0], bounds=(0, 100), rises=True)
    assert sum(share > 0.05 for share in curve.laws.values()) >= 3
    inside, beyond = curve.difference(1000, 300), curve.gain(10)
    assert beyond.high - beyond.low > 2 * (inside.high - inside.low)


def test_ranks_that_agree_share_their_shape_and_narrow_each_other():
    rng = np.random.default_rng(5)
    sizes = [100, 300, 1000, 3000]
    curves = {r: [law(n, a) + rng.normal(0, 0.7) for n in sizes] for r, a in ((1, 70), (4, 75), (16, 78), (64, 78))}
    together = fit_curves({r: Series(sizes, scores) for r, scores in curves.items()}, (0, 100), rises=True)
    alone = {r: fit_curve(sizes, scores, bounds=(0, 100), rises=True) for r, scores in curves.items()}
    width = lambda found: np.mean([found[r].gain(10).high - found[r].gain(10).low for r in curves])  # noqa: E731
    assert width(together) < 0.85 * width(alone)
    assert all(together[r].gain(10).low <= law(30_000) - law(3000) <= together[r].gain(10).high for r in curves)


def test_every_law_runs_between_the_scores_at_both_ends_and_beyond_them_as_its_shape_says():
    laws = laws_between(100.0, 3000.0)
    at = laws.coefficients([100.0, 3000.0])
    assert np.allclose(at[:, 0], [1, 0, 0], atol=1e-9)
    flat = laws.kinds == list(WEIGHTS).index("flat")
    assert np.allclose(at[~flat, 1], [0, 1, 0], atol=1e-9)
    beyond = laws.coefficients([30_000.0])[~flat, 0, 1]
    assert (beyond >= 1 - 1e-9).all(), "none turns round"
    assert np.exp(laws.log_prior).sum() == pytest.approx(1)


def test_perplexity_falls():
    curve = sweep(lambda n: float(law(n, 3, -40, 0.5)), noise=0.02, rises=False)
    assert curve.gain(10).high < 0
    assert curve.size_for(3.2).estimate == pytest.approx(200**2, rel=0.3)
    assert curve.size_for(2.0).estimate is None


def test_a_curve_stays_on_its_scale():
    curve = sweep(lambda n: 10 + 22 * math.log(n / 40), sizes=[40, 100, 300, 1000], bounds=(0, 100), rises=True)
    ahead = curve.predict(10_000)
    assert ahead.high <= 100 and curve.gain(10).estimate <= 100 - curve.predict(1000).estimate + 1


def test_bounds_are_kept():
    curve = sweep(lambda n: float(law(n, 104, 150, 0.3)), noise=1.0, bounds=(0, 100))
    assert curve.predict(10**7).high <= 100


def test_the_size_for_a_target_comes_with_its_interval_and_its_limits():
    curve = sweep(bounds=(0, 100))
    need = curve.size_for(70.0)
    assert need.low < (10 / 150) ** -2.5 < need.high
    assert curve.size_for(20.0).estimate == 100  # the smallest size does
    unreachable = curve.size_for(99.0)
    assert unreachable.estimate is None and unreachable.chance < 0.1
    assert messages.describe_size(curve, 99).startswith("Examples for 99: ")


@pytest.mark.parametrize("rises", [True, False])
def test_a_target_is_approached_from_the_side_that_the_metric_says(rises):
    """Flat scores that happen to move away from the target have not passed it."""
    scores = [62.0, 61.5, 61.0] if rises else [61.0, 61.5, 62.0]
    curve = fit_curve([100, 300, 1000], scores, bounds=(0, 100), rises=rises)
    assert curve.size_for(90.0 if rises else 30.0).estimate is None
    assert curve.size_for(50.0 if rises else 80.0).estimate == 100


def test_the_sentences_name_what_more_data_buys():
    lines = messages.describe_curve(sweep(bounds=(0, 100)), target=78.0)
    assert lines[0].startswith("Twice the data, 20,000 examples: +") and lines[0].endswith(
        "largest size tried, 10,000."
    )
    assert lines[1].startswith("Ten times the data, 100,000 examples: +2.")
    assert lines[2].startswith("Examples for 78: ") and lines[2].endswith("beyond the largest size tried.")


@pytest.mark.parametrize(
    "sizes, scores, message",
    [
        ([100, 200], [1.0], "one size per run"),
        ([0, 100], [1.0, 2.0], "the untuned model is not a point of the curve"),
        ([100, 200], [1.0, math.nan], "scores: 1 of 2 are NaN"),
        ([100, 200], [{"a": 1.0}, {"b": 1.0}], "answered different items"),
    ],
)
def test_bad_input_is_refused(sizes, scores, message):
    with pytest.raises(ValueError, match=message):
        fit_curve(sizes, scores)


def test_the_same_twice():
    assert sweep() == sweep()
