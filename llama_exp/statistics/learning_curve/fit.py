"""From the runs of a sweep to a `LearningCurve` for each rank.

sizes, scores -> tabulate, estimate_points (noise.py) -> laws (laws.py) -> weights and draws (posterior.py) -> curve.py
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from llama_exp.statistics import messages
from llama_exp.statistics.learning_curve.curve import LearningCurve, law_shares
from llama_exp.statistics.learning_curve.laws import laws_between, refined
from llama_exp.statistics.learning_curve.noise import Points, estimate_points, tabulate
from llama_exp.statistics.learning_curve.posterior import Scale, draw, likely_laws, noise_grid, posterior_weights, weigh

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Series:
    """The runs of one rank: run r was trained on sizes[r] examples and has the score scores[r].

    scores      id -> score for each run (then the test set's noise counts, by group), or one number for each run (then
                only the spread of runs counts, and the intervals hold for these test items)
    data_seeds  which sample each run drew; runs with the same size and data seed are averaged. Where every data seed
                was run at every size, the luck of a draw at all sizes is taken into account
    """

    sizes: Sequence[int]
    scores: Sequence[float] | Sequence[Mapping[str, float]]
    groups: Mapping[str, Hashable] | None = None
    data_seeds: Sequence[int] | None = None

    @property
    def points(self) -> Points:
        return estimate_points(tabulate(self.sizes, self.scores, self.groups, self.data_seeds))


def fit_curve(
    sizes: Sequence[int],
    scores: Sequence[float] | Sequence[Mapping[str, float]],
    groups: Mapping[str, Hashable] | None = None,
    data_seeds: Sequence[int] | None = None,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
    rises: bool | None = None,
) -> LearningCurve:
    """The learning curve of one rank (see Series). `rises`: whether more data is expected to raise the score."""
    return fit_curves({0: Series(sizes, scores, groups, data_seeds)}, bounds, confidence, rises)[0]


def fit_curves(
    series: Mapping[Key, Series],
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
    rises: bool | None = None,
) -> dict[Key, LearningCurve]:
    """The learning curves of several ranks, which share the noise of runs and, as far as they agree, their shape.

    Points that are few or noisy raise nothing: their intervals are wide. One size alone makes no curve: a `refusal`.
    Raises ValueError for lengths that differ, sizes below 1, NaN, and runs that answered different items.
    """
    return fit_points({key: one.points for key, one in series.items()}, bounds, confidence, rises)


def fit_points(
    points: Mapping[Key, Points],
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
    rises: bool | None = None,
) -> dict[Key, LearningCurve]:
    """`fit_curves` from means and their noise."""
    usable = {key: one for key, one in points.items() if len(one.sizes) > 1}
    found = {key: _refused(one, bounds, confidence) for key, one in points.items() if key not in usable}
    if not usable:
        return found
    every = list(usable.values())
    scale = Scale.of(every, bounds)
    noises = noise_grid(every, scale)
    laws = laws_between(min(one.sizes[0] for one in every), max(one.sizes[-1] for one in every))
    evidence = [weigh(one, laws, noises, scale) for one in every]
    laws = refined(laws, likely_laws(evidence, laws, noises))
    evidence = [weigh(one, laws, noises, scale) for one in every]
    all_weights = posterior_weights(evidence, laws, noises)
    for seed, (key, mine, weights) in enumerate(zip(usable, evidence, all_weights, strict=True)):
        one, draws = usable[key], draw(weights, mine, laws, noises, scale, rises, seed)
        found[key] = LearningCurve(
            **_points_of(one),
            laws=law_shares(draws.laws, laws.kinds),
            repeated=one.df > 0,
            bounds=bounds,
            confidence=confidence,
            rises=rises,
            grid=laws,
            draws=draws,
        )
    return {key: found[key] for key in points}


def _refused(points: Points, bounds: tuple[float, float] | None, confidence: float) -> LearningCurve:
    return LearningCurve(
        **_points_of(points), refusal=messages.one_size(int(points.sizes[0])), bounds=bounds, confidence=confidence
    )


def _points_of(points: Points) -> dict:
    return {"sizes": tuple(int(size) for size in points.sizes), "scores": tuple(map(float, np.round(points.means, 10)))}
