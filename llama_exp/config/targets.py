"""Classes that a configuration names by import path: `_target_: my_package.MyCallback`.

Only what the user's own configuration says is imported, never what a run's folder says: a folder that somebody else
made must not decide which code runs here.
"""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from llama_exp.errors import UserError


@contextlib.contextmanager
def current_folder_importable() -> Iterator[None]:
    """Modules in the current folder can be imported; those of installed packages come first."""
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


def import_target(path: str, key: str) -> Any:
    """What an import path names. `key` is the configuration's section, for the message of the UserError."""
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise UserError(f"{key}._target_={path}: wanted an import path, such as my_package.MyClass.")
    try:
        with current_folder_importable():
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{key}._target_={path}: there is no module {error.name!r} (looked in Python's path and in {os.getcwd()}). "
            "Install its package, or go to the folder that holds it."
        ) from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}._target_={path}: {module_name} has no {name}.{hint}")
    return getattr(module, name)
