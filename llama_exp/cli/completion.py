"""Tab completion of `llama-exp`: eval "$(llama-exp -sc install=bash)".

Hydra completes the keys of conf/, this module the rest.
"""

import contextlib
import io
import os
import sys

from llama_exp.cli.main import COMMANDS, CommandLine, split_name
from llama_exp.cli.options import known_keys


def complete(arguments: list[str]) -> None:
    """`-sc install=bash` prints the shell's script; `-sc query=bash` what may follow the arguments in COMP_LINE."""
    action = arguments[1] if len(arguments) > 1 else ""
    if not action.startswith("query="):
        return hydra_completion(arguments)
    print(" ".join(completions(os.environ.get("COMP_LINE", ""), arguments)))


def completions(line: str, arguments: list[str]) -> list[str]:
    """What may come where the line ends: names of commands, then keys of the command's options and of conf/."""
    words = line.split()[1:]
    word = "" if not words or line[-1:] == " " else words.pop()
    names = [name.split() for name in COMMANDS]
    following = {name[len(words)] for name in names if name[: len(words)] == words and len(name) > len(words)}
    if following:
        return sorted(name for name in following if name.startswith(word))
    name, rest = split_name(words) if words else ("", [])
    if name not in COMMANDS:
        return []
    command = CommandLine(name, [])
    keys = [f"{key}=" for key in known_keys(command.parameters.get("options"))]
    found = [key for key in keys if key.startswith(word)]
    if "config" in command.parameters:
        os.environ["COMP_LINE"] = " ".join(
            ["llama-exp", *(part for part in rest if part.split("=")[0] + "=" not in keys), word]
        )
        with contextlib.redirect_stdout(io.StringIO()) as output:
            hydra_completion(arguments)
        found += output.getvalue().split()
    return found


def hydra_completion(arguments: list[str]) -> None:
    """Hydra's own completion, of conf/."""
    import hydra

    from llama_exp.config.compose import CONF, register

    register()
    sys.argv[:] = ["llama-exp", *arguments]  # the program that the shell is to complete
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(lambda cfg: None)()
