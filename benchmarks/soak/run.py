"""make soak: everything that may go wrong, many times, and one table of what did.

    make soak                                            an hour or more on two cores
    make soak SOAK="kills=30 clients=60 only=kills,chat"    some of it, or more: kills=1000

kills      SIGKILLs over train, sweep, evaluate, study, report        files      damaged files
clients    who ask the chat page at once                              requests   odd ones, to each page
raters, items, crashes    ratings while the server is killed
processes, times          on one cell, and how often                  kinds      of full disks, up to 4
seed       draws other moments, damages and requests

What failed goes to standard error as it happens. Exit code 1 where anything failed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.commands import ROOT, finish, start
from benchmarks.soak.raters import make_study

HERE = Path(__file__).resolve().parent
COUNTS = {
    "kills": 100,
    "files": 300,
    "clients": 200,
    "requests": 400,
    "raters": 10,
    "items": 1000,
    "crashes": 5,
    "processes": 5,
    "times": 1,
    "kinds": 2,
    "seed": 0,
}
SPEAKER = (
    "model=tiny dataset=tweetsumm dataset.task=turns dataset.max_new_tokens=24 dataset.source=synthetic "
    "dataset.rows=80 sample=16 batch=4 lora.r=2 trainer.max_epochs=1 validations=0"
).split()


def parts(count: dict[str, int], run: str, study: str) -> dict[str, list[str]]:
    """{name: what is typed after `python`}."""
    seed = f"seed={count['seed']}"
    raters = [f"raters={count['raters']}", f"items={count['items']}", f"kills={count['crashes']}"]
    return {
        "kills": ["kills.py", f"kills={count['kills']}", seed],
        "cell": ["one_cell.py", f"processes={count['processes']}", f"times={count['times']}"],
        "disks": ["disks.py", f"kinds={count['kinds']}"],
        "files": ["damaged_files.py", str(count["files"]), str(count["seed"])],
        "chat": ["chat.py", run, f"clients={count['clients']}"],
        "odd": ["odd_requests.py", run, f"count={count['requests']}", seed],
        "odd ratings": ["odd_requests.py", study, f"count={count['requests']}", seed],
        "raters": ["raters.py", *raters, seed],
    }


def prepare(home: Path) -> tuple[str, str]:
    """(folder of a run that speaks, folder of a study) for the pages."""
    out = home / "speaker"
    code, said = finish(start(["train", *SPEAKER, f"out={out}"]))
    if code:
        raise RuntimeError(said)
    make_study(home / "study", raters=2, items=4)
    return str(out), str(home / "study")


def run_part(name: str, words: list[str]) -> str:
    """The row that a part prints; one that says so where it printed none."""
    print(f"{name} …", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, HERE / words[0], *words[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    *others, row = done.stdout.strip().splitlines() or [""]
    print(*others, sep="\n", file=sys.stderr, flush=True)
    ended = row.startswith("| ") and done.returncode == (row.split("|")[4].strip() != "0")
    return row if ended else f"| {name}: broke with exit code {done.returncode} | 1 | 0 | 1 | |"


def main(words: list[str]) -> int:
    typed = dict(word.split("=", 1) for word in words)
    only = typed.pop("only", None)
    with tempfile.TemporaryDirectory() as home:
        count = COUNTS | {key: int(value) for key, value in typed.items()}
        chosen = parts(count, *prepare(Path(home)))
        if unknown := [*(typed.keys() - COUNTS.keys()), *({*(only or "kills").split(",")} - chosen.keys())]:
            sys.exit(f"Not known: {', '.join(unknown)}. Counts: {', '.join(COUNTS)}; only={','.join(chosen)}")
        rows = [run_part(name, chosen[name]) for name in (only.split(",") if only else chosen)]
    print("| what | tried | ok | failed | seconds |", "|---|---:|---:|---:|---:|", *rows, sep="\n")
    return int(any(row.split("|")[4].strip() != "0" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
