"""hydra/sweeper=optuna: trials that Optuna draws, each trained to a share of its steps, and on where it is promising.

space.py says what may be drawn, study.py opens the study (sampler, pruner, storage), search.py asks, launches, reports
and tells. A trial is an ordinary run; one that is pruned is a part of a run (stop_at).
"""
