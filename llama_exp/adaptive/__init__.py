"""A sweep that chooses its next run by what it would tell, and stops when the question is answered.

Belief      belief.py     what the runs so far say about every setting of the grid: draws of all true scores
sampler     importance.py draws of what is not known of that belief, where they explain the scores
curve       curve.py      the same for question=curve, by the report's learning curve
questions   questions.py  best, target, curve: which answers a draw of the scores admits
View        view.py       all that at one moment of a sweep
choose      choose.py     the answer now, how certain it is, and the run that is worth its seconds
Search      search.py     takes up what is there, runs cells, tells the answer
replay      replay.py     the same decisions again, from decisions.jsonl
"""
