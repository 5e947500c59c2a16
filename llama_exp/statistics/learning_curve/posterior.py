"""What the points say about every law: weights, scores at the ends, and draws of whole curves.

    means = f(sizes) + noise,   noise covariance = test set + shared draws + s^2 runs + d^2

s, the scatter of one run, is known as well as repeated runs show it, and has a weak prior otherwise; d is how far the
true curve may lie off every law. For each law, s and d the model is linear and Gaussian, so weights are exact sums over
a grid; nothing is iterated, and the same points give the same draws. Averages over laws are as wide as the laws
disagree (Hoeting et al. 1999, "Bayesian Model Averaging").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from llama_exp.statistics.learning_curve.laws import AHEAD, Laws
from llama_exp.statistics.learning_curve.noise import Points
from llama_exp.statistics.single_runs import LOG_SCATTER_SPREAD, TYPICAL_SCATTER, run_variances

RUN_SCATTERS = 0.0625 * 2.0 ** np.arange(11)  # s, in units of its prior median
TYPICAL_SCATTER_OF_RANGE = 0.05  # prior median of s where the scale has no ends, as a share of the points' range
FARTHEST = 3.0  # ranges of the points beyond them that a score without an end is expected to stay within
MISFITS = np.array([0.0, 0.001, 0.004, 0.012, 0.036])  # d, as shares of the scale
MISFIT_PRIOR = np.array([0.7, 0.15, 0.1, 0.04, 0.01])
FALLING = 0.1  # weight of curves that get worse with more data
CANDIDATES, KEPT = 8192, 2048  # draws before and after those that leave the scale are dropped
UNLIKELY = 12.0  # laws that are e^12 times less likely than the best of their family are left out
SHARED_SHAPE = 0.5  # prior chance that the curves of several ranks have one shape


@dataclass(frozen=True)
class Draws:
    """D = KEPT curves drawn from the posterior, each as likely as any other.

    laws      (D,) index of each curve's law
    ends      (D, 3) u0, u1, e
    scatters  (D,) s: the standard deviation of one run
    misfits   (D,) d: the standard deviation of the true curve about the law
    """

    laws: np.ndarray
    ends: np.ndarray
    scatters: np.ndarray
    misfits: np.ndarray


@dataclass(frozen=True, slots=True)
class Scale:
    """Where scores can lie, and how far apart they may be expected."""

    low: float
    high: float
    span: float
    centre: float
    width: float
    scatter: float

    @classmethod
    def of(cls, points: Sequence[Points], bounds: tuple[float, float] | None) -> "Scale":
        means = np.concatenate([one.means for one in points])
        spread = max(float(np.ptp(means)), 3 * max(float(np.sqrt(np.diag(one.fixed)).max()) for one in points), 1e-9)
        low, high = bounds if bounds else (-np.inf, np.inf)
        if np.isfinite(high - low):
            span = high - low
            return cls(low, high, span, (low + high) / 2, span / 2, TYPICAL_SCATTER * span)
        low, high = max(low, means.min() - FARTHEST * spread), min(high, means.max() + FARTHEST * spread)
        return cls(low, high, spread, float(means.mean()), 4 * spread, TYPICAL_SCATTER_OF_RANGE * spread)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One rank's points against all laws (J) and noises (S).

    log_weight   (J, S) log p(points | law, noise), without the priors
    centres      (J, S, 3) posterior mean of the ends
    roots        (J, S, 3, 3) Cholesky factors of their posterior covariances
    """

    log_weight: np.ndarray
    centres: np.ndarray
    roots: np.ndarray


@dataclass(frozen=True, slots=True)
class Noises:
    """The grid of noises: (S,) run scatters and misfits, and their log prior."""

    scatters: np.ndarray
    misfits: np.ndarray
    log_prior: np.ndarray


def noise_grid(points: Sequence[Points], scale: Scale) -> Noises:
    """All pairs of s and d; repeated runs of all ranks say how large s is."""
    scatters, misfits = (grid.ravel() for grid in np.meshgrid(scale.scatter * RUN_SCATTERS, MISFITS * scale.span))
    prior = -0.5 * (np.log(scatters / scale.scatter) / LOG_SCATTER_SPREAD) ** 2
    for one in points:
        if one.df > 0:
            prior = prior + stats.chi2.logpdf(one.df * one.run_variance / scatters**2, one.df) - 2 * np.log(scatters)
    prior = prior + np.log(np.repeat(MISFIT_PRIOR, len(RUN_SCATTERS)))
    return Noises(scatters, misfits, prior - special.logsumexp(prior))


def weigh(points: Points, laws: Laws, noises: Noises, scale: Scale) -> Evidence:
    """The evidence of every law under every noise, in closed form."""
    bend = 0.5 * max(float(np.ptp(points.means)), scale.scatter)
    precision = np.array([1 / scale.width**2, 1 / scale.width**2, 1 / bend**2])
    start = np.array([scale.centre, scale.centre, 0.0])
    x = laws.coefficients(points.sizes)  # (J, K, 3)
    scatters, relative = noises.scatters[:, None], np.sqrt(points.profile)
    runs = (scatters * relative) ** 2 if points.df > 0 else run_variances(scatters, relative, scale.span)
    own = runs / points.draws + noises.misfits[:, None] ** 2
    covariance = points.fixed + np.eye(len(points.sizes)) * own[:, None, :]  # (S, K, K)
    inverse = np.linalg.inv(covariance)
    residual = points.means - x @ start  # (J, K)
    hessian = np.einsum("jka,skl,jlb->jsab", x, inverse, x, optimize=True) + np.diag(precision)
    slope = np.einsum("jka,skl,jl->jsa", x, inverse, residual, optimize=True)
    shift = np.linalg.solve(hessian, slope[..., None])[..., 0]
    distance = np.einsum("jk,skl,jl->js", residual, inverse, residual, optimize=True) - (slope * shift).sum(-1)
    log_det = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(hessian)[1] - np.log(precision).sum()
    roots = np.linalg.cholesky(np.linalg.inv(hessian))
    return Evidence(-0.5 * (distance + log_det), start + shift, roots)


def likely_laws(evidence: Sequence[Evidence], laws: Laws, noises: Noises) -> np.ndarray:
    """(J,) whether a law is not out of the question, for any rank and beside the best of its own family."""
    found = np.zeros(len(laws.kinds), bool)
    for one in evidence:
        weight = special.logsumexp(one.log_weight + noises.log_prior, axis=1)
        best = np.array([weight[laws.kinds == kind].max() for kind in laws.kinds])
        found |= weight > best - UNLIKELY
    return found


def posterior_weights(evidence: Sequence[Evidence], laws: Laws, noises: Noises) -> list[np.ndarray]:
    """(J, S) weights for each rank. The noise is shared; the shape is shared as far as the points agree with that."""
    own = [one.log_weight + laws.log_prior[:, None] for one in evidence]
    by_noise = [special.logsumexp(one, axis=0) for one in own]  # (S,)
    apart = noises.log_prior + sum(by_noise)
    joint = laws.log_prior[:, None] + noises.log_prior + sum(one.log_weight for one in evidence)
    together = special.logsumexp(joint) + np.log(SHARED_SHAPE)
    alone = special.logsumexp(apart) + np.log(1 - SHARED_SHAPE)
    share = 0.0 if len(evidence) == 1 else float(np.exp(together - np.logaddexp(together, alone)))
    found = []
    for one, total in zip(own, by_noise, strict=True):
        separate = one - total + apart  # law given noise, times noise given all ranks
        mixed = (1 - share) * _normalised(separate) + share * _normalised(joint)
        found.append(mixed)
    return found


def _normalised(logs: np.ndarray) -> np.ndarray:
    return np.exp(logs - special.logsumexp(logs))


def draw(
    weights: np.ndarray, evidence: Evidence, laws: Laws, noises: Noises, scale: Scale, rises: bool | None, seed: int = 0
) -> Draws:
    """Curves from the posterior; those that leave the scale within AHEAD times the largest size are dropped.

    `seed` differs between ranks, so that their draws, in order, are independent.
    """
    rng = np.random.default_rng(seed)
    law, noise = np.divmod(_systematic(weights.ravel(), CANDIDATES), weights.shape[1])
    z = rng.standard_normal((CANDIDATES, 3))
    ends = evidence.centres[law, noise] + np.einsum("dab,db->da", evidence.roots[law, noise], z)
    watched = np.geomspace(laws.first, laws.last * AHEAD, 12)
    values = np.einsum("dna,da->dn", laws.coefficients(watched, law), ends)
    inside = ((values >= scale.low) & (values <= scale.high)).all(axis=1)
    if not inside.any():  # the points lie at an end of the scale: what leaves it is cut off when it is read
        inside[:] = True
    change = values[:, -1] - values[:, 0]
    unlikely = np.zeros(CANDIDATES, bool) if rises is None else change < 0 if rises else change > 0
    kept = rng.permutation(_systematic(inside * np.where(unlikely, FALLING, 1.0), KEPT))
    return Draws(law[kept], ends[kept], noises.scatters[noise[kept]], noises.misfits[noise[kept]])


def _systematic(weights: np.ndarray, count: int) -> np.ndarray:
    """(count,) indices, each as often as its weight says, but for rounding."""
    edges = np.cumsum(weights)
    return np.searchsorted(edges, (np.arange(count) + 0.5) / count * edges[-1])
