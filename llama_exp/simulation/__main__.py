"""The old name of `llama-exp simulate`, until 0.3."""

from llama_exp.cli.main import run_old_name

run_old_name("llama_exp.simulation", "simulate")
