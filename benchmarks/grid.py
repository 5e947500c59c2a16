"""A whole grid as a user types it, in one process: python benchmarks/grid.py MODEL SQUAD [key=value …]

    sample=100,300,1000,3000 lora.r=0,4,16,64 one epoch, 8 new tokens, no validation; each answers the dev set

MODEL is a model's folder (random weights will do: they hardly ever end a reply) or `tiny`, SQUAD a folder of SQuAD's
parquet files. Other words go to train.py: eval_sample=100, trainer=cpu.

    limit=560           seconds after which the sweep is ended with SIGTERM; the same command goes on
    outputs=/tmp/grid

Prints when each cell begins, and last a line of JSON: seconds of this process in all, before the first cell, and of
each cell from its start to the next one's; and, summed over all runs in `outputs`, the seconds of their phases.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
GRID = ["sample=100,300,1000,3000", "lora.r=0,4,16,64"]
CELL = ["trainer.max_epochs=1", "validations=0", "evaluate=true", "dataset.max_new_tokens=8"]


def command(model: str, squad: str, outputs: Path, words: list[str]) -> list[str]:
    named = ["model=tiny"] if model == "tiny" else ["model=custom", f"model.path={model}"]
    data = ["dataset=squad", f"dataset.path={squad}"]
    return [sys.executable, "train.py", "-m", *named, *data, *CELL, *GRID, f"outputs={outputs}", *words]


def run(words: list[str], limit: float) -> tuple[list[tuple[str, float]], float, int]:
    """[(cell, seconds since the start)] as they begin, seconds in all, exit code."""
    began, cells = time.perf_counter(), []
    sweep = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert sweep.stdout is not None
    ending = threading.Timer(limit, sweep.send_signal, [signal.SIGTERM])
    ending.start()
    for line in sweep.stdout:
        if line.startswith("Cell "):
            cells.append((line.strip(), time.perf_counter() - began))
            print(f"{cells[-1][1]:7.1f} s  {cells[-1][0]}", flush=True)
    code = sweep.wait()
    ending.cancel()
    return cells, time.perf_counter() - began, code


def recorded(outputs: Path) -> dict[str, dict[str, float]]:
    """{run: seconds of its phases, and of its answers}."""
    found: dict[str, dict[str, float]] = {}
    for path in outputs.glob("squad/*/summary.json"):
        found.setdefault(path.parent.name, {}).update(json.loads(path.read_text())["seconds"])
    for path in outputs.glob("squad/*/eval/*/results.json"):
        found.setdefault(path.parts[-4], {})["answer"] = json.loads(path.read_text())["seconds"]
    return found


def main(model: str, squad: str, words: list[str]) -> None:
    own = dict(word.split("=", 1) for word in words if word.startswith(("limit=", "outputs=")))
    outputs = Path(own.get("outputs", "/tmp/grid")).resolve()
    others = [word for word in words if word.partition("=")[0] not in own]
    cells, whole, code = run(command(model, squad, outputs, others), float(own.get("limit", 560)))
    starts = [start for _, start in cells]
    took = [later - start for start, later in zip(starts, [*starts[1:], whole], strict=True)]
    runs = recorded(outputs)
    phases = sorted({phase for seconds in runs.values() for phase in seconds})
    print(
        json.dumps(
            {
                "what": "grid",
                "code": code,
                "seconds": round(whole, 1),
                "before_the_first_cell": round(starts[0], 1) if starts else None,
                "cells_begun": len(cells),
                "each": {name: round(seconds, 1) for (name, _), seconds in zip(cells, took, strict=True)},
                "median_cell": round(median(took), 1) if took else None,
                "runs": len(runs),
                "of_runs": {p: round(sum(seconds.get(p, 0.0) for seconds in runs.values()), 1) for p in phases},
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
