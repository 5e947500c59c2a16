"""From the runs of a sweep to a `Curve`, or to a refusal that says in words what they do not identify.

sizes, scores -> tabulate -> points (noise.py) -> fit every exponent (profile.py) -> tests -> Curve (curves.py)
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from math import sqrt

import numpy as np
from scipy import special

from .curves import Check, Curve
from .noise import Points, points, tabulate
from .profile import EXPONENTS, Profile, contrast, fit, fit_exponents
from .words import number, plus_minus

# Three points fix a, b and c exactly, so with three nothing would show a wrong law.
FEWEST = 4
SURE = 0.99


def fit_curve(
    sizes: Sequence[int],
    scores: Sequence[float] | Sequence[Mapping[str, float]],
    groups: Mapping[str, Hashable] | None = None,
    data_seeds: Sequence[int] | None = None,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
) -> Curve:
    """Fit the law to runs: run r was trained on sizes[r] examples and scored scores[r].

    scores      id -> score for each run (then the test set's noise counts, by group), or one number for each run (then
                only the spread of runs counts, and the intervals hold for these test items)
    data_seeds  which sample each run drew; runs with the same size and data seed are averaged. Where every data seed
                was run at every size, luck that a draw carries through all sizes is taken into account
    A metric that falls (perplexity) gives a falling curve, b < 0. Never raises for points that are too few or too
    noisy: the Curve then says so in `refusal`.
    """
    found = points(tabulate(sizes, scores, groups, data_seeds))
    return fit_points(found, bounds, confidence)


def fit_points(found: Points, bounds: tuple[float, float] | None = None, confidence: float = 0.95) -> Curve:
    """`fit_curve` from means and their covariance."""
    count = len(found.sizes)
    if count < FEWEST:
        return _refused(found, bounds, confidence, _too_few(found.sizes))
    profile, critical, misfit_p, noisy = _fitted(found, confidence)
    flat = _no_rise(found)
    if flat:
        return _refused(found, bounds, confidence, flat)
    best, allowed = profile.best, profile.exponents[profile.allowed(critical)]
    c, (alpha, beta) = float(profile.exponents[best]), profile.lines[best]
    a, b = (None, None) if c == 0 else (float(alpha + beta / c), float(beta / c * profile.centre**c))
    return _curve(
        noisy, bounds, confidence, a=a, b=b if b is not None else float(beta), c=c, c_low=float(allowed[0]),
        c_high=float(allowed[-1]), critical=critical, misfit_p=misfit_p, check=_check(found, confidence),
    )  # fmt: skip


def _fitted(found: Points, confidence: float) -> tuple[Profile, float, float | None, Points]:
    """The profile, its critical value and the test of fit. Without repeated runs their noise is read off the residuals.

    In that case t has as few degrees of freedom as there are sizes to spare, for the test set's noise too: the
    intervals are then wider than they need be.
    """
    spare = len(found.sizes) - 3
    critical = float(special.stdtrit(max(found.df or spare, 1.0), (1 + confidence) / 2))
    if found.df > 0:
        profile = fit(found.sizes, found.means, found.variances, found.covariance, critical)
        p = float(special.fdtrc(spare, found.df, profile.misfit.min() / spare)) if spare > 0 else None
        return profile, critical, p, found
    even = np.ones(len(found.sizes))
    residual = fit_exponents(EXPONENTS, found.sizes, found.means, even, found.covariance).misfit.min() / spare
    run = np.maximum(residual - found.variances, 0.0)
    noisy = replace(found, variances=found.variances + run, covariance=found.covariance + np.diag(run), df=float(spare))
    return fit(noisy.sizes, noisy.means, noisy.variances, noisy.covariance, critical), critical, None, noisy


def _no_rise(found: Points) -> str:
    """In words, that the score may not depend on n at all; "" when it does.

    At 99 %: the exponent was picked to fit, so at 95 % more than one flat curve in twenty passes (Davies 1987).
    """
    profile, critical, _, found = _fitted(found, SURE)
    change = contrast(profile, lambda z: (0.0, z(found.sizes[-1:]) - z(found.sizes[:1])))
    rise, low, high = profile.band(change, critical)
    if not low[0] <= 0 <= high[0]:
        return ""
    return (
        f"from n = {found.sizes[0]:,.0f} to {found.sizes[-1]:,.0f} the score changes by "
        f"{plus_minus(rise[0], low[0], high[0], sign=True)} ({SURE * 100:.0f} % interval), "
        "which could be no change at all"
    )


def _check(found: Points, confidence: float) -> Check | None:
    """Predict the largest size from the others; None when they are too few to do it."""
    count = len(found.sizes) - 1
    if count < 3 or (found.df == 0 and count < FEWEST):
        return None
    rest, full = found.first(count), found.covariance
    profile, critical, _, rest = _fitted(rest, confidence)
    if found.df == 0:
        full = full + np.diag(np.full(count + 1, np.mean(rest.variances - found.variances[:count])))
    at = profile.z(found.sizes[-1:])[:, 0]  # (C,)
    weights = profile.operators[:, 0] + profile.operators[:, 1] * at[:, None]  # (C, K - 1)
    predicted, measured = profile.lines[:, 0] + profile.lines[:, 1] * at, float(found.means[-1])
    both = np.concatenate([weights, -np.ones((len(at), 1))], axis=1)  # prediction minus measurement
    gap, low, high = profile.surprise(both, predicted - measured, full, critical)
    return Check(
        int(found.sizes[-1]), float(gap + measured), float(low + measured), float(high + measured), measured,
        bool(low <= 0 <= high),
    )  # fmt: skip


def _too_few(sizes: np.ndarray) -> str:
    shown = ", ".join(f"{size:,.0f}" for size in sizes)
    advice = ""
    if len(sizes) > 1:
        gap = int(np.diff(np.log(sizes)).round(6).argmax())
        between = number(sqrt(sizes[gap] * sizes[gap + 1]))
        advice = f". Add a size between, such as {between}"
        if len(sizes) < FEWEST - 1:
            advice = f". Add sizes, such as {between} and {number(2 * sizes[-1])}"
    return (
        f"at least {FEWEST} sizes are needed, three to draw the curve and one to see whether it holds; "
        f"there {'is' if len(sizes) == 1 else 'are'} {len(sizes)} ({shown}){advice}"
    )


def _refused(found: Points, bounds: tuple[float, float] | None, confidence: float, why: str) -> Curve:
    return _curve(
        found, bounds, confidence, a=None, b=None, c=None, c_low=None, c_high=None, critical=0.0, misfit_p=None,
        check=None, refusal=why,
    )  # fmt: skip


def _curve(found: Points, bounds: tuple[float, float] | None, confidence: float, **fields) -> Curve:
    return Curve(
        sizes=tuple(int(size) for size in found.sizes),
        scores=tuple(map(float, found.means)),
        variances=tuple(map(float, found.variances)),
        covariance=tuple(tuple(map(float, row)) for row in found.covariance),
        bounds=bounds,
        confidence=confidence,
        **fields,
    )
