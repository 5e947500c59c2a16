"""The commands that the soak tests type, and what their results are: the same whatever happened on the way."""

import csv
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600  # after which a command hangs
SMALL = (
    "model=tiny dataset=squad dataset.source=synthetic dataset.rows=80 sample=16 batch=4 trainer.max_epochs=2 "
    "validations=2 validation_sample=4 eval_sample=6 eval_batch=2 checkpoint_every=1"
).split()


def commands(home: Path) -> dict[str, list[str]]:
    """{name: what is typed after `llama-exp`} of an experiment in a folder, in their order."""
    where, study = f"outputs={home}/o", f"study={home}/o/study"
    run = "squad/tiny-16-r{}-seed0-{}/eval/squad-test-6"
    named = "batch4-rows80-synthetic-max_epochs2"
    conditions = [f"{name}={home}/o/{run.format(rank, named)}" for name, rank in (("one", 1), ("two", 2))]
    return {
        "train": ["train", *SMALL, "lora.r=2", where],
        "sweep": ["train", "-m", *SMALL, "lora.r=2,1", where],
        "evaluate": ["evaluate", "-m", *SMALL, "lora.r=2,1", where],
        "study": ["study", "create", study, *conditions, "items=4", "raters=2"],
        "study report": ["study", "report", study],
        "report": ["report", where],
    }


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "llama_exp", *words],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """(exit code, what was printed)."""
    printed = process.communicate(timeout=SECONDS)[0]
    return process.returncode, printed


def complete(home: Path) -> list[str]:
    """Type every command once; what went wrong."""
    ended = {name: finish(start(words)) for name, words in commands(home).items()}
    return [f"{name}: exit code {code}\n{said[-2000:]}" for name, (code, said) in ended.items() if code]


def results(home: Path) -> dict[str, object]:
    """{file: what it says but for times and paths} of everything that an experiment leaves."""
    found: dict[str, object] = {}
    for path in sorted(path for path in (home / "o").rglob("*") if path.is_file()):
        name, read = str(path.relative_to(home)), READERS.get(path.name)
        if ".multirun" not in name and "report/items/" not in name:  # named by a hash of paths
            found[name] = read(path, str(home)) if read else None
    return found


def differences(home: Path, whole: dict[str, object]) -> list[str]:
    """The files that are not as they would be if nothing had happened; left-overs are such files."""
    found = results(home)
    names = [name for name in found.keys() | whole.keys() if found.get(name, "missing") != whole.get(name, "missing")]
    return [
        f"{name}: {_apart(found.get(name, 'missing'), whole.get(name, 'missing'))}, undisturbed: "
        f"{_apart(whole.get(name, 'missing'), found.get(name, 'missing'))}"
        for name in sorted(names)
    ]


def _apart(one: object, other: object) -> str:
    """What one says and the other does not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return str({key: _apart(of, other.get(key)) for key, of in one.items() if of != other.get(key)})[:600]
    return str(one)[:300]


def _curve(path: Path, home: str) -> list[tuple[str, str, str]]:
    with path.open() as file:
        return [(row["step"], row["loss"], row["validation_loss"]) for row in csv.DictReader(file)]


def _predictions(path: Path, home: str) -> list[dict]:
    read = [json.loads(line) for line in path.read_text().splitlines()]
    # An Example's loss depends in its last digits on who was in its batch, which a kill changes.
    return [one | {"nll": one["nll"] and float(f"{one['nll']:.4g}")} for one in read]


def _scores(path: Path, home: str) -> dict[str, float]:
    return {name: float(f"{score:.4g}") for name, score in json.loads(path.read_text())["scores"].items()}


def _summary(path: Path, home: str) -> dict[str, object]:
    read = json.loads(path.read_text())
    return {key: read[key] for key in ("status", "steps", "tokens", "loss", "counts")}


READERS = {
    "metrics.csv": _curve,
    "predictions.jsonl": _predictions,
    "results.json": lambda path, home: _scores(path, home) if "eval" in path.parts else None,
    "summary.json": _summary,
    "adapter_model.safetensors": lambda path, home: path.read_bytes(),
    "sample.json": lambda path, home: path.read_text(),
    "config.yaml": lambda path, home: path.read_text().replace(home, ""),
    "study.json": lambda path, home: path.read_text().replace(home, ""),
}
