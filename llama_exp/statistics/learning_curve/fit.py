"""From the runs of a sweep to a `LearningCurve`, or to a refusal that says what they do not identify.

sizes, scores -> tabulate -> estimate_points (noise.py) -> fit every exponent (profile.py) -> tests -> LearningCurve
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
from scipy import special

from llama_exp.statistics import messages
from llama_exp.statistics.learning_curve.curve import HoldoutCheck, LearningCurve
from llama_exp.statistics.learning_curve.noise import Points, estimate_points, tabulate
from llama_exp.statistics.learning_curve.profile import EXPONENTS, Profile, contrast, fit, fit_exponents

FEWEST = 4  # three points fix a, b and c exactly, so with three nothing would show a wrong law
# Level of the test that the score changes at all. At 95 % more than one flat curve in twenty passes, because the
# exponent was picked to fit (Davies 1987).
FLAT_CONFIDENCE = 0.99


def fit_curve(
    sizes: Sequence[int],
    scores: Sequence[float] | Sequence[Mapping[str, float]],
    groups: Mapping[str, Hashable] | None = None,
    data_seeds: Sequence[int] | None = None,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> LearningCurve:
    """Fit the law to runs: run r was trained on sizes[r] examples and has the score scores[r].

    scores      id -> score for each run (then the test set's noise counts, by group), or one number for each run (then
                only the spread of runs counts, and the intervals hold for these test items)
    data_seeds  which sample each run drew; runs with the same size and data seed are averaged. Where every data seed
                was run at every size, the luck of a draw at all sizes is taken into account
    A metric that falls (perplexity) gives a falling curve, b < 0. Points that are too few or too noisy raise nothing:
    the curve then has a `refusal`.
    """
    points = estimate_points(tabulate(sizes, scores, groups, data_seeds))
    return fit_points(points, bounds, confidence)


def fit_points(points: Points, bounds: tuple[float, float] | None = None, confidence: float = 0.95) -> LearningCurve:
    """`fit_curve` from means and their covariance."""
    if len(points.sizes) < FEWEST:
        return _curve(points, bounds, confidence, refusal=_too_few(points.sizes))
    profile, critical, misfit_p, noisy = _fit(points, confidence)
    flat = _flat(points)
    if flat:
        return _curve(points, bounds, confidence, refusal=flat)
    best, allowed = profile.best, profile.exponents[profile.allowed(critical)]
    c, (alpha, beta) = float(profile.exponents[best]), profile.lines[best]
    a, b = (None, beta) if c == 0 else (float(alpha + beta / c), beta / c * profile.centre**c)
    return _curve(
        noisy,
        bounds,
        confidence,
        a=a,
        b=float(b),
        c=c,
        c_low=float(allowed[0]),
        c_high=float(allowed[-1]),
        critical=critical,
        misfit_p=misfit_p,
        check=_predict_largest(points, confidence),
    )


def _fit(points: Points, confidence: float) -> tuple[Profile, float, float | None, Points]:
    """The profile, its critical value, the p-value of the fit, and the points with all their noise.

    Without repeated runs their noise is estimated from the residuals. In that case t has as few degrees of freedom as
    there are sizes to spare, for the test set's noise too: the intervals are then wider than they need be.
    """
    spare = len(points.sizes) - 3
    critical = float(special.stdtrit(max(points.df or spare, 1.0), (1 + confidence) / 2))
    if points.df > 0:
        profile = fit(points.sizes, points.means, points.variances, points.covariance, critical)
        p = float(special.fdtrc(spare, points.df, profile.misfit.min() / spare)) if spare > 0 else None
        return profile, critical, p, points
    even = np.ones(len(points.sizes))
    residual = fit_exponents(EXPONENTS, points.sizes, points.means, even, points.covariance).misfit.min() / spare
    run = np.maximum(residual - points.variances, 0.0)
    noisy = replace(
        points, variances=points.variances + run, covariance=points.covariance + np.diag(run), df=float(spare)
    )
    return fit(noisy.sizes, noisy.means, noisy.variances, noisy.covariance, critical), critical, None, noisy


def _flat(points: Points) -> str:
    """Why the score may not depend on n at all; "" when it does."""
    profile, critical, _, points = _fit(points, FLAT_CONFIDENCE)
    change = contrast(profile, lambda z: (0.0, z(points.sizes[-1:]) - z(points.sizes[:1])))
    estimate, low, high = (float(part[0]) for part in profile.band(change, critical))
    if not low <= 0 <= high:
        return ""
    return messages.flat_curve(points.sizes, (estimate, low, high), FLAT_CONFIDENCE)


def _predict_largest(points: Points, confidence: float) -> HoldoutCheck | None:
    """Predict the largest size from the others; None when they are too few to do it."""
    count = len(points.sizes) - 1
    if count < 3 or (points.df == 0 and count < FEWEST):
        return None
    rest, full = points.first(count), points.covariance
    profile, critical, _, rest = _fit(rest, confidence)
    if points.df == 0:
        full = full + np.diag(np.full(count + 1, np.mean(rest.variances - points.variances[:count])))
    at = profile.z(points.sizes[-1:])[:, 0]  # (C,)
    weights = profile.operators[:, 0] + profile.operators[:, 1] * at[:, None]  # (C, K - 1)
    predicted, measured = profile.lines[:, 0] + profile.lines[:, 1] * at, float(points.means[-1])
    both = np.concatenate([weights, -np.ones((len(at), 1))], axis=1)  # prediction minus measurement
    gap, low, high = profile.interval(both, predicted - measured, full, critical)
    return HoldoutCheck(
        size=int(points.sizes[-1]),
        predicted=gap + measured,
        low=low + measured,
        high=high + measured,
        measured=measured,
        agrees=low <= 0 <= high,
    )


def _too_few(sizes: np.ndarray) -> str:
    """Why there is no curve, with a size to add: the middle of the widest gap on the logarithmic scale."""
    gap = int(np.diff(np.log(sizes)).round(6).argmax()) if len(sizes) > 1 else 0
    return messages.too_few_sizes(sizes, FEWEST, between=sqrt(sizes[gap] * sizes[min(gap + 1, len(sizes) - 1)]))


def _curve(
    points: Points,
    bounds: tuple[float, float] | None,
    confidence: float,
    *,
    refusal: str = "",
    a: float | None = None,
    b: float | None = None,
    c: float | None = None,
    c_low: float | None = None,
    c_high: float | None = None,
    critical: float = 0.0,
    misfit_p: float | None = None,
    check: HoldoutCheck | None = None,
) -> LearningCurve:
    return LearningCurve(
        sizes=tuple(int(size) for size in points.sizes),
        scores=tuple(map(float, points.means)),
        a=a,
        b=b,
        c=c,
        c_low=c_low,
        c_high=c_high,
        critical=critical,
        variances=tuple(map(float, points.variances)),
        covariance=tuple(tuple(map(float, row)) for row in points.covariance),
        misfit_p=misfit_p,
        check=check,
        refusal=refusal,
        bounds=bounds,
        confidence=confidence,
    )
