"""python -m llama_exp.chat"""

from llama_exp.chat.command import main
from llama_exp.cli.main import run_command

run_command(main)
