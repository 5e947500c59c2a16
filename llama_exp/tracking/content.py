"""What is logged of an evaluation: its scores with their intervals, and a table of replies."""

import hashlib
import html
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_exp.metrics import by_importance
from llama_exp.records import Prediction
from llama_exp.runs.files import read_json_or_nothing
from llama_exp.runs.results import Results
from llama_exp.runs.scores import ItemScores
from llama_exp.sanitize import clean
from llama_exp.tracking.description import plain

ROWS, LETTERS = 100, 2000  # of the table of replies, and of each of its texts
# Of the adapter, and of an evaluation, where artifacts are asked for. PEFT and results.json name folders.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
EVALUATION_FILES = ("results.json", "predictions.jsonl", "scores.jsonl")
COLUMNS = ("id", "question", "context", "references", "reply")
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_[]#|~"})
FIELD = re.compile(r"\{(\w+)\}")


def summary_of(prefix: str, results: Results) -> dict[str, float]:
    """{"test/squad/f1": …, "test/squad/f1_low": …, "test/squad/f1_high": …, "test/items": …}."""
    found: dict[str, float] = {}
    for name in by_importance(results.scores, results.declared):
        value = results.scores[name]
        interval = results.intervals.get(name) or {}
        ends = {"_low": interval.get("low"), "_high": interval.get("high")}
        found |= {f"{prefix}/{name}{end}": number for end, number in {"": value, **ends}.items() if number is not None}
    return found | ({f"{prefix}/items": results.items} if results.items else {})


def digest(results: Results) -> str:
    """Changes with the scores, their intervals and the number of items."""
    text = json.dumps([results.scores, results.intervals, results.items], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def replies_table(
    predictions: Sequence[Prediction], items: ItemScores, template: str
) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows): a sample of at most ROWS replies, the same in every run of an evaluation, each with its scores.

    Texts are cut, and cleaned of control characters: a reply may hold anything.
    """
    drawn = sorted(random.Random(0).sample(range(len(predictions)), min(ROWS, len(predictions))))
    rows = []
    for index in drawn:
        one = predictions[index]
        question, context = question_and_context(one.prompt, template)
        texts = (one.id, question, context, " | ".join(dict.fromkeys(one.references)), one.reply)
        rows.append([*(clean(text, LETTERS) for text in texts), *(float(of[index]) for of in items.values())])
    return [*COLUMNS, *items], rows


def question_and_context(prompt: str, template: str) -> tuple[str, str]:
    """The two parts of a user's message as the dataset's template put them together; (prompt, "") where it did not."""
    names = FIELD.findall(template)
    if "context" not in names or len(set(names)) != len(names):
        return prompt, ""
    parts = FIELD.split(template.strip())
    pattern = "".join(f"(?P<{part}>.*)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    if not (found := re.fullmatch(pattern, prompt, re.DOTALL)):
        return prompt, ""
    rest = [found[name] for name in names if name != "context"]
    return "\n".join(rest).strip(), found["context"].strip()


def shareable(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Path | dict[str, Any]]]:
    """(name, file) of those that are there; a JSON file as an object without the paths of this machine in it."""
    for name in names:
        path = folder / name
        if path.is_file():
            yield name, plain(read_json_or_nothing(path)) if path.suffix == ".json" else path


def as_markdown(text: str) -> str:
    """Text as Markdown shows it unchanged, HTML in it included."""
    return html.escape(text, quote=False).translate(MARKDOWN)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"lora.r": 16, …} of a nested config."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
