"""python -m llama_exp COMMAND …: the same as llama-exp COMMAND …"""

from llama_exp.cli.main import main

main()
