"""Learning curves: how the score grows with the number of training examples, and what more of them would buy.

fit_curve          fit.py      the runs of a sweep -> a LearningCurve, or a refusal
LearningCurve      curve.py    what is read off a fitted curve: predictions, gains, the size for a target
estimate_points    noise.py    how uncertain each point is, and how the points move together
Profile            profile.py  the fit of every exponent that the points allow
"""

from llama_exp.statistics.learning_curve.curve import Band, HoldoutCheck, LearningCurve, RequiredSize
from llama_exp.statistics.learning_curve.fit import fit_curve

__all__ = ["Band", "HoldoutCheck", "LearningCurve", "RequiredSize", "fit_curve"]
