"""How a user here starts this package and its extras: messages print commands that can be typed where they are read."""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent  # of a wheel: site-packages, where nobody works


def program(name: str) -> str:
    """`python train.py` in the folder of a checkout, `llama-exp train` anywhere else."""
    return f"python {name}.py" if _in_checkout() else f"llama-exp {name}"


def install(extra: str) -> str:
    """The command that installs an extra: `pip install -e '.[ui]'`, or `pip install 'llama_exp[ui]'`."""
    return f"pip install -e '.[{extra}]'" if _in_checkout() else f"pip install 'llama_exp[{extra}]'"


def python_path() -> str:
    """PYTHONPATH for a process that is started with -m: it finds this package, and what this process finds."""
    return os.pathsep.join(dict.fromkeys([str(CHECKOUT), *filter(None, sys.path)]))


def _in_checkout() -> bool:
    return Path.cwd() == CHECKOUT and (CHECKOUT / "train.py").is_file()
