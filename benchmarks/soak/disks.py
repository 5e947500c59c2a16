"""A disk that is full, has no inodes left, or is read-only: each command says so in a line, and goes on when it is not.

    python benchmarks/soak/disks.py kinds=3

Each disk is a small file system in memory (tmpfs), which needs root; where mounting is refused the row says so. Every
command must end with 0, 1 or 2 and no traceback, and after the disk has got room, the same commands must leave the
results of an undisturbed run. Prints a row: name, tried, ok, failed, seconds; what failed goes to standard error.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.commands import SMALL, commands, complete, differences, finish, results, start
from benchmarks.soak.servers import arguments, print_row

ROOMY = "rw,size=200m,nr_inodes=100000"  # 0, none at all, could not be changed afterwards
FULL = {"1600k": "size=1600k", "12 inodes": "nr_inodes=12", "600k": "size=600k", "40 inodes": "nr_inodes=40"}


@contextmanager
def disk(folder: Path, options: str = ROOMY) -> Iterator[Path]:
    """A file system in memory; OSError where mounting is refused."""
    folder.mkdir()
    mount(folder, options)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


def reads(home: Path) -> dict[str, list[str]]:
    """All commands, and those that write beside a run."""
    one = [*SMALL, "lora.r=2", f"outputs={home}/o"]
    return commands(home) | {
        "another evaluation": ["evaluate", *one, "eval_sample=5"],
        "another cell": ["train", "-m", *SMALL, "lora.r=3,4", f"outputs={home}/o"],
        "publish": ["publish", *one, "dry_run=true"],
        "another study": ["study", "create", f"study={home}/new", *commands(home)["study"][3:]],
        "breakdown": ["breakdown", commands(home)["study"][3].partition("=")[2]],
        "serve": ["study", "serve", f"study={home}/o/study", "port=0"],
    }


def try_all(typed: dict[str, list[str]]) -> list[str]:
    """What went wrong with commands that may fail, but not break."""
    ended = {name: finish(start(words)) for name, words in typed.items()}
    return [
        f"{name}: exit code {code}\n{said[-2000:]}"
        for name, (code, said) in ended.items()
        if code not in (0, 1, 2) or "Traceback" in said or "Error:" in said
    ]


def report(disk: str, problems: list[str]) -> int:
    """Print what went wrong on a disk; how much that was."""
    print(*(f"{disk}: {problem}" for problem in problems), sep="\n", file=sys.stderr, flush=True)
    return len(problems)


def main(kinds: int = 2) -> int:
    began, failed, tried = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            with disk(Path(folder, "whole")) as home:
                failed += report("roomy", complete(home))
                wanted = results(home)
                mount(home, "remount,ro")
                typed = reads(home)
                tried += len(typed)
                failed += report("read-only", try_all(typed) + differences(home, wanted))
        except OSError as error:
            print(f"Skipped: no file system can be mounted here ({error}).", file=sys.stderr)
            print_row(f"full and read-only disks (skipped: {error})", 0, 0, 0, time.monotonic() - began)
            return 0
        for name, options in [*FULL.items()][:kinds]:
            with disk(Path(folder, name.replace(" ", "-")), options) as home:
                typed = commands(home)
                tried += len(typed)
                found = try_all(typed)
                mount(home, f"remount,{ROOMY}")
                failed += report(name, found + complete(home) + differences(home, wanted))
    name = "commands on full, inode-less, read-only disks"
    print_row(name, tried, max(tried - failed, 0), failed, time.monotonic() - began)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(**arguments(sys.argv[1:])))
