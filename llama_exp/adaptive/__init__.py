"""A sweep that chooses its next run by what it would tell, and stops when the question is answered.

Belief      belief.py     what the runs so far say about every setting of the grid: draws of all true scores
questions   questions.py  best, target: which answers a draw of the scores admits
View        view.py       both at one moment of a sweep
choose      choose.py     the answer now, how certain it is, and the run that is worth its seconds
Search      search.py     takes up what is there, runs cells, tells the answer
"""
