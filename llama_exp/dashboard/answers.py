"""What a folder of runs has for a dashboard: the answers of its report, and the id of its last sweep."""

import dataclasses
import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from llama_exp.config.identity import sweep_id
from llama_exp.errors import UserError
from llama_exp.programs import program
from llama_exp.report.answer import SCHEMA, Answer
from llama_exp.report.schemas import Answers
from llama_exp.runs.stored import read_yaml
from llama_exp.sanitize import clean


def load_answers(outputs: Path) -> list[Answer]:
    """An answer for each dataset and split, the first of the page; raises UserError where there is none to show."""
    path = outputs / "report" / "answer.json"
    again = f"Write it with: llama-exp report outputs={clean(outputs)}"
    if not outputs.is_dir():
        raise UserError(f"No runs in {clean(outputs)}: there is no such folder. Name another: outputs=FOLDER")
    if not path.is_file():
        raise UserError(f"No answer in {clean(outputs)} yet: {clean(path)} is missing. {again}")
    try:
        found = TypeAdapter(Answers).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{clean(path)}: {clean(where)}: {clean(first['msg'])}. {again}") from None
    if found.schema != SCHEMA:
        raise UserError(f"{clean(path)}: schema {found.schema}, wanted {SCHEMA}. {again}")
    answers: dict[tuple[str, str], Answer] = {}
    for answer in found.answers:
        if answer.cells:
            answers.setdefault((answer.dataset, answer.split), without_folder(answer))
    if not answers:
        raise UserError(
            f"{clean(path)} holds no answer: it takes two evaluated cells. Make them with: "
            f"{program('train')} -m sample=100,1000 evaluate=true"
        )
    return list(answers.values())


def without_folder(answer: Answer) -> Answer:
    """An answer whose commands name no folder of this machine: others will read it."""

    def cut(text: str) -> str:
        return re.sub(r""" (["']?)outputs=(?:\1[^"']*\1|\S+)""", "", text)

    following = dataclasses.replace(answer.next, command=cut(answer.next.command)) if answer.next else None
    return dataclasses.replace(answer, next=following, sentences=tuple(map(cut, answer.sentences)))


def last_sweep(outputs: Path) -> str:
    """The id of the sweep that ran here last, by what Hydra wrote of it; "" where none did."""
    try:
        written = read_yaml(outputs / ".multirun" / "multirun.yaml")
        return sweep_id(map(str, written["hydra"]["overrides"]["task"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
