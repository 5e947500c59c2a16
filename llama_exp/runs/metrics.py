"""metrics.csv: a row a step, as training wrote it or whatever else lies there."""

import csv
import io
from pathlib import Path

from llama_exp.runs.files import read_text

NEEDED = {"step", "loss", "validation_loss"}


def parse_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, as text. Raises OSError, or ValueError for another file under this name."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        if not set(rows.fieldnames or ()) >= NEEDED:
            raise ValueError("wanted the columns step, loss and validation_loss")
        return list(rows)
    except csv.Error as error:
        raise ValueError(str(error)) from None


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of a folder's metrics.csv; [] where there is none that can be read."""
    try:
        return parse_metrics(folder / "metrics.csv")
    except (OSError, ValueError):
        return []
