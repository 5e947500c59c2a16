"""Versions and commit that a number was made with."""

import contextlib
import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


@functools.cache  # as a process found them first: it runs what it has imported
def provenance() -> dict[str, Any]:
    """Versions and commit a number was made with."""
    packages = ("torch", "transformers", "peft", "bitsandbytes", "lightning", "datasets", "llama_exp")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(Exception):
            versions[package] = version(package)
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
    )
    return {"versions": versions, "commit": git.stdout.strip() or None}
