"""python -m llama_exp.simulation"""

from llama_exp.cli.main import run_command
from llama_exp.simulation.command import main

run_command(main)
