"""Which cells of a sweep share the first place, by comparing them item by item.

    difference of two cells = mean over all runs of the one - mean over all runs of the other, as printed
    its variance            = test set (paired by item) + runs (run_effects.py)
    p-values of all pairs, Holm -> the best, what does not differ significantly from it, what is worse

Cells are compared as *recipes*: a lucky seed does not make a better rank. What two cells' runs share (a data seed and a
seed) cancels as far as it is in both means; the other runs count with all their luck. Each pair's own scatter is shrunk
towards that of the whole sweep (Smyth 2004, "Linear models and empirical Bayes"; learning curves do the same), and a
pair without repeated runs has that of the sweep alone. The scatter of runs is assumed (single_runs.py) where no cell of
the sweep has repeats, and for a cell of one run and few examples beside repeated cells of many.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import optimize, special

from llama_exp.statistics import messages
from llama_exp.statistics.clusters import Clusters, finite_array, robust_variance, satterthwaite_df
from llama_exp.statistics.comparisons import Difference, cluster_difference, difference_p_value, holm
from llama_exp.statistics.intervals import clip_to_bounds
from llama_exp.statistics.run_effects import NOTHING_SHOWN, RunEffects, RunVariance
from llama_exp.statistics.single_runs import SingleRuns, run_variances, typical_scatters
from llama_exp.statistics.two_sources import TwoSources
from llama_exp.statistics.variance import RunSums
from llama_exp.statistics.winner import Winner, correct_winner

LEVEL, POWER = 0.05, 0.8
PRIOR = 4.0  # largest weight, in degrees of freedom, of a small sweep's scatter in each pair's own
FARTHER = 1.2  # times: one run that is expected to scatter so much farther than those repeated is not judged by them
METHOD = "paired by item, CR2 plus between-run variance"


@dataclass(frozen=True, slots=True)
class Contender:
    """A cell's runs on the same items: sums by group.

    runs   (data seed, seed) of each row of `sums`
    fixed  nothing was trained, so no run is luckier than another (the untuned model)
    relative_scatter  how far its runs are expected to scatter, relative to runs of 1,000 examples
    """

    key: Hashable
    sums: RunSums
    runs: tuple[tuple[int, int], ...]
    fixed: bool = False
    relative_scatter: float = 1.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best contender, and how each of the others compares with it. All are named by their keys, best first.

    tied          no significant difference from the best
    worse         significantly worse
    better        significantly better, which none is where the best was chosen by these items
    against       {key: (best minus that one, its p-value adjusted by Holm over all pairs)}
    detectable    the smallest true difference from the best that such an evaluation finds with a chance of 80 %
    beyond_scale  there is none within the scale
    runs          the fewest runs of a cell that was trained
    repeated      whether the scatter of runs is measured: some cell has several. Else it is assumed
    winner        the best one's score, corrected for having been chosen by these items; None for one cell or no scatter
                  and where other items chose it
    refused       (key, reason) of what was left out, because it answered other items
    """

    best: Hashable
    tied: tuple[Hashable, ...]
    worse: tuple[Hashable, ...]
    better: tuple[Hashable, ...]
    against: dict[Hashable, tuple[Difference, float]]
    detectable: float | None
    beyond_scale: bool
    runs: int
    repeated: bool
    winner: Winner | None = None
    refused: tuple[tuple[Hashable, str], ...] = ()


def rank_cells(
    contenders: Sequence[Contender],
    limits: tuple[float, float] = (-math.inf, math.inf),
    scatters: np.ndarray | None = None,
    chosen_here: bool = True,
    lower_is_better: bool = False,
) -> Ranking:
    """Compare all pairs of contenders, given best first; they must have answered the same items in the same groups.

    limits    where scores can lie: no difference longer than that is called detectable
    scatters  equally likely standard deviations of a run of 1,000 examples, used where no cell has several runs;
              None: typical ones
    chosen_here  whether the first is the best by these items; else it was chosen by others, such as validation
    """
    for one in contenders:
        finite_array(f"scores of {one.key}", one.sums.sums.ravel())
    pairs = list(combinations(range(len(contenders)), 2))
    span = _span(contenders, limits)
    sweep = Sweep(contenders, typical_scatters(span) if scatters is None else scatters, span)
    sources = [sweep.sources(*pair) for pair in pairs]
    count = len(contenders) - 1  # combinations() lists the best's pairs first
    p_values = np.array([sweep.p_values(pair, parts) for pair, parts in zip(pairs, sources, strict=True)])
    compared = [sweep.difference(*one) for one in zip(pairs[:count], sources, p_values, strict=False)]
    adjusted = np.mean([holm(one) for one in p_values.T], axis=0) if pairs else np.empty(0)
    keys = [one.key for one in contenders]
    against = {key: (one, float(p)) for key, one, p in zip(keys[1:], compared, adjusted, strict=False)}
    detectable = _detectable(sources[:count], len(pairs))
    sign = -1 if lower_is_better else 1
    apart = {key: sign * one.difference for key, (one, p) in against.items() if p < LEVEL}
    beyond = detectable is not None and detectable >= limits[1] - limits[0]
    return Ranking(
        best=keys[0],
        tied=tuple(key for key, (_, p) in against.items() if p >= LEVEL),
        worse=tuple(key for key, lead in apart.items() if lead >= 0 or chosen_here),
        better=tuple(key for key, lead in apart.items() if lead < 0 and not chosen_here),
        against=against,
        detectable=None if beyond else detectable,
        beyond_scale=beyond,
        runs=min((len(one.runs) for one in contenders if not one.fixed), default=1),
        repeated=sweep.repeated,
        winner=sweep.winner(limits) if chosen_here else None,
    )


def _span(contenders: Sequence[Contender], limits: tuple[float, float]) -> float:
    """Length of the scale; where it has no ends, the size of the scores themselves."""
    span = limits[1] - limits[0]
    return span if math.isfinite(span) else abs(float(np.mean([one.sums.mean.estimate for one in contenders])))


class Sweep:
    """All contenders' runs, and what each pair's difference scatters by.

    own     {pair: what the runs of the two cells alone show}
    common  {pair: what all runs of the sweep show of such a contrast}
    weight  of the sweep's scatter in each pair's own, in degrees of freedom
    """

    def __init__(self, contenders: Sequence[Contender], scatters: np.ndarray, span: float = math.inf):
        trained = [(index, one) for index, one in enumerate(contenders) if not one.fixed]
        rows = [(index, run) for index, one in trained for run in one.runs]
        groups = len(contenders[0].sums.weights)
        self.contenders, self.scatters, self.span = tuple(contenders), scatters, span
        self.means = [one.sums.mean for one in contenders]
        self.effects = RunEffects(
            np.concatenate([np.empty(0), *(one.sums.means for _, one in trained)]),
            np.concatenate([np.empty((0, groups)), *(one.sums.scaled_residuals() for _, one in trained)]),
            np.array([index for index, _ in rows], dtype=int),
            tuple(run for _, run in rows),
        )
        # Whether some cell has several runs, so that their scatter is known.
        self.repeated = any(len(one.runs) > 1 for _, one in trained)
        self.assumed = self._assumed() if self.repeated else []
        pairs = list(combinations(range(len(contenders)), 2)) if self.repeated else []
        self.own = {pair: self._contrast(self.effects.select(pair), *pair) for pair in pairs}
        self.common = {pair: self._contrast(self.effects, *pair) for pair in pairs}
        self.weight = self._prior_weight()

    @staticmethod
    def _contrast(effects: RunEffects, first: int, second: int) -> RunVariance:
        return effects.variance(effects.weights(first) - effects.weights(second))

    def winner(self, limits: tuple[float, float]) -> Winner | None:
        """The first cell's score, corrected for being the best of all."""
        weights, groups = self.means[0].weights, len(self.means[0].weights)
        scores = np.array([one.estimate for one in self.means])
        if len(scores) < 2 or groups < 2 or scores[0] == scores[1]:  # of equal scores none is flattered by the choice
            return None
        sign = 1.0 if scores[0] >= scores[-1] else -1.0  # best first: where the last is higher, lower is better
        residuals = np.stack([one.sums.scaled_residuals().mean(axis=0) for one in self.contenders])
        each = np.stack([self.effects.weights(index) for index in range(len(scores))])
        covariance, test = residuals @ residuals.T, (robust_variance(self.means[0]), satterthwaite_df(weights))
        if self.repeated:
            runs = self.effects.covariance(each)
            covariance = covariance + runs + np.diag(np.maximum(self.assumed - np.diag(runs), 0.0))
            own = self.effects.variance(each[0]).at_least(self.assumed[0], PRIOR)
            parts: TwoSources | SingleRuns = TwoSources(*test, own)
        else:
            luck = np.stack([self._luck(index) for index in range(len(scores))], axis=1)
            luck = luck[_plausible(scores, covariance, luck)]
            covariance = covariance + np.diag(luck.mean(axis=0))
            parts = SingleRuns(*test, luck[:, 0])
        if parts.error <= 0:
            return None
        stretch = parts.reach(LEVEL) / -float(special.ndtri(LEVEL / 2))
        found = correct_winner(sign * scores, covariance, stretch, LEVEL)
        if found is None:
            return None
        low, high = sorted((sign * found.low, sign * found.high))
        low, high = clip_to_bounds(low, high, limits)
        return Winner(min(max(sign * found.estimate, low), high), low, high, found.cells)

    def gap(self, first: int, second: int) -> Clusters:
        """The clusters of the difference of two cells' means over all their runs."""
        one, other = self.means[first], self.means[second]
        return Clusters(one.sums - other.sums, one.weights, one.items)

    def sources(self, first: int, second: int) -> TwoSources | SingleRuns:
        """The variance of a difference: of the test set, and of the runs as the pair and the sweep show them."""
        gap = self.gap(first, second)
        if len(gap.sums) < 2:
            return TwoSources(0.0, 1.0, NOTHING_SHOWN)
        test = robust_variance(gap), satterthwaite_df(gap.weights)
        if self.repeated:
            return TwoSources(*test, self._runs(first, second))
        return SingleRuns(*test, self._luck(first) + self._luck(second))

    def _luck(self, index: int) -> np.ndarray:
        """(S,) assumed variance of a cell's one run."""
        one = self.contenders[index]
        return 0.0 * self.scatters if one.fixed else run_variances(self.scatters, one.relative_scatter, self.span)

    def _assumed(self) -> list[float]:
        """The variance that is assumed of each cell's one run, where the cells with repeats have far more examples."""
        trained = [one for one in self.contenders if not one.fixed]
        repeats = [len(one.runs) - 1 for one in trained]
        usual = float(np.average([one.relative_scatter for one in trained], weights=repeats))
        alone = [
            len(one.runs) == 1 and not one.fixed and one.relative_scatter > FARTHER * usual for one in self.contenders
        ]
        return [float(np.median(self._luck(index))) if of else 0.0 for index, of in enumerate(alone)]

    def _runs(self, first: int, second: int) -> RunVariance:
        pair = (first, second)
        own, common = self.own[pair], self.common[pair]
        weight = self.weight if own.df else common.df
        df = own.df + weight
        if df <= 0:
            return NOTHING_SHOWN
        share = weight / df
        total, items = ((1 - share) * a + share * b for a, b in ((own.total, common.total), (own.items, common.items)))
        return RunVariance(total, items, df).at_least(self.assumed[first] + self.assumed[second], PRIOR)

    def difference(self, pair: tuple[int, int], parts: TwoSources | SingleRuns, p_values: np.ndarray) -> Difference:
        """The first minus the second, with its interval, and the mean of its p-values."""
        gap = self.gap(*pair)
        if not self._runs_count(gap, parts):
            return cluster_difference(gap)
        half = parts.reach(LEVEL) * parts.error
        counts = [len(self.contenders[index].runs) for index in pair if not self.contenders[index].fixed]
        note = messages.runs_compared(counts) if self.repeated else messages.SCATTER_ASSUMED
        ends = gap.estimate - half, gap.estimate + half
        p = float(p_values.mean())
        return Difference(gap.estimate, *ends, p, parts.error, gap.items, len(gap.sums), METHOD, note)

    def p_values(self, pair: tuple[int, int], parts: TwoSources | SingleRuns) -> np.ndarray:
        """That of `difference`; one for each scatter of runs where that is assumed."""
        gap, shape = self.gap(*pair), 1 if self.repeated else len(self.scatters)
        if not self._runs_count(gap, parts):
            return np.full(shape, _known(difference_p_value(gap)))
        if not isinstance(parts, SingleRuns):
            return np.array([parts.p_value(gap.estimate)])
        found = parts.p_values(gap.estimate)
        if parts.test <= 1e-24 * gap.estimate**2:  # all groups differ alike: few of them may do so by chance
            found = np.maximum(found, _known(difference_p_value(gap)))
        return found

    @staticmethod
    def _runs_count(gap: Clusters, parts: TwoSources | SingleRuns) -> bool:
        return parts.runs_count and len(gap.sums) > 1 and parts.error > 1e-12 * abs(gap.estimate)

    def _prior_weight(self) -> float:
        """The more the pairs' scatters differ beyond chance, the less they say about each other.

        Smyth's estimate from the spread of their logarithms, about the sweep's.
        """
        pairs = [(own, self.common[pair]) for pair, own in self.own.items()]
        known = [(own, common) for own, common in pairs if min(own.total, common.total) > 1e-12]
        if len(self.contenders) < 3 or len(known) < 2:
            return 0.0
        half = np.array([own.df for own, _ in known]) / 2
        ratios = np.array([own.total / common.total for own, common in known])
        logs = np.log(ratios) - special.digamma(half) + np.log(half)
        excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
        most = float(np.median([common.df for _, common in known]))
        weight = min(most, max(PRIOR, most / 4))
        if excess > special.polygamma(1, weight / 2):  # trigamma falls: find where it equals the excess
            weight = float(optimize.brentq(lambda x: special.polygamma(1, x / 2) - excess, 1e-3, weight))
        return weight


def _plausible(scores: np.ndarray, covariance: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """(S,) indices of scenarios of `luck` (S, K), the less often the closer the scores lie for such luck.

    True differences widen the spread of scores and nothing narrows it: a scenario weighs by its chance of a spread as
    small as the observed one.
    """
    apart = scores - scores.mean()
    chance = []
    for one in luck:
        inverse = np.linalg.pinv(covariance + np.diag(one))
        ones = inverse.sum(axis=0)
        centred = apart - float(ones @ apart) / max(float(ones.sum()), 1e-300)
        chance.append(float(special.chdtr(len(scores) - 1, max(float(centred @ inverse @ centred), 0.0))))
    weights = np.array(chance) if max(chance) > 0 else np.eye(len(luck))[0]
    edges = np.cumsum(weights)
    return np.searchsorted(edges, (np.arange(len(luck)) + 0.5) / len(luck) * edges[-1])


def _known(p: float | None) -> float:
    """1 where there is no p-value."""
    return 1.0 if p is None else p


def _detectable(sources: Sequence[TwoSources | SingleRuns], pairs: int) -> float | None:
    """Of the pair of middling standard error. Uses the scatter that was observed, never the differences.

    None where there is no scatter.
    """
    known = sorted((one for one in sources if one.error > 0), key=lambda one: one.error)
    return known[len(known) // 2].detectable(LEVEL, pairs, POWER) if known else None
