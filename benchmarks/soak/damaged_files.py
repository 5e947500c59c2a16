"""Damage one file of a folder of runs, type one command, and look at how it ends; several hundred times.

    python benchmarks/soak/damaged_files.py [TRIES] [SEED] [REAL]

TRIES   how many (file, damage, command); all combinations come in an order drawn by SEED
REAL    how many of them run as processes of their own; the others run one after the other in this one

A try is ok if the command ends by itself with 0, 1, 2 or 75 and prints no traceback. Prints each failure, then one row:
name, tried, ok, failed, seconds. Exit code 1 where one failed.
"""

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.servers import ROOT, print_row

SECONDS = 300  # a try that takes longer hangs
CODES = {0, 1, 2, os.EX_TEMPFAIL}
KEYS = (
    "model=tiny dataset=squad dataset.source=synthetic dataset.rows=80 batch=4 trainer.max_epochs=1 validations=2 "
    "validation_sample=4 eval_sample=6"
).split()
TRAINED, KILLED = ["sample=16", "lora.r=2"], ["sample=8", "lora.r=2", "checkpoint_every=1"]


def damages() -> dict[str, object]:
    """{name: what it does to a file}."""

    def text(value: str | bytes):
        return lambda path, rng: path.write_bytes(value.encode() if isinstance(value, str) else value)

    def replaced(make):
        return lambda path, rng: (path.unlink(), make(path))

    found = {
        "gone": lambda path, rng: path.unlink(),
        "empty": text(""),
        "[]": text("[]"),
        "[1]": text("[1]"),
        "{}": text("{}"),
        "null": text("null"),
        "binary": lambda path, rng: path.write_bytes(rng.randbytes(2000)),
        "deep": text("[" * 100_000),
        "deep in an object": text('{"a": ' * 50_000),
        "huge": lambda path, rng: os.truncate(path, 3 << 30),
        "aliases": text(
            "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghij"))
        ),
        "interpolation": lambda path, rng: path.write_bytes(path.read_bytes().replace(b"squad", b"${oc.env:HOME}", 3)),
        "a folder": replaced(Path.mkdir),
        "a pipe": replaced(os.mkfifo),
        "a link to itself": replaced(lambda path: path.symlink_to(path)),
        "cut": lambda path, rng: os.truncate(path, rng.randrange(max(path.stat().st_size, 1))),
        "a flipped bit": _flip,
        "other types": _retype,
        "numbers that are none": _unnumber,
        "a line twice": lambda path, rng: path.write_bytes(
            b"".join(2 * path.read_bytes().splitlines(True)[:1]) + path.read_bytes()
        ),
        "a line less": lambda path, rng: path.write_bytes(b"".join(path.read_bytes().splitlines(True)[1:])),
    }
    if os.geteuid():  # root reads everything
        found["unreadable"] = lambda path, rng: path.chmod(0)
    return found


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _values(path: Path, change) -> None:
    """Change the values of a JSON file, or of each line of one; other files get text instead."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError:
        with contextlib.suppress(ValueError):
            return void(path.write_text(json.dumps(change(json.loads(path.read_bytes())))))
        return void(path.write_text("step,loss\nNaN,1e999\n-1,x\n"))
    path.write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def void(_: object) -> None:
    """For what returns a value that nobody reads."""


def _retype(path: Path, rng: random.Random) -> None:
    """Values of other types in a few places, at any depth."""

    def change(value, chance=0.15):
        if rng.random() < chance:
            return rng.choice([None, [], {}, [1], "x", -1, True, 1e308, 10**30, "\ud800", {"a": {"b": None}}])
        if isinstance(value, dict):
            return {key: change(inner) for key, inner in value.items()}
        return [change(inner) for inner in value] if isinstance(value, list) else value

    _values(path, lambda value: change(value, 0))


def _unnumber(path: Path, rng: random.Random) -> None:
    """Every number becomes NaN, Infinity or one beyond all."""

    def change(value):
        if isinstance(value, dict):
            return {key: change(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [change(inner) for inner in value]
        return rng.choice([float("nan"), float("inf"), 10**400, -1]) if isinstance(value, int | float) else value

    _values(path, change)


def prepare(home: Path) -> Path:
    """A trained and evaluated run, an evaluated untuned model, a run with a checkpoint and a study, all small."""
    outputs = f"outputs={home / 'o'}"
    killed = "tests.killer.Killer"
    for words in (
        ["train.py", *KEYS, *TRAINED, "evaluate=true", outputs],
        ["evaluate.py", *KEYS, "lora.r=0", outputs],
        ["train.py", *KEYS, *KILLED, f"+logger.k._target_={killed}", "+logger.k.step=2", "logger=none", outputs],
    ):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    tuned, untuned = (next(home.glob(f"o/squad/*{name}*/eval/*-test-*")) for name in ("16-r2", "-r0"))
    study = [f"study={home}/o/study", f"tuned={tuned}", f"untuned={untuned}", "items=2", "raters=1"]
    done = subprocess.run([sys.executable, "-m", "llama_exp", "study", "create", *study], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    return home / "o"


def commands(outputs: Path, file: Path) -> dict[str, tuple[str, list[str]]]:
    """{name: (command, its arguments)} of those that read these runs."""
    mine, where = KILLED if "tiny-8-" in str(file) else TRAINED, f"outputs={outputs}"
    evaluation = next(iter(sorted(outputs.glob("squad/*16-r2*/eval/*-test-*"))), outputs)
    return {
        "report": ("report", [where]),
        "evaluate": ("evaluate", [*KEYS, *mine, where]),
        "train": ("train", [*KEYS, *mine, "evaluate=true", where]),
        "sweep": ("evaluate", ["-m", *KEYS, "sample=16", "lora.r=0,2", where]),
        "breakdown": ("breakdown", [str(evaluation)]),
        "publish": ("publish", [*KEYS, *mine, "dry_run=true", where]),
        "chat": ("chat", [*KEYS, *mine, where]),
        "study report": ("study report", [f"study={outputs}/study"]),
    }


def tries(outputs: Path) -> list[tuple[Path, str, str]]:
    """Every (file, damage, command)."""
    files = [path.relative_to(outputs) for path in sorted(outputs.rglob("*")) if path.is_file()]
    kinds = {path.name if path.parts[0] != "study" else f"study/{path.name}": path for path in files}
    kinds.update(
        {f"{path.parts[1]}/{path.name}": path for path in files if path.name in ("config.yaml", "metrics.csv")}
    )
    kept = [path for name, path in kinds.items() if path.suffix not in (".png", ".html", ".md", ".lease")]
    return list(itertools.product(kept, damages(), commands(outputs, outputs)))


def run_here(name: str, arguments: list[str]) -> tuple[int | None, str]:
    """(exit code, what was printed) of a command in this process; None for an exception or too long a time."""
    from llama_exp.cli.main import CommandLine

    def too_long(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    typed, said = list(sys.argv), io.StringIO()
    sys.argv[:] = ["llama-exp", *name.split(), *arguments]
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _no_input():
            return CommandLine(name, arguments).run(), said.getvalue()
    except BaseException:
        return None, said.getvalue() + traceback.format_exc()
    finally:
        signal.alarm(0)
        sys.argv[:] = typed


@contextlib.contextmanager
def _no_input() -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO("")
    try:
        yield
    finally:
        sys.stdin = before


def run_apart(name: str, arguments: list[str]) -> tuple[int | None, str]:
    """The same in a process of its own."""
    words = [sys.executable, "-m", "llama_exp", *name.split(), *arguments]
    try:
        done = subprocess.run(
            words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        return None, str(error)
    return done.returncode, done.stdout + done.stderr


def attempt(whole: Path, work: Path, one: tuple[Path, str, str], rng: random.Random, run=run_here) -> str:
    """What went wrong; "" for nothing."""
    file, damage, command = one
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work, symlinks=True)
    damages()[damage](work / file, rng)
    name, arguments = commands(work, file)[command]
    code, said = run(name, arguments)
    return "" if code in CODES and "Traceback" not in said else f"exit code {code}\n{said[-3000:]}"


def main(count: int = 300, seed: int = 0, real: int = 5) -> int:
    began, rng, failed = time.monotonic(), random.Random(seed), 0
    with tempfile.TemporaryDirectory() as home:
        whole = prepare(Path(home, "whole"))
        chosen = tries(whole)
        rng.shuffle(chosen)
        chosen = chosen[:count]
        for index, one in enumerate(chosen):
            # work/ lies where the original was: stored paths of the study go on being right
            problem = attempt(whole, Path(home, "work", "o"), one, rng, run_apart if index < real else run_here)
            print(f"\r{index + 1} of {len(chosen)}", end="", file=sys.stderr, flush=True)
            if problem:
                failed += 1
                print(f"{' | '.join(map(str, one))}: {problem}\n", flush=True)
    seconds = time.monotonic() - began
    print_row("damaged files", len(chosen), len(chosen) - failed, failed, seconds)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
