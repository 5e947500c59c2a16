"""The old name of `llama-exp report`, until 0.3; its flags become options."""

import sys

from llama_exp.cli.main import run_old_name


def as_options(arguments: list[str]) -> list[str]:
    """`--metric squad/f1` -> `metric=squad/f1`; the folder stays as it is."""
    options: list[str] = []
    for argument in arguments:
        if options and options[-1] in ("--metric", "--settings"):
            options[-1] = f"{options[-1][2:]}={argument}"
        else:
            options.append(argument[2:] if argument.startswith(("--metric=", "--settings=")) else argument)
    return options


run_old_name("llama_exp.report", "report", as_options(sys.argv[1:]))
