"""Do many workers share a sweep's cells through files, none twice and none lost, and how fast?

    python benchmarks/claims.py [workers=64] [cells=1000] [folder=FOLDER]     on the file system to be tried

Real processes and the real claiming code; a cell takes no time. Then on paper: how long a grid of the quickstart's kind
takes with the cells in the order typed, in any order, and with the largest first.
"""

import heapq
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llama_exp.launch.cells import Cell, SweepFolder, walk
from llama_exp.runs.run import Outcome

# Seconds on one H200 or H100, Llama-2-7B's shape, SQuAD, one epoch (docs/speed.md): imports and the base, once a
# worker; an example that is learnt (13.4 s for 1,000, 3.1 for 100); a cell beside it, 1,000 answers included.
START, EXAMPLE, CELL = 20.0, 0.0115, 6.0


def work(name: str, cells: list[Cell], folder: str, ready, ran) -> None:
    mine: list[str] = []
    sweep = SweepFolder(Path(folder))
    ready.wait()  # all begin at once, which is the worst for them
    walk(cells, sweep, lambda cell: mine.append(cell.key) or Outcome("done", Path()), name)
    ran.put(mine)


def claim(workers: int, cells: list[Cell], folder: str) -> None:
    context = multiprocessing.get_context("fork")
    ready, ran = context.Barrier(workers + 1), context.Queue()
    processes = [context.Process(target=work, args=(f"w{i}", cells, folder, ready, ran)) for i in range(workers)]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    shares = [ran.get() for _ in processes]
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    times = Counter(key for share in shares for key in share)
    twice, lost = sum(count > 1 for count in times.values()), len(cells) - len(times)
    print(
        f"{workers} workers, {len(cells)} cells: {twice} twice, {lost} lost, {len(cells) / seconds:.0f} claims/s "
        f"({seconds:.1f} s; a worker ran {min(map(len, shares))} to {max(map(len, shares))})"
    )
    assert twice == lost == 0


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Of workers that take the next cell whenever they are free."""
    free = [START] * workers
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def orders(cards: int, draws: int = 200) -> None:
    """1,000 cells: 10 sizes from 100 to 30,000 examples, 5 ranks, 20 seeds, in the order typed, any order, largest
    first."""
    sizes = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 20_000, 30_000]
    typed = [CELL + EXAMPLE * size for size in sizes for _ in range(100)]
    drawn = sorted(makespan(random.sample(typed, len(typed)), cards) for _ in range(draws))
    least = START + max(max(typed), sum(typed) / cards)
    print(
        f"{cards:>2} cards: at least {least / 3600:.2f} h; as typed {makespan(typed, cards) / 3600:.2f}, any order "
        f"{drawn[0] / 3600:.2f} to {drawn[-1] / 3600:.2f}, largest first "
        f"{makespan(sorted(typed, reverse=True), cards) / 3600:.2f}"
    )


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    workers, count = int(given.get("workers", 64)), int(given.get("cells", 1000))
    cells = [Cell(number, (f"sample={number + 1}", "lora.r=8")) for number in range(count)]
    with tempfile.TemporaryDirectory(dir=given.get("folder")) as folder:
        claim(workers, cells, folder)
    random.seed(0)
    for cards in (1, 8, 64):
        orders(cards)


if __name__ == "__main__":
    main()
