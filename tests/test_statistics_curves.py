"""Learning curves: known laws are found again, and what the points do not show is refused with a reason."""

import math

import numpy as np
import pytest

from llama_exp.statistics import fit_curve, messages

FIVE = [100, 300, 1000, 3000, 10000]


def law(n, a=80.0, b=150.0, c=0.4):
    return a - b * np.asarray(n, dtype=float) ** -c


def sweep(truth=law, sizes=FIVE, draws=3, noise=0.5, seed=2, **options):
    """Runs of every size with every data seed, as one score each."""
    rng = np.random.default_rng(seed)
    runs = [(size, draw) for size in sizes for draw in range(draws)]
    scores = [float(truth(size)) + rng.normal(0, noise) for size, _ in runs]
    return fit_curve([s for s, _ in runs], scores, data_seeds=[d for _, d in runs] if draws > 1 else None, **options)


def test_a_noiseless_law_is_found_again():
    curve = sweep(noise=1e-4)
    assert (curve.a, curve.b, curve.c) == pytest.approx((80, 150, 0.4), rel=2e-2)
    assert curve.predict(40_000).estimate == pytest.approx(law(40_000), abs=0.02)
    assert curve.gain(10).estimate == pytest.approx(law(100_000) - law(10_000), abs=0.02)
    assert curve.size_for(77.0).estimate == pytest.approx((3 / 150) ** -2.5, rel=0.02)
    assert curve.plateau().estimate == pytest.approx(80, abs=0.2)
    assert curve.trusted and curve.check.agrees and curve.check.size == 10_000


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


@pytest.mark.parametrize(
    "sizes, why",
    [
        (
            [1000],
            "at least 4 sizes are needed, three to draw the curve and one to see whether it holds; there is 1 (1,000)",
        ),
        ([100, 1000, 10_000], "there are 3 (100, 1,000, 10,000). Add a size between, such as 320"),
    ],
)
def test_too_few_sizes_are_refused_with_a_size_to_add(sizes, why):
    curve = sweep(sizes=sizes)
    assert why in curve.refusal and curve.a is None and not curve.trusted
    assert messages.describe_curve(curve) == [f"No learning curve: {curve.refusal}."]
    with pytest.raises(ValueError, match="this curve was refused"):
        curve.predict(10)


def test_a_flat_curve_is_refused():
    assert "which could be no change at all" in sweep(lambda n: 60.0).refusal


def test_a_law_that_does_not_hold_comes_first():
    curve = sweep(lambda n: 60.0 + 12.0 * (n > 3000), noise=0.3)
    lines = messages.describe_curve(curve)
    assert not curve.trusted and curve.misfit_p < 0.05 and not curve.check.agrees
    assert lines[0].startswith(
        "The points do not follow a - b n^(-c) (p < 0.001): the gain from more data cannot be estimated"
    )
    assert "do not trust this curve beyond its points" in lines[1] and len(lines) == 2


def test_a_logarithm_has_no_plateau_to_name():
    curve = sweep(lambda n: 20 + 5 * math.log(n), bounds=(0, 100))
    assert curve.plateau().low is None and "do not bend enough" in curve.plateau().note
    assert curve.predict(40_000).low <= 20 + 5 * math.log(40_000) <= curve.predict(40_000).high


def test_one_run_per_size_estimates_its_noise_from_the_fit_and_reports_that_it_is_untested():
    curve = sweep(sizes=[100, 200, 500, 1000, 3000, 10_000], draws=1)
    assert curve.misfit_p is None
    assert any("there is one run per size" in line for line in messages.describe_curve(curve))
    assert curve.check.agrees and sweep(sizes=[100, 500, 2000, 10_000], draws=1, noise=0.01).check is None
    jump = sweep(lambda n: 60 + 0.001 * n**0.1 + 12.0 * (n > 5000), [100, 200, 500, 1000, 2000, 5000, 10_000], 1, 0.1)
    assert jump.refusal or not jump.trusted


def test_perplexity_falls():
    curve = sweep(lambda n: float(law(n, 3, -40, 0.5)), noise=0.02)
    assert curve.b < 0 and curve.gain(10).high < 0
    assert curve.size_for(3.2).estimate == pytest.approx(200**2, rel=0.3)
    assert curve.size_for(2.0).low is None


def test_a_curve_that_would_leave_its_scale_promises_no_gain():
    curve = sweep(lambda n: 10 + 22 * math.log(n / 40), sizes=[40, 100, 300, 1000], bounds=(0, 100))
    assert curve.trusted and curve.leaves_scale([1000, 10_000]) == [False, True]
    sentence = messages.describe_gain(curve, 10.0)
    assert (
        sentence.startswith("The curve would leave the scale (0 to 100) before ten times the data, n = 10,000")
        and "+" not in sentence
    )
    assert messages.describe_gain(curve, 2.0).startswith("Twice the data buys +")


def test_bounds_are_kept():
    curve = sweep(lambda n: float(law(n, 104, 150, 0.3)), noise=1.0, bounds=(0, 100))
    assert curve.predict(10**7).high <= 100


def test_the_size_for_a_target_comes_with_its_interval_and_its_limits():
    curve = sweep()
    need = curve.size_for(70.0)
    assert need.low < (10 / 150) ** -2.5 < need.high
    assert curve.size_for(20.0).estimate == 100  # the smallest size does
    unreachable = curve.size_for(95.0)
    assert unreachable.low is None and "ends short" in unreachable.note
    assert messages.describe_size(curve, 95).startswith("n for 95: not within 10,000,000 examples by this curve")


def test_the_sentences_name_what_more_data_buys():
    lines = messages.describe_curve(sweep(), target=78.0)
    assert lines[0].startswith("Ten times the data buys +2.") and "largest size tried, n = 10,000" in lines[0]
    assert lines[1].startswith("n for 78: ") and lines[1].endswith("beyond the largest n tried.")
    assert lines[-1].startswith("Fitted without n = 10,000, the curve predicts ") and "as predicted" in lines[-1]


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
