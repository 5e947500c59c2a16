"""Several processes at the same work: one does it, the others say so, and the results are those of one process alone.

    python benchmarks/soak/one_cell.py processes=5 times=2

Each time `processes` commands of one cell, and then two sweeps over the same cells, start at once. Each must end with
0, or with 2 (one run) or 75 (a sweep) and the name of the folder that another process holds. Prints a row: name, tried,
ok, failed, seconds; what failed goes to standard error.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.commands import commands, complete, differences, finish, results, start
from benchmarks.soak.servers import arguments, print_row


def together(words: list[str], count: int, busy: int) -> tuple[int, list[str]]:
    """Start a command `count` times at once: how many found another at work, and what went wrong."""
    ended = [finish(process) for process in [start(words) for _ in range(count)]]
    found = [f"exit code {code}\n{said[-2000:]}" for code, said in ended if not _is_fine(code, said, busy)]
    return sum(code == busy for code, _ in ended), found


def _is_fine(code: int, said: str, busy: int) -> bool:
    return "Traceback" not in said and (code == 0 or (code == busy and "Another process works" in said))


def main(processes: int = 5, times: int = 2) -> int:
    began, problems, tried, waited = time.monotonic(), [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        problems += complete(whole)
        wanted = results(whole)
        for number in range(times):
            home = Path(folder, f"together{number}")
            for name, count, busy in (("train", processes, 2), ("sweep", 2, 75), ("evaluate", 2, 75)):
                met, found = together(commands(home)[name], count, busy)
                tried, waited, problems = tried + count, waited + met, problems + found
            problems += complete(home) + differences(home, wanted)
    print(f"{waited} of {tried} found another process at work", *problems, sep="\n", file=sys.stderr)
    name = f"{processes} processes on one cell, 2 sweeps on one folder"
    print_row(name, tried, max(tried - len(problems), 0), len(problems), time.monotonic() - began)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(**arguments(sys.argv[1:])))
