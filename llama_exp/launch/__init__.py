"""The same sweep on several processes: the GPUs of this machine, Slurm, Ray (`hydra/launcher=…`).

A worker (worker.py) is one process that walks over all cells of the sweep, claims each by a file (cells.py), runs it,
and notes what it came to. An engine (gpus.py, slurm.py, ray.py) only starts workers somewhere; launcher.py watches
them and hands Hydra the outcomes.
"""
