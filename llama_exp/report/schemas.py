"""The JSON schemas of the files that others may build on, from the dataclasses that are written:

python -m llama_exp.report.schemas docs/schemas
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from llama_exp.report.answer import Answer
from llama_exp.report.question import AskedQuestion
from llama_exp.runs.files import write_json
from llama_exp.runs.results import Results
from llama_exp.runs.summary import Summary


@dataclass(frozen=True, slots=True)
class Answers:
    """report/answer.json: an answer per comparison, in the order of the page.

    question   of the last sweep that had one
    """

    schema: int
    answers: tuple[Answer, ...]
    question: AskedQuestion | None = None


FILES: dict[str, type] = {"answer.json": Answers, "results.json": Results, "summary.json": Summary}


def json_schema(name: str) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(FILES[name]).json_schema()}


if __name__ == "__main__":
    for name in FILES:
        write_json(Path(sys.argv[1], name.replace(".json", ".schema.json")), json_schema(name))
