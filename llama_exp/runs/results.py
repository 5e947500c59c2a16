"""results.json: the scores of one evaluation. This file alone writes it and reads it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_exp.runs.files import read_json, write_json
from llama_exp.runs.stored import check_schema, record_from
from llama_exp.sanitize import as_float, clean

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Results:
    """Scores with their intervals, what was evaluated and how it was scored. Loss is in nats a token, other scores in
    percent (BERTScore as its encoder gives it).
    """

    scores: dict[str, float | None] = field(default_factory=dict)  # None: undefined for these replies
    intervals: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # {score: estimate, low, high, items, clusters …}
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # {metric: encoder, layer …}
    clean: dict[str, Any] | None = None  # the same on the items that nothing in training overlaps with
    declared: dict[str, dict[str, Any]] = field(default_factory=dict)  # {score: meaning, better …} of foreign metrics
    metrics: list[str] = field(default_factory=list)
    metric_settings: dict[str, Any] = field(default_factory=dict)
    generated: bool = True  # False: only the likelihood of the responses was measured
    items: int | None = None
    groups: int | None = None
    empty_replies: int | None = None
    unfinished: int | None = None  # replies that reached the limit of new tokens
    shortened: int | None = None  # prompts cut to fit
    unmeasured: int | None = None  # responses without a loss: empty, or too long for their row
    answers_lost: int | None = None  # answers cut away with their context
    dataset: str | None = None
    trained_on: str | None = None
    split: str | None = None
    model: str | None = None
    r: int | None = None
    sample: int | None = None
    train_examples: int | None = None
    examples_in_training: int | None = None  # without those whose response is empty or does not fit
    seed: int | None = None
    data_seed: int | None = None
    run: str | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)  # the values that decide the replies, beside the run's
    trainable_parameters: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    peak_memory_bytes: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    schema: int = SCHEMA


def write_results(folder: Path, results: Results) -> None:
    write_json(folder / "results.json", dataclasses.asdict(results))


def read_results(folder: Path) -> Results:
    """The results in a folder. Raises OSError or ValueError where there are none that can be read, UserError for those
    that a newer version wrote.
    """
    path = folder / "results.json"
    values = read_json(path)
    scores = values.get("scores")
    if not isinstance(scores, dict) or not scores:
        raise ValueError('no "scores": not an evaluation of this project')
    for name, value in scores.items():
        if value is not None and (isinstance(value, str) or as_float(value) is None):
            raise ValueError(f"not a number: {clean(name, 40)} = {clean(value, 40)}")
    check_schema(path, values, SCHEMA)
    return record_from(Results, values)
