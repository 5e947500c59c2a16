"""The old name of `llama-exp chat`, until 0.3."""

from llama_exp.cli.main import run_old_name

run_old_name("llama_exp.chat", "chat")
