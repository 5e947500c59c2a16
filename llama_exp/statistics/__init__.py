"""What a number is worth: intervals, comparisons, learning curves.

    interval, ratio_interval, statistic_interval      a metric and its 95 % interval, clustered by group
    paired, paired_runs, tied_with_best               which cells differ, on the same items
    smallest_detectable                               what difference could have been seen
    exact_paired, sign_flip, holm                     exact tests; many tests at once
    components                                        test-set, training and sampling noise apart
    fit_curve                                         what more data would buy
    words                                             each of these as a sentence

Pure numpy and scipy; explained, with its measured coverage, in docs/statistics.md.
"""

from . import words
from .clusters import Clusters, cluster_sums, robust_variance, satterthwaite
from .comparisons import Difference, Tie, holm, paired, smallest_detectable, tied_with_best
from .curves import Band, Check, Curve, Need
from .exact import ExactTest, exact_paired, sign_flip
from .fitting import fit_curve
from .intervals import Interval, cluster_interval, interval, ratio_interval, statistic_interval
from .variance import Components, components, paired_runs

__all__ = [
    "Band", "Check", "Clusters", "Components", "Curve", "Difference", "ExactTest", "Interval", "Need", "Tie",
    "cluster_interval", "cluster_sums", "components", "exact_paired", "fit_curve", "holm", "interval", "paired",
    "paired_runs", "ratio_interval", "robust_variance", "satterthwaite", "sign_flip", "smallest_detectable",
    "statistic_interval", "tied_with_best", "words",
]  # fmt: skip
