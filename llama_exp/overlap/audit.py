"""Does a run's training set hold what the run is measured on? Announced before training, stored beside the run.

audit.json    what overlaps, and by id which held-out items are clean: evaluation scores those separately
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.config.identity import NOT_IDENTITY, flat
from llama_exp.config.schema import Config, Source
from llama_exp.data.dialogue import BEGIN
from llama_exp.formatting import plural
from llama_exp.processes import process_number
from llama_exp.records import Example, Prediction
from llama_exp.runs.files import read_json_or_nothing, write_json
from llama_exp.runs.run import Run
from llama_exp.runs.stored import typed
from llama_exp.sanitize import visible

if TYPE_CHECKING:
    from llama_exp.overlap.detect import Audit, Row

SPLITS = ("validation", "test")
MEANING = {
    "same group": "of a group that is in training",
    "exact": "identical prompt",
    "normalised": "identical but for case and punctuation",
    "ngram": "half of its passages",
    "near": "nearly identical",
}


class AuditCache:
    """The latest audits of a sweep by their content: its ranks are trained on the same Examples, and all its cells
    measured on the same items."""

    SIZE = 8

    def __init__(self) -> None:
        self._audits: dict[str, Audit] = {}
        self._digests: dict[tuple[Row, ...], str] = {}

    def content(self, *sides: "list[Row]") -> str:
        """A checksum of what is compared."""
        return hashlib.sha256("|".join(self._digest(tuple(side)) for side in sides).encode()).hexdigest()[:32]

    def _digest(self, rows: "tuple[Row, ...]") -> str:
        if rows not in self._digests:
            digest = hashlib.sha256()
            for row in rows:
                digest.update(repr(row).encode("utf-8", "surrogatepass"))
            keep(self._digests, rows, digest.hexdigest(), self.SIZE)
        return self._digests[rows]

    def audit(self, content: str, train: "list[Row]", held_out: "list[Row]") -> "Audit":
        from llama_exp.overlap.detect import audit  # numpy: 0.1 s that a light command need not wait for

        if content not in self._audits:
            keep(self._audits, content, audit(train, held_out), self.SIZE)
        return self._audits[content]


def keep(cache: dict, key: Any, value: Any, size: int) -> None:
    """Put a value in, and where it is full throw out the oldest."""
    if len(cache) >= size:
        cache.pop(next(iter(cache)))
    cache[key] = value


def find_overlap(config: Config, data, cache: AuditCache, folder: Path | None = None) -> dict[str, Any] | None:
    """Compare `data.train` with the held-out items of this config. What `folder` holds already is not compared again.

    Only the validation sample and the evaluation's Examples are compared, because the time grows with their number.
    None where `audit=false`, and in all but the first process of a run.
    """
    if not config.audit or process_number() > 0:
        return None
    splits = held_out_splits(config, data)
    train, held_out = rows(data.train), rows(example for split in splits.values() for example in split)
    content = cache.content(train, held_out)
    overlap = _stored(folder)
    if overlap.get("content") != content:
        overlap = {"content": content, **_as_json(cache.audit(content, train, held_out), splits)}
    return overlap


def report_overlap(config: Config, data, overlap: dict[str, Any] | None, folder: Path | None = None) -> None:
    """Print what `find_overlap` found, and store it where a folder is given."""
    if overlap is None:
        return
    if folder:
        write_json(folder / "audit.json", overlap)
    lines = [describe(overlap), *expected_overlap(config, held_out_splits(config, data), overlap)]
    print("\n".join(lines), flush=True)


def held_out_splits(config: Config, data) -> dict[str, list[Example]]:
    """The Examples of validation, and of the split that is evaluated. Both samples of one split nest."""
    held_out = {"validation": data.held_out("validation", config.validation_sample)}
    evaluated = data.held_out(config.split.value, config.eval_sample)
    held_out[config.split.value] = max(evaluated, held_out.get(config.split.value, []), key=len)
    return held_out


def rows(examples: Iterable[Example]) -> list["Row"]:
    """The texts that are compared. A turn is compared with its history: "Thanks!" alone would be in every training
    set."""
    return [(e.id, e.group, " ".join([*(turn.text for turn in e.history), e.prompt]), e.response) for e in examples]


def describe(found: dict[str, Any]) -> str:
    """`Overlap with training: 0 of 200 validation, 3 of 300 test items (identical prompt 1, nearly identical 2).`"""
    parts = [
        f"{len(found[split]['overlapping']):,} of {len(found[split]['overlapping']) + len(found[split]['clean']):,} "
        f"{split}"
        for split in SPLITS
        if split in found
    ]
    kinds = ", ".join(f"{MEANING[kind]} {count:,}" for kind, count in found["kinds"].items() if count)
    text = f"Overlap with training: {', '.join(parts)} items" + (f" ({kinds})." if kinds else ".")
    if found["examples"]:
        first = found["examples"][0]
        text += f" For example {first['held_out']} resembles {first['train']} of training ({MEANING[first['kind']]})."
    if groups := found.get("by_group"):
        most = ", ".join(f"{one['group']} ({one['overlapping']:,} of {one['items']:,})" for one in groups[:3])
        more = f" and {len(groups) - 3:,} more" if len(groups) > 3 else ""
        text += f"\nBy group: {most}{more}."
    if found["repeated_train"]:
        text += f"\n{plural(found['repeated_train'], 'training Example')} repeating an earlier one."
    return visible(text)  # ids and groups come from the data


def expected_overlap(config: Config, held_out: dict[str, list[Example]], found: dict[str, Any]) -> list[str]:
    """Notes on overlap that follows from how the items are made and needs no alarm."""
    touched = {split: set(found[split]["overlapping"]) for split in held_out}
    openings = sum(
        e.id in touched[split] and e.prompt == BEGIN and not e.history for split, of in held_out.items() for e in of
    )
    notes = []
    if openings:
        notes.append(f"Openings of a conversation among them: {openings:,}; all have the same prompt (“{BEGIN}”).")
    if any(touched.values()) and config.dataset.source is Source.synthetic:
        notes.append("Synthetic rows follow few patterns: the same wording on both sides is expected.")
    return notes


def summary(folder: Path) -> dict[str, Any] | None:
    """audit.json with counts instead of ids; None where there was no audit."""
    found = _stored(folder)
    if not found:
        return None
    for split in SPLITS:
        if split in found:
            found[split] = {kind: len(ids) for kind, ids in found[split].items()}
    del found["content"]
    found["by_group"] = found.get("by_group", [])[:10]  # the most first
    return found


def clean_predictions(run: Run, config: Config, predictions: Sequence[Prediction]) -> list[Prediction] | None:
    """The predictions on items that nothing in the run's training set overlaps with.

    None where that is not known of every item: no audit, other data than the run's, or items that it did not compare.
    """
    found = _stored(run.folder)
    if not found or _dataset_values(config) != _dataset_values(run.config):
        return None
    clean = {i for split in SPLITS for i in found.get(split, {}).get("clean", ())}
    known = clean.union(*(found.get(split, {}).get("overlapping", ()) for split in SPLITS))
    if not {prediction.id for prediction in predictions} <= known:
        return None
    return [prediction for prediction in predictions if prediction.id in clean]


def _dataset_values(config: Config) -> dict[str, Any]:
    return {k: v for k, v in flat(config).items() if k.startswith("dataset.") and k not in NOT_IDENTITY}


def _as_json(found: "Audit", splits: dict[str, list[Example]]) -> dict[str, Any]:
    clean = set(found.clean)
    return {
        "train_items": found.train_items,
        "kinds": dict(found.counts),
        "examples": [{"kind": kind, "held_out": mine, "train": theirs} for kind, mine, theirs in found.examples],
        "by_group": [
            {"group": group, "items": items, "overlapping": touched}
            for group, items, touched in found.by_group
            if touched
        ],
        "repeated_train": found.repeated_train,
        "repeated_held_out": found.repeated_held_out,
        **{
            split: {
                "clean": [e.id for e in of_split if e.id in clean],
                "overlapping": [e.id for e in of_split if e.id not in clean],
            }
            for split, of_split in splits.items()
        },
    }


STORED = {"content": str, **dict.fromkeys(SPLITS, dict[str, list[str]])}


def _stored(folder: Path | None) -> dict[str, Any]:
    """audit.json, or nothing where there is none that can be read: the same comparison is made again."""
    found = read_json_or_nothing(folder / "audit.json") if folder else {}
    try:
        describe(found)  # reads every other key
        found["by_group"] = list(found.get("by_group", []))
        whole = "content" in found and all(
            typed(found[key], STORED[key]) == found[key] for key in STORED if key in found
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return {}
    return found if whole else {}
