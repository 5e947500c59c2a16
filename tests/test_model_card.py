"""What a published model's page says of loading it is typed as it stands there, and answers as the run does."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

MESSAGE = 'Where is my "parcel"?'


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_the_lines_that_load_it_give_the_runs_own_answer(speaker, command, kind):
    words, outputs = speaker
    command(
        "llama-exp",
        "publish",
        *words,
        "dry_run=true",
        "check=4",
        "agreement=0",
        f"merged={str(kind == 'merged').lower()}",
    )
    [folder] = outputs.glob(f"tweetsumm/tiny-16-r2*/hub/{kind}")
    card = (folder / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    repo = re.search(r'"(OWNER/[^"]+)"', lines).group(1)
    program = f"message = {MESSAGE!r}\n" + lines.replace(repo, str(folder))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = command("llama-exp", "chat", *words, f"prompt={MESSAGE}")
    assert done.stdout.split() == asked.stdout.split() != []
    assert "`message` is what a person says to the model." in card and "customer service" in lines, (
        "turns have no template"
    )
