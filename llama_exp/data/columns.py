"""Which column of a table is what: as the configuration says, or by a form that is recognised.

    prompt, response                      the names themselves
    messages                              the chat form: a list of {"role", "content"}
    conversations                         ShareGPT's: a list of {"from", "value"}
    instruction, input, output            Alpaca's

A column that is not there is answered with those that are, three values of each, and the command that was probably
meant.
"""

import dataclasses
import difflib
from collections.abc import Sequence

from llama_exp.config.command_line import hydra_value, shell_quoted, with_override
from llama_exp.config.compose import typed_arguments
from llama_exp.config.schema import COLUMN_KEYS, DatasetConfig
from llama_exp.data.readers import columns_of
from llama_exp.errors import UserError
from llama_exp.formatting import join_list
from llama_exp.programs import program
from llama_exp.sanitize import clean

# The columns that show a form, what they are, and its name for people; the first that is there wins.
FORMS: list[tuple[set[str], dict[str, str], str]] = [
    ({"prompt", "response"}, {"prompt": "prompt", "response": "response"}, ""),
    ({"messages"}, {"messages": "messages"}, "read as conversations (column messages)"),
    ({"conversations"}, {"messages": "conversations"}, "read as ShareGPT's conversations (column conversations)"),
    (
        {"instruction", "input", "output"},
        {"prompt": "instruction", "context": "input", "response": "output"},
        "read as Alpaca's instruction, input and output",
    ),
    (
        {"instruction", "output"},
        {"prompt": "instruction", "response": "output"},
        "read as Alpaca's instruction and output",
    ),
]
# What columns of that role are often called, for a suggestion only.
USUAL = {
    "prompt": "prompt question instruction query input text message body description title".split(),
    "response": "response answer resolution output completion reply summary label target category".split(),
}
ROLES = {"prompt": "what is asked", "response": "the answer"}  # of the columns that every table has
VALUES, WIDTH = 3, 40  # shown of each column


def with_columns(dataset: DatasetConfig, rows: Sequence[dict]) -> tuple[DatasetConfig, str]:
    """The configuration with every column named that is used, and a sentence where a form was recognised.

    Raises UserError for columns that are not there, and for keys that exclude each other.
    """
    there = columns_of(rows)
    named = {key: value for key in COLUMN_KEYS if (value := getattr(dataset, key)) is not None}
    note = ""
    if not named.keys() & {"prompt", "response", "messages"}:
        form = next((form for form in FORMS if form[0] <= set(there)), None)
        if form:
            named, note = {**form[1], **named}, form[2]
    if "messages" in named and (both := sorted(named.keys() & {"prompt", "response", "context"})):
        raise UserError(
            f"dataset.messages={named['messages']} is a whole conversation: leave dataset.{both[0]} out, or leave "
            "dataset.messages out and name dataset.prompt and dataset.response."
        )
    if "messages" not in named:
        named = {"prompt": "prompt", "response": "response"} | named
    if missing := {key: name for key, name in named.items() if name not in there}:
        raise UserError(_missing(dataset, missing, named, rows, there))
    return dataclasses.replace(dataset, **named), note


def _missing(dataset: DatasetConfig, missing: dict, named: dict, rows: Sequence[dict], there: list[str]) -> str:
    source = dataset.path or dataset.hub
    wrong = join_list(f"dataset.{key}={name}" for key, name in missing.items() if getattr(dataset, key))
    absent = [key for key in missing if not getattr(dataset, key)]
    said = [f"{wrong}: {source} has no such column."] if wrong else []
    if absent:
        roles = join_list(ROLES[key] for key in absent)
        said += [
            f"Name the column of {source} that holds {roles}: {join_list(f'dataset.{key}=COLUMN' for key in absent)}."
        ]
    width = max((len(clean(column, 30)) for column in there), default=0)
    shown = "\n".join(f"  {clean(column, 30):{width}}  {_values(column, rows)}" for column in there) or "  (none)"
    return (
        f"{' '.join(said)} Its columns, with some of their values:\n{shown}\n"
        f"Probably: {suggested_command(dataset, named, rows, there)}"
    )


def _values(column: str, rows: Sequence[dict]) -> str:
    found: dict[str, None] = {}
    for row in rows:
        if row.get(column) not in (None, "", []):
            found.setdefault(clean(row[column], WIDTH))
        if len(found) == VALUES:
            break
    return " · ".join(found) or "(empty)"


def suggested_command(dataset: DatasetConfig, named: dict, rows: Sequence[dict], there: list[str]) -> str:
    """The command as typed, with the columns that were probably meant; COLUMN where there is no saying."""
    words = typed_arguments()
    if not words:  # in a program
        keys = [key for key in ("path", "hub") if getattr(dataset, key)]
        words = [f"dataset={dataset.name}", *(f"dataset.{key}={hydra_value(getattr(dataset, key))}" for key in keys)]
        words += [f"dataset.{key}={hydra_value(name)}" for key, name in named.items()]
    taken = [name for name in named.values() if name in there]
    for key, name in named.items():
        if name not in there:
            name = _guess(key, name, [column for column in there if column not in taken], rows)
            taken.append(name)
            words = with_override(words, f"dataset.{key}", name)
    return " ".join([program("train"), *map(shell_quoted, words)])


def _guess(key: str, name: str, free: list[str], rows: Sequence[dict]) -> str:
    """The free column that is called nearly so, or as such columns often are, or the only one of several words."""
    by_name = {column.casefold(): column for column in reversed(free)}
    if near := difflib.get_close_matches(name.casefold(), by_name, n=1, cutoff=0.6):
        return by_name[near[0]]
    for word in USUAL.get(key, ()):
        if found := next((column for column in free if word in column.casefold()), None):
            return found
    texts = [column for column in free if any(" " in str(row.get(column)) for row in rows[:100])]
    return (texts if len(texts) == 1 else free if len(free) == 1 else ["COLUMN"])[0]
