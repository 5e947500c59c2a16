"""SIGKILL at random moments over train, sweep, evaluate, study and report: the results are those of an undisturbed run.

    python benchmarks/soak/kills.py kills=100 seed=0

A round works through all commands in a folder of its own. Each is started and killed some times, each time at a moment
drawn between its start and the time that it takes undisturbed, and then runs to its end. A kill that came before that
counts; it is ok where in the end every file of its round says what it says in the undisturbed folder, and nothing else
lies there. Prints a row: name,
tried, ok, failed, seconds; what failed goes to standard error.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.commands import commands, differences, finish, results, start
from benchmarks.soak.servers import arguments, print_row

A_ROUND = {"train": 3, "sweep": 2, "evaluate": 2, "study": 1, "study report": 1, "report": 1}  # kills of each command


def undisturbed(home: Path) -> tuple[dict[str, object], dict[str, float]]:
    """(results, {command: seconds}) of the experiment that nobody kills."""
    seconds = {}
    for name, words in commands(home).items():
        began = time.monotonic()
        code, said = finish(start(words))
        seconds[name] = time.monotonic() - began
        if code:
            raise RuntimeError(f"{name}: exit code {code}\n{said}")
    return results(home), seconds


def killed_round(
    home: Path, kills: Counter[str], seconds: dict[str, float], draw: random.Random
) -> tuple[int, list[str]]:
    """Kill every command some times and let it end; (kills that came before it had ended, what went wrong)."""
    early, problems = 0, []
    for name, words in commands(home).items():
        for _ in range(kills[name]):
            early += kill_after(words, draw.uniform(0.2, 0.9) * seconds[name])
        code, said = finish(start(words))
        problems += [f"{name}: exit code {code}\n{said[-2000:]}"] if code else []
    return early, problems


def kill_after(words: list[str], seconds: float) -> bool:
    """Whether the command was still running."""
    process = start(words)
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True


def main(kills: int = 100, seed: int = 0, workers: int = 2) -> int:
    began, problems = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        whole, seconds = undisturbed(Path(folder, "whole"))

        def one(number: int, count: int) -> tuple[int, list[str]]:
            home, draw = Path(folder, f"round{number:02}"), random.Random(f"{seed} {number}")
            every = [name for name, times in A_ROUND.items() for _ in range(times)]
            early, found = killed_round(home, Counter(draw.sample(every, count)), seconds, draw)
            return early, [f"round {number}: {problem}" for problem in found + differences(home, whole)]

        size = sum(A_ROUND.values())
        counts = [min(size, kills - done) for done in range(0, kills, size)]
        with ThreadPoolExecutor(workers) as pool:
            rounds = list(pool.map(one, range(len(counts)), counts))
    for _, found in rounds:
        problems += found
    early, bad = sum(early for early, _ in rounds), sum(max(early, 1) for early, found in rounds if found)
    print(f"{early} of {kills} kills came before the command had ended", *problems, sep="\n", file=sys.stderr)
    print_row(
        "kills in train, sweep, evaluate, study, report", early, max(early - bad, 0), bad, time.monotonic() - began
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(**arguments(sys.argv[1:])))
