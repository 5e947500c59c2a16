"""The tutorials run as they are printed: every ```bash block, in order, in an empty folder."""

import os
import re
import shlex
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT, python

TUTORIALS = ROOT / "docs" / "tutorials"


def commands(page: Path) -> list[str]:
    """The lines of a page's bash blocks; blocks for a GPU are marked text and not run."""
    blocks = re.findall(r"^( *)```bash\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for _, block in blocks for line in textwrap.dedent(block).splitlines() if line.strip()]


def test_every_tutorial_is_tried():
    pages = {page.stem for page in TUTORIALS.glob("*.md")} - {"index"}
    assert pages == {"chat", "tweetsumm", "medical", "squad"}
    for name in pages:
        assert len(commands(TUTORIALS / f"{name}.md")) >= 2, name


@pytest.mark.parametrize("name", ["chat", "tweetsumm", "medical", "squad"])
def test_a_tutorial_runs_as_it_is_printed(name, tmp_path):
    """`llama-exp` is the console script; here the same command of this checkout."""
    script = tmp_path / "bin" / "llama-exp"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.join(python("-m", "llama_exp"))} "$@"\n')
    script.chmod(0o755)
    env = {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands(TUTORIALS / f"{name}.md"):
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
