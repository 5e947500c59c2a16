"""What earlier runs left on disk, read back: summaries, evaluations and curves, as frozen records.

    outputs/<dataset>/<name>/config.yaml  summary.json  metrics.csv           -> RunRecord, TrainingCurve
    outputs/<dataset>/<name>/eval/<eval>/results.json  predictions.jsonl      -> EvaluationRecord

A reader of results meets half-written files, files of other tools and strings that a model made up. Nothing here raises
on them: what cannot be read is named with its reason, and every string is cleaned once, on the way in.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llama_exp.config.identity import identity_leaves
from llama_exp.errors import UserError
from llama_exp.runs.files import MAX_BYTES, read_text
from llama_exp.runs.metrics import parse_metrics
from llama_exp.runs.results import Results, read_results
from llama_exp.runs.stored import leaves, read_yaml
from llama_exp.runs.summary import Summary, read_summary
from llama_exp.sanitize import as_dict, as_float, as_int, as_text, clean, cleaned, reason

SKIPPED = {"report", "adapter", "adapter.broken", "checkpoints", "wandb", "lightning_logs", "tensorboard", "mlruns"}
MARKS = {"summary.json", "results.json", "config.yaml"}
Record = TypeVar("Record", Summary, Results)
UNREADABLE = (OSError, ValueError, RecursionError, UserError)  # what reading a file of a run may raise


@dataclass(frozen=True, slots=True)
class StoredInterval:
    """A 95 % interval. `shares`: of its variance, what came from the test set, from training, from sampling, each with
    the share and the ends of its interval.

    `unseen`: where the runs show no luck of their own, the standard error that it may have all the same.
    """

    low: float
    high: float
    method: str = ""
    note: str = ""
    shares: tuple[tuple[str, float, float, float], ...] = ()
    unseen: float | None = None


@dataclass(frozen=True, slots=True)
class Subset:
    """The scores on some of the test items alone; none where these are all of them, or none of them."""

    items: int | None
    scores: dict[str, float]
    intervals: dict[str, StoredInterval]


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One results.json. `trained_on` differs from `dataset` where an adapter was tried on another task."""

    folder: Path
    name: str
    dataset: str
    trained_on: str
    split: str
    items: int | None
    groups: int | None
    scores: dict[str, float]
    intervals: dict[str, StoredInterval]
    undefined: tuple[str, ...] = ()  # metrics that were stored without a number
    results: Results = field(default_factory=Results)  # the whole file, cleaned
    clean: Subset | None = None  # on the items that nothing in training overlaps with

    @property
    def empty_replies(self) -> int | None:
        """How many replies are empty; None: not recorded."""
        stored = self.results.empty_replies
        return as_int(as_dict(self.results.facts, "bertscore").get("empty_replies")) if stored is None else stored

    @property
    def measured(self) -> int | None:
        """How many items have a loss: a response that is empty or does not fit has none. None: not recorded."""
        without = self.results.unmeasured
        return None if without is None or self.items is None else self.items - without


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run folder: a fine-tuned cell, or an untuned model (rank 0) that has evaluations only.

    sample    what was requested (None = all of it)
    examples  how many examples that was
    encoded   how many of them reached training: empty responses, and too long ones, are dropped (None: not recorded)
    status    "finished", "stopped early", "stopped at 25 %" (by stop_at), "interrupted", "failed", "untuned", or
              "unfinished" (no summary was written)
    """

    folder: Path
    name: str
    dataset: str
    model: str
    rank: int | None
    sample: int | None
    examples: int | None
    encoded: int | None
    seed: int
    data_seed: int
    status: str
    reason: str
    identity: dict[str, Any]
    summary: Summary  # empty where none was written
    evaluations: tuple[EvaluationRecord, ...]


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """(step, loss) points of one run."""

    train: tuple[tuple[float, float], ...] = ()
    validation: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class UnreadFile:
    path: Path
    reason: str


def load_runs(folder: Path) -> tuple[list[RunRecord], list[UnreadFile]]:
    """Every run below `folder`, in the order of their names, and every file that could not be read, with the reason."""
    unread: list[UnreadFile] = []
    found: dict[Path, dict[str, Any]] = {}
    for path in find_marked(Path(folder), MARKS, unread):
        home = path.parent
        if path.name == "results.json" and home.parent.name == "eval":
            home = home.parent.parent
        entry = found.setdefault(home, {"summary": Summary(), "config": None, "evaluations": []})
        try:
            if path.name == "config.yaml":
                entry["config"] = path  # parsed only where there is no summary
            elif path.name == "summary.json":
                entry["summary"] = _cleaned(read_summary(home))
            else:
                entry["evaluations"].append(_evaluation(path.parent))
        except UNREADABLE as error:
            unread.append(UnreadFile(path, reason(error)))
    runs = []
    for home, entry in sorted(found.items()):
        try:
            run = _run(home, Path(folder), **entry)
        except UNREADABLE as error:
            unread.append(UnreadFile(home / "config.yaml", reason(error)))
        else:
            runs += [run] if run else []
    return runs, unread


def load_evaluation_keys(evaluation: EvaluationRecord) -> dict[str, Any]:
    """{dotted key: value} of an evaluation's settings, as stored: for a command, not to be shown."""
    try:
        return read_results(evaluation.folder).evaluation
    except UNREADABLE:
        return {}


def load_curve(run: RunRecord) -> tuple[TrainingCurve, list[UnreadFile]]:
    """The losses in metrics.csv. A last line cut short by a kill is left out, as in any row without a number."""
    path = run.folder / "metrics.csv"
    train: list[tuple[float, float]] = []
    validation: list[tuple[float, float]] = []
    try:
        rows = parse_metrics(path)
    except FileNotFoundError:
        return TrainingCurve(), []
    except UNREADABLE as error:
        return TrainingCurve(), [UnreadFile(path, reason(error))]
    for row in rows:
        step = as_float(row.get("step"))
        for key, points in (("loss", train), ("validation_loss", validation)):
            value = as_float(row.get(key))
            if step is not None and value is not None:
                points.append((step, value))
    return TrainingCurve(tuple(train), tuple(validation)), []


def load_item_ids(evaluation: EvaluationRecord) -> frozenset[str] | None:
    """Which items were answered, from predictions.jsonl; None where that file is gone. Ids come first on every line."""
    try:
        text = read_text(evaluation.folder / "predictions.jsonl", 8 * MAX_BYTES)
    except (OSError, ValueError):
        return None
    return frozenset(re.findall(r'^\{"id": "((?:[^"\\]|\\.)*)"', text, re.M))


def find_marked(folder: Path, marks: set[str], unread: list[UnreadFile]) -> Iterator[Path]:
    """The files of these names below a folder and what links in it lead to; folders that refuse go to `unread`."""

    def refused(error: OSError) -> None:
        unread.append(UnreadFile(Path(error.filename), reason(error)))

    seen, pending = set(), [folder]
    while pending:  # folders first, then what links lead to: a run keeps its own name where both lead to it
        for home, folders, files in os.walk(pending.pop(0), onerror=refused):
            facts = os.stat(home)
            if (facts.st_dev, facts.st_ino) in seen:  # reached before: a second link, or a circle
                folders.clear()
                continue
            seen.add((facts.st_dev, facts.st_ino))
            yield from (Path(home, name) for name in sorted(marks.intersection(files + folders)))
            inside = sorted(f for f in folders if f not in SKIPPED | marks and not f.startswith("."))
            links = {f for f in inside if os.path.islink(Path(home, f))}
            pending += [Path(home, f) for f in inside if f in links]
            folders[:] = [f for f in inside if f not in links]


def _cleaned(record: Record) -> Record:
    """A stored dataclass with every string in it cleaned."""
    values = {field.name: cleaned(getattr(record, field.name)) for field in dataclasses.fields(record)}
    return dataclasses.replace(record, **values)


def _evaluation(folder: Path) -> EvaluationRecord:
    results = _cleaned(read_results(folder))
    dataset = results.dataset or "unknown"
    return EvaluationRecord(
        folder=folder,
        name=clean(folder.name),
        dataset=dataset,
        trained_on=results.trained_on or dataset,
        split=results.split or "",
        items=results.items,
        groups=results.groups,
        scores={name: value for name, value in results.scores.items() if value is not None},
        intervals=dict(_intervals(results.intervals)),
        undefined=tuple(name for name, value in results.scores.items() if value is None),
        results=results,
        clean=_subset(results.clean or {}),
    )


def _subset(values: dict[str, Any]) -> Subset | None:
    stored = as_dict(values, "scores")
    scores = {name: number for name, value in stored.items() if (number := as_float(value)) is not None}
    items = as_int(values.get("items"))
    return (
        Subset(items, scores, dict(_intervals(as_dict(values, "intervals")))) if scores or items is not None else None
    )


def _intervals(stored: dict[str, Any]) -> Iterator[tuple[str, StoredInterval]]:
    for metric, value in stored.items():
        if isinstance(value, dict):
            low, high = as_float(value.get("low")), as_float(value.get("high"))
            if low is not None and high is not None and low <= high:
                yield metric, StoredInterval(low, high, as_text(value, "method"), as_text(value, "note"))


def _run(
    home: Path, root: Path, summary: Summary, config: Path | None, evaluations: list[EvaluationRecord]
) -> RunRecord | None:
    first = evaluations[0].results if evaluations else Results()
    identity = summary.identity or first.identity
    if not summary.status and not evaluations:
        identity = _identity_of(config) if config else {}
        if "dataset.name" not in identity:  # some other program's config.yaml
            return None
    counts = as_dict(summary.counts, "train")
    rank = as_int(_first(identity.get("lora.r"), first.r, summary.lora.get("r")))
    sample = as_int(_first(identity.get("sample"), first.sample, counts.get("asked")))
    examples = as_int(counts.get("sampled")) or first.train_examples
    encoded = as_int(_first(counts.get("encoded"), first.examples_in_training))
    return RunRecord(
        folder=home,
        name=clean(home.relative_to(root) if home != root else home.name),
        dataset=clean(identity.get("dataset.name") or first.trained_on or first.dataset or "unknown"),
        model=clean(identity.get("model.label") or identity.get("model.name") or first.model or "unknown"),
        rank=rank,
        sample=sample,
        examples=None if rank == 0 else examples or sample,
        encoded=None if rank == 0 else encoded,
        seed=as_int(_first(identity.get("seed"), first.seed)) or 0,
        data_seed=as_int(_first(identity.get("data_seed"), first.data_seed)) or 0,
        status=summary.status or ("untuned" if rank == 0 else "finished" if evaluations else "unfinished"),
        reason=summary.reason or "",
        identity=identity,
        summary=summary,
        evaluations=tuple(sorted(evaluations, key=lambda e: e.name)),
    )


def _first(*values: Any) -> Any:
    """The first that is recorded."""
    return next((value for value in values if value is not None), None)


def _identity_of(config: Path) -> dict[str, Any]:
    """The identity of a run that has no summary yet, from its config.yaml."""
    return cleaned(identity_among(stored_leaves(config)))


def identity_among(leaves: dict[str, Any]) -> dict[str, Any]:
    return identity_leaves(leaves)


def stored_leaves(config: Path) -> dict[str, Any]:
    """{dotted key: value} of a config.yaml, as stored: not yet cleaned."""
    return leaves(read_yaml(config))
