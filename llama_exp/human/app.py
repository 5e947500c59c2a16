"""The rating page: python -m llama_exp.human.app study=outputs/human/first

Prints a link per rater. Loopback only, unless told otherwise: `host=0.0.0.0 open=true` lets others on the network in,
without encryption, so put a reverse proxy with TLS in front of anything that leaves the building.
"""

import sys
from pathlib import Path

from llama_exp.cli.main import run_command
from llama_exp.errors import UserError
from llama_exp.human.keys import given
from llama_exp.human.server import HOST, PORT, serve_study

PROGRAM = "llama_exp.human.app"
KEYS = {
    "study": ("FOLDER", "the folder of the study"),
    "host": (HOST, "where to listen; 0.0.0.0: for all who reach this machine, which needs open=true"),
    "port": (str(PORT), "0: any that is free"),
    "open": ("false", "true: others on the network may reach the page, unencrypted"),
    "address": ("…", "what links begin with where a proxy stands before the page: https://rate.example.org"),
}


def serve(words: dict[str, str]) -> None:
    port, opened = words.get("port", str(PORT)), words.get("open", "false")
    if opened not in ("true", "false"):
        raise UserError(f"open={opened}: wanted true or false.")
    if not port.isdigit() or int(port) > 65535:
        raise UserError(f"port={port}: wanted a number from 0 (any that is free) to 65535.")
    serve_study(Path(words["study"]), words.get("host", HOST), int(port), opened == "true", words.get("address", ""))


if __name__ == "__main__":
    run_command(lambda: serve(given(sys.argv[1:], PROGRAM, KEYS)))
