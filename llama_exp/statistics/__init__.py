"""How certain a score is: intervals, comparisons, rankings, learning curves.

    mean_interval, ratio_interval, statistic_interval   a metric and its 95 % interval, clustered by group
    paired_difference                                   whether two cells differ, on the same items
    sign_flip, first_against_second, holm               exact tests by right or wrong; many tests at once
    rank_cells                                          which cells of a sweep share the first place
    variance_components                                 test-set, training and sampling noise, one by one
    fit_curve                                           what more data would buy
    messages                                            the sentences for people

Pure numpy and scipy; explained, with its measured coverage, in docs/statistics.md.
"""

from llama_exp.statistics import messages
from llama_exp.statistics.clusters import Clusters, cluster_sums, robust_variance, satterthwaite_df
from llama_exp.statistics.comparisons import Difference, cluster_difference, holm, paired_difference
from llama_exp.statistics.exact import SignFlipTest, first_against_second, sign_flip
from llama_exp.statistics.intervals import (
    Interval,
    cluster_interval,
    mean_interval,
    ratio_interval,
    statistic_interval,
    t_interval,
)
from llama_exp.statistics.learning_curve import Band, LearningCurve, RequiredSize, Series, fit_curve, fit_curves
from llama_exp.statistics.ranking import Contender, Ranking, rank_cells
from llama_exp.statistics.variance import RunSums, VarianceComponents, variance_components

__all__ = [
    "Band",
    "Clusters",
    "Contender",
    "Difference",
    "Interval",
    "LearningCurve",
    "Ranking",
    "RequiredSize",
    "Series",
    "RunSums",
    "SignFlipTest",
    "VarianceComponents",
    "cluster_difference",
    "cluster_interval",
    "cluster_sums",
    "first_against_second",
    "fit_curve",
    "fit_curves",
    "holm",
    "mean_interval",
    "messages",
    "paired_difference",
    "rank_cells",
    "ratio_interval",
    "robust_variance",
    "satterthwaite_df",
    "sign_flip",
    "statistic_interval",
    "t_interval",
    "variance_components",
]
