"""python -m llama_exp.hub"""

from llama_exp.cli.main import run_command
from llama_exp.hub.command import main

run_command(main)
