"""Learning curves: how the score grows with the number of training examples, and what more of them would buy.

fit_curve, fit_curves   fit.py        the runs of a sweep -> a LearningCurve for each rank
LearningCurve           curve.py      what is read off: predictions, gains, the size for a target
Laws                    laws.py       the shapes that a curve may have, and their prior weights
Draws                   posterior.py  the weights that the points give to each law, and curves drawn by them
Points                  noise.py      how uncertain each point is, and how the points move together
"""

from llama_exp.statistics.learning_curve.curve import Band, LearningCurve, RequiredSize
from llama_exp.statistics.learning_curve.fit import Series, fit_curve, fit_curves

__all__ = ["Band", "LearningCurve", "RequiredSize", "Series", "fit_curve", "fit_curves"]
