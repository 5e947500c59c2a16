"""question=curve: what is believed of one learning curve, as far as FACTOR times its largest size."""

from collections.abc import Sequence

import numpy as np

from llama_exp.adaptive.belief import Belief, Grid
from llama_exp.adaptive.questions import FACTOR
from llama_exp.adaptive.scores import ScoredCell, with_the_same_items
from llama_exp.metrics import Score, likelihood
from llama_exp.statistics.learning_curve import fit_curve
from llama_exp.statistics.single_runs import relative_scatter


def curve_belief(cells: Sequence[ScoredCell], metric: Score, grid: Grid, usual: Belief) -> Belief:
    """The report's learning curve through the runs (statistics/learning_curve), at the sizes of the grid and beyond.

    With one size there is none: `usual`, the belief without laws, and beyond the grid anything.
    """
    if len({cell.examples for cell in cells}) < 2:
        far = np.random.default_rng(0).normal(usual.scores[:, -1:], usual.span / 4, (len(usual.scores), 1))
        return Belief(np.append(usual.scores, far, axis=1), usual.scatters, usual.luck, usual.span)
    items = with_the_same_items(cells, metric.name) if metric.name not in likelihood.SCORES else None
    scores = (
        [dict(zip(one.ids, one.values(metric.name), strict=True)) for one in items]
        if items
        else [cell.evaluation.scores[metric.name] for cell in cells]
    )
    groups = dict(zip(items[0].ids, items[0].groups, strict=True)) if items else None
    sizes = [cell.examples for cell in cells]
    curve = fit_curve(sizes, scores, groups, bounds=metric.limits, rises=not metric.lower_is_better)
    assert curve.draws is not None
    at = np.append(grid.examples, FACTOR * grid.examples.max())
    # Repeated runs show their own scatter.
    luck = np.ones(len(grid)) if curve.repeated else relative_scatter(grid.examples)
    return Belief(curve.values(at), curve.draws.scatters, luck, usual.span)
