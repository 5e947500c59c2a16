"""Scores by kind of question: llama-exp breakdown outputs/medical/llama2_7b_chat-all-r16-seed0/eval/medical-test-all

    qtype         items  groups  bertscore/f1         loss
    treatment       231     198  61.3 ± 1.9           1.204 ± 0.051
    symptoms         87      80  58.0 (53.1 to 62.2)  1.31 ± 0.11

One table for each tag of the Examples: MedQuAD's `qtype`, SQuAD's question word and answer length. Read from
predictions.jsonl (the tags) and scores.jsonl (each item's scores, written with results.json), so nothing is scored
again and torch is not needed. The intervals are those of the whole evaluation: 95 %, clustered by group. Many rows are
many comparisons: the best of twenty kinds looks good by luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_exp.errors import UserError
from llama_exp.formatting import format_score, plural
from llama_exp.metrics import describe
from llama_exp.records import Prediction
from llama_exp.runs.files import read_predictions
from llama_exp.runs.scores import ItemScores, read_scores
from llama_exp.sanitize import clean
from llama_exp.statistics import Interval
from llama_exp.statistics.intervals import mean_interval, ratio_interval


@dataclass(frozen=True, slots=True)
class TagRow:
    """One value of a tag: how many items and groups carry it, and {score: its interval}."""

    value: str
    items: int
    groups: int
    scores: dict[str, Interval]


def by_tag(predictions: Sequence[Prediction], items: ItemScores) -> dict[str, list[TagRow]]:
    """{tag: its rows, the commonest value first}, without tags of one value or of a value for nearly every item."""
    found = {}
    for tag in sorted({tag for prediction in predictions for tag in prediction.tags}):
        indices: dict[str, list[int]] = {}
        for index, prediction in enumerate(predictions):
            if tag in prediction.tags:
                indices.setdefault(prediction.tags[tag], []).append(index)
        if 1 < len(indices) <= max(2, sum(map(len, indices.values())) / 2):
            rows = [
                _row(value, [predictions[i] for i in of_value], _select(items, of_value))
                for value, of_value in indices.items()
            ]
            found[tag] = sorted(rows, key=lambda row: (-row.items, row.value))
    return found


def _select(items: ItemScores, indices: Sequence[int]) -> ItemScores:
    return {name: [values[i] for i in indices] for name, values in items.items()}


def _row(value: str, predictions: Sequence[Prediction], items: ItemScores) -> TagRow:
    groups = [p.group for p in predictions]
    scores = {name: mean_interval(values, groups, bounds=describe(name).limits) for name, values in items.items()}
    measured = [(p.nll, p.tokens, p.group) for p in predictions if p.nll is not None and p.tokens]
    if measured:
        nll, tokens, their_groups = zip(*measured, strict=True)
        scores["loss"] = ratio_interval(nll, tokens, their_groups, bounds=describe("loss").limits)
    return TagRow(value, len(predictions), len(set(groups)), scores)


def load_breakdown(folder: Path) -> dict[str, list[TagRow]]:
    """The tables of one evaluation's folder."""
    path = Path(folder) / "predictions.jsonl"
    if not path.is_file():
        raise UserError(
            f"No predictions at {path}. Wanted an evaluation's folder: outputs/DATASET/RUN/eval/EVALUATION."
        )
    predictions = read_predictions(path)
    return by_tag(predictions, read_scores(folder, predictions))


def format_tables(tables: Mapping[str, Sequence[TagRow]]) -> str:
    """The tables as text in columns."""
    texts = []
    for tag, rows in tables.items():
        names = list(dict.fromkeys(name for row in rows for name in row.scores))
        cells = [[clean(tag, 40), "items", "groups", *names]]
        cells += [
            [clean(row.value, 40) or '""', f"{row.items:,}", f"{row.groups:,}", *(_cell(name, row) for name in names)]
            for row in rows
        ]
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        texts.append("\n".join("  ".join(_align(line, widths)).rstrip() for line in cells))
    return "\n\n".join(texts)


def _cell(name: str, row: TagRow) -> str:
    """A score with its interval; of how many items it is, where some have none (a response without a loss)."""
    of = row.scores.get(name)
    if of is None:
        return ""
    text = str(of) if of.low is not None else f"{format_score(of.estimate, describe(name).decimals)} (no interval)"
    return text if of.items == row.items else f"{text}, {plural(of.items, 'item')}"


def _align(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names and scores to the left, counts to the right."""
    return [
        text.rjust(width) if column in (1, 2) else text.ljust(width)
        for column, (text, width) in enumerate(zip(cells, widths, strict=True))
    ]
