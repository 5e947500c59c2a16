"""scores.jsonl: the scores of each item of an evaluation."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_exp.errors import UserError
from llama_exp.records import Prediction
from llama_exp.runs.files import atomic_write, parse_json, read_text

SCORES = "scores.jsonl"


ItemScores = Mapping[str, Sequence[float]]  # {score: [value per prediction]}


def write_scores(folder: Path, predictions: Sequence[Prediction], items: ItemScores) -> None:
    """scores.jsonl: a line a prediction, {"id": …, "squad/f1": 80.0, …}, in the order of predictions.jsonl."""
    with atomic_write(Path(folder) / SCORES) as file:
        for index, prediction in enumerate(predictions):
            values = {name: of_score[index] for name, of_score in items.items()}
            file.write(json.dumps({"id": prediction.id, **values}, ensure_ascii=False, allow_nan=False) + "\n")


def read_scores(folder: Path, predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """The scores of these predictions, in their order; a UserError where they are not there or not numbers."""
    path = Path(folder) / SCORES
    try:
        rows = [parse_json(text) for text in read_text(path).split("\n") if text.strip()]
        by_id = {row.pop("id"): row for row in rows}
        names = list(rows[0]) if rows else []
        items = {name: [float(by_id[p.id][name]) for p in predictions] for name in names}
    except OSError as error:
        raise UserError(
            f"No scores of items at {path} ({error.strerror}). Run the same evaluate command again."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} does not hold the scores of predictions.jsonl beside it ({type(error).__name__}: {error}). "
            "Remove this file alone and type the same evaluate command again: the replies are scored once more."
        ) from None
    if not all(math.isfinite(value) for values in items.values() for value in values):
        raise UserError(
            f"{path} holds a score that is no number. Remove this file alone and type the same evaluate command "
            "again: the replies are scored once more."
        )
    return items
