"""Full and read-only disks: a line that says so, and the same command goes on when there is room. Needs mount."""

import os
import shutil

import pytest

from benchmarks.soak.disks import ROOMY, disk, mount
from tests.conftest import small


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own in memory."""
    try:
        with disk(tmp_path / "disk") as folder:
            yield folder
    except OSError as error:
        pytest.skip(f"needs to mount a tmpfs: {error}")


def test_a_read_only_outputs_is_read_and_refused_in_one_line(small_disk, speaker, command):
    words, outputs = speaker
    shutil.copytree(outputs, small_disk / "o")
    mount(small_disk, "remount,ro")
    before = sorted(path for path in small_disk.rglob("*"))
    words = [*words[:-1], f"outputs={small_disk}/o"]
    without_rank = [word for word in words if not word.startswith("lora.r=")]
    assert "already finished" in command("train.py", *words).stdout
    for typed in (
        ["train.py", "-m", *without_rank, "lora.r=2,1"],
        ["llama-exp", "publish", *words, "dry_run=true"],
        ["llama-exp", "report", f"outputs={small_disk}/o"],
    ):
        done = command(*typed, check=None)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert str(small_disk) in done.stderr and "Read-only file system" in done.stderr
    assert sorted(path for path in small_disk.rglob("*")) == before


@pytest.mark.parametrize("options", ["size=400k", "nr_inodes=9"])
def test_a_full_disk_ends_training_in_one_line_and_the_same_command_finishes(options, small_disk, command):
    mount(small_disk, f"remount,{options}")
    words = [*small(**{"checkpoint_every": "1"}), f"outputs={small_disk}/o"]
    full = command("train.py", *words, check=None)
    assert full.returncode == 2 and "Traceback" not in full.stderr, full.stderr
    assert "No space left on device" in full.stderr and "Free some space" in full.stderr
    mount(small_disk, f"remount,{ROOMY}")
    assert "finished: 4 steps" in command("train.py", *words).stdout
    assert not [name for _, _, names in os.walk(small_disk) for name in names if name.startswith(".losses")]
