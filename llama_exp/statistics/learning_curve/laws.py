"""The laws that a learning curve may follow, each reduced to three linear parameters.

    f(n) = u0 + (u1 - u0) h(n) + e bump(n)      h(first size) = 0, h(last size) = 1

u0 and u1 are the scores at the smallest and the largest size, whatever the law, so that the laws share one prior and
differ in shape alone: how the curve runs between the ends, and what it does beyond. `e` is used by the broken line.

    flat          no effect
    power         a - b n^-c, with the logarithm at c = 0 (Hestness et al. 2017; Kaplan et al. 2020)
    exponential   a - b exp(-n / t)
    logistic      in log n: a + b / (1 + (m / n)^k), with a floor and a plateau (MMF in Mohr et al. 2022)
    plateau       a logarithm that ends at a size
    broken        a logarithm whose slope changes at a size (Caballero et al. 2023)

The prior weights follow the learning-curve database (Mohr, Viering, Loog & van Rijn 2022, "LCDB 1.0"; Viering & Loog
2021), where power laws with an offset and MMF fit and extrapolate best and exponentials worse; exponents c of
fine-tuning lie between 0.02 and 0.3 for adapters' losses (Zhang et al. 2024, "When Scaling Meets LLM Finetuning") and
up to about 1 for accuracies, so large ones weigh less.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

WEIGHTS = {"flat": 0.06, "power": 0.32, "exponential": 0.20, "logistic": 0.22, "plateau": 0.12, "broken": 0.08}
EXPONENTS = 3.0 * np.linspace(0.0, 1.0, 61) ** 2  # of the power law: 0 (a logarithm, no plateau) to 3
TYPICAL_EXPONENT = 0.7  # exponents weigh exp(-c / this)
STEEPNESS = (0.9, 1.1, 1.35, 1.65, 2.0, 2.5, 3.2, 4.0)  # of the logistic, k
AHEAD = 10.0  # a curve's turn may lie up to so many times beyond the largest size
TURNS = 24  # turning sizes on the grid


@dataclass(frozen=True, slots=True)
class Laws:
    """J shapes on a grid, for one range of sizes.

    first, last   the smallest and the largest size
    kinds         (J,) index into WEIGHTS
    parameters    (J, 2) c; t; m and k; the turning size
    log_prior     (J,)
    """

    first: float
    last: float
    kinds: np.ndarray
    parameters: np.ndarray
    log_prior: np.ndarray

    def coefficients(self, sizes, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(J', N, 3) what u0, u1 and e are multiplied with at each size, for the chosen laws."""
        n = np.atleast_1d(np.asarray(sizes, dtype=np.float64))
        grid = np.concatenate([n, [self.first, self.last]])
        kinds, parameters = self.kinds[chosen], self.parameters[chosen]
        shape = np.zeros((len(kinds), len(grid)))
        bump = np.zeros_like(shape)
        for index, kind in enumerate(WEIGHTS):
            mine = kinds == index
            if mine.any() and kind != "flat":
                shape[mine] = SHAPES[kind](grid, *parameters[mine].T[..., None])
                if kind == "broken":
                    bump[mine] = _bump(grid, self.first, self.last, parameters[mine][:, :1])
        start, end = shape[:, -2:-1], shape[:, -1:]
        rise = np.where(end > start, end - start, 1.0)
        h = (shape[:, :-2] - start) / rise
        return np.stack([1 - h, h, bump[:, :-2]], axis=-1)


def refined(laws: Laws, likely: np.ndarray) -> Laws:
    """The same families on grids of as many shapes, between the neighbours of those that are `likely` (J,).

    Precise points leave few shapes of the first grid, and the truth lies between two of them. A family keeps the prior
    weight that it had in its range.
    """
    parts = [_refined_family(laws, np.flatnonzero(laws.kinds == kind), likely) for kind in range(len(WEIGHTS))]
    kinds, parameters, prior = (np.concatenate(one) for one in zip(*parts, strict=True))
    return Laws(laws.first, laws.last, kinds, parameters, prior)


def _refined_family(laws: Laws, mine: np.ndarray, likely: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(kinds, parameters, log prior) of one family between the neighbours of its likely shapes."""
    hits, old = mine[likely[mine]], laws.parameters[mine]
    if not len(hits) or len(mine) == 1:
        return laws.kinds[mine], old, laws.log_prior[mine]
    axes = [_between_neighbours(np.unique(old[:, i]), laws.parameters[hits, i]) for i in range(2)]
    new = np.stack([grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")], axis=1)
    inside = mine[((old >= new.min(axis=0)) & (old <= new.max(axis=0))).all(axis=1)]
    # The density of the first grid depends on its first parameter alone (the exponent); others are even.
    density = np.interp(new[:, 0], laws.parameters[inside, 0], laws.log_prior[inside])
    density += special.logsumexp(laws.log_prior[inside]) - special.logsumexp(density)
    return np.full(len(new), laws.kinds[mine[0]]), new, density


def _between_neighbours(grid: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """As many values as the grid has, spread as it is, from below the smallest likely one to above the largest."""
    first, last = np.searchsorted(grid, [likely.min(), likely.max()])
    low, high = grid[max(first - 1, 0)], grid[min(last + 1, len(grid) - 1)]
    # Exponents are spread evenly by their square root and may be 0; turns and steepness by their logarithm.
    return np.linspace(low**0.5, high**0.5, len(grid)) ** 2 if grid[0] == 0 else np.geomspace(low, high, len(grid))


def laws_between(first: float, last: float) -> Laws:
    """The grid of laws whose turns lie between the smallest size and AHEAD times the largest."""
    turns = np.geomspace(first / 2, last * AHEAD, TURNS)
    inside = np.geomspace(first, last, 9)[1:-1]
    grids = {
        "flat": [(0.0, 0.0)],
        "power": [(c, 0.0) for c in EXPONENTS],
        "exponential": [(t, 0.0) for t in turns],
        "logistic": [(m, k) for m in turns for k in STEEPNESS],
        "plateau": [(m, 0.0) for m in np.geomspace(first * 1.3, last * AHEAD, TURNS)],
        "broken": [(m, 0.0) for m in inside],
    }
    kinds, rows, prior = [], [], []
    for index, (kind, grid) in enumerate(grids.items()):
        weight = np.exp(-EXPONENTS / TYPICAL_EXPONENT) if kind == "power" else np.ones(len(grid))
        kinds += [index] * len(grid)
        rows += grid
        prior += list(np.log(WEIGHTS[kind] * weight / weight.sum()))
    return Laws(first, last, np.array(kinds), np.array(rows), np.array(prior))


def _power(n, c, _):
    log = np.log(n / n.max())
    safe = np.where(c == 0, 1.0, c)
    return np.where(c == 0, log, -np.expm1(-safe * log) / safe)


def _exponential(n, t, _):
    return -np.exp(-n / t)


def _logistic(n, m, k):
    return 1 / (1 + (m / n) ** k)


def _plateau(n, m, _):
    return np.log(np.minimum(n, m))


def _broken(n, m, _):
    return np.log(n) + 0 * m


SHAPES = {"power": _power, "exponential": _exponential, "logistic": _logistic, "plateau": _plateau, "broken": _broken}


def _bump(n, first: float, last: float, turn):
    """1 at the turn, 0 at both ends, straight in log n, and straight on beyond the last size."""
    up = np.log(n / first) / np.log(turn / first)
    down = np.log(last / n) / np.log(last / turn)
    return np.where(n < turn, up, down)
