"""A table of the user's own: columns by name, or a form that is recognised (columns.py)."""

import dataclasses
import hashlib
import json
from string import Formatter
from typing import Any

from llama_exp.config.schema import COLUMN_KEYS
from llama_exp.data import sources
from llama_exp.data.chat_format import check_template
from llama_exp.data.columns import with_columns
from llama_exp.data.datamodule import ExampleDataModule, NotText, text, texts
from llama_exp.data.readers import columns_of
from llama_exp.data.splitting import components, normalised
from llama_exp.errors import UserError
from llama_exp.records import Example, Turn

LONG = 40  # characters of a response or context that two rows do not share by chance, as they share "yes"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
}


class TableDataModule(ExampleDataModule):
    """A row of any table, with columns that the configuration names:

        {"ticket_text": "The printer blinks red.", "resolution": "Open the lid and close it."}
        dataset.prompt=ticket_text dataset.response=resolution

    or a conversation, an Example for each of the assistant's turns:

        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}

    A response may be a list of references; the first is learnt. Where no column is named as the group, rows that share
    a prompt, or a response or context of at least `LONG` characters, directly or through others, are one group.
    """

    conf = "table"
    columns = ()
    fields = None
    names_columns = True
    answers_in_context = None  # whatever the table holds: found out from the rows

    def _rows(self) -> sources.Rows:
        rows = super()._rows()
        self.form, note = with_columns(self.dataset, rows["train"])
        if note:
            self._repairs[note] = 1
        used = tuple(column for key in COLUMN_KEYS if (column := getattr(self.form, key)))
        for of_split in rows.values():
            sources.check_files(of_split, used, f"{self.dataset.path or self.dataset.hub}")
        there = columns_of(rows["train"])
        check_template(self.dataset.template, ("prompt", "context", *there))
        self._named = [name for _, name, _, _ in Formatter().parse(self.dataset.template) if name is not None]
        if self.form.response in self._named and self.form.response != "prompt":
            raise UserError(
                f"dataset.template names {{{self.form.response}}}, the response: the answer would be shown."
            )
        if self.dataset.system in there:
            raise UserError(
                f"dataset.system={self.dataset.system} is the text of the system prompt, and there is a column of that "
                f"name. For the column type dataset.system_column={self.dataset.system}."
            )
        return rows

    def read(self, row: dict) -> list[Example]:
        return self._conversation(row) if self.form.messages else self._pair(row)

    def _pair(self, row: dict) -> list[Example]:
        references = texts(row.get(self.form.response))
        context = self.clean(text(row.get(self.form.context))) if self.form.context else ""
        asked = self.clean(text(row.get(self.form.prompt)))
        prompt = self._filled(asked, context, row)
        if not references or not (response := self.clean(references[0].strip())):
            return self.drop("no response")
        if (not asked and not context) or not prompt:
            return self.drop("no prompt")
        name = self._name(row, prompt, references)
        system = text(row.get(self.form.system_column)) if self.form.system_column else ""
        return [Example(name, prompt, response, references, self._group(row, name), context, system=system)]

    def _filled(self, asked: str, context: str, row: dict) -> str:
        """The user's message. The context follows the prompt where the template does not place it."""
        if context and "context" not in self._named and self.form.context not in self._named:
            asked = f"{asked}\n\n{context}".strip()
        special = {"prompt": asked, "context": context}
        parts = []
        for literal, name, _, _ in Formatter().parse(self.dataset.template):
            value = "" if name is None else special[name] if name in special else self.clean(text(row.get(name)))
            parts += [literal, value]
        return "".join(parts).strip()

    def _name(self, row: dict, *content: Any) -> str:
        """The id column's, else one made of the content: the same whatever the order of rows."""
        if self.form.id and (name := text(row.get(self.form.id))):
            return name
        return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]

    def _group(self, row: dict, name: str) -> str:
        return (text(row.get(self.form.group)) if self.form.group else "") or name

    # -- conversations -------------------------------------------------------------------------------------------------

    def _conversation(self, row: dict) -> list[Example]:
        spoken = turns(row.get(self.form.messages))
        if unknown := [role for role, _ in spoken if role not in ("system", "user", "assistant")]:
            return self.drop(f"a turn by {unknown[0]!r}, who is neither user nor assistant")
        system = "\n".join(words for role, words in spoken if role == "system")
        if not system and self.form.system_column:
            system = text(row.get(self.form.system_column))
        pairs = joined([turn for turn in spoken if turn[0] != "system"])
        if pairs and pairs[0][0] == "assistant":
            self.drop("an assistant's words before the user's")
            pairs = pairs[1:]
        if len(pairs) < 2:
            return self.drop("no answer of an assistant")
        name = self._name(row, pairs)
        group = self._group(row, name)
        examples: list[Example] = []
        history: tuple[Turn, ...] = ()
        for number, ((_, message), (_, reply)) in enumerate(zip(pairs[::2], pairs[1::2], strict=False), 1):
            prompt, response = self._filled(self.clean(message), "", row), self.clean(reply)
            if not prompt or not response:  # what follows answers something that is not there
                self.drop("empty message or answer in the conversation", len(pairs) // 2 - number + 1)
                break
            examples.append(
                Example(f"{name}-{number}", prompt, response, (reply,), group, history=history, system=system)
            )
            history += (Turn("user", prompt), Turn("assistant", response))
        return examples

    # -- groups --------------------------------------------------------------------------------------------------------

    def regroup(self, examples: list[Example]) -> list[Example]:
        """Connected components, each named by its first id in the alphabet: row order does not matter."""
        if self.form.group:
            return examples
        found = components([shared(example) for example in examples])
        names: dict[int, str] = {}
        for number, example in zip(found, examples, strict=True):
            names[number] = min(names.get(number, example.group), example.group)
        return [dataclasses.replace(e, group=names[number]) for number, e in zip(found, examples, strict=True)]


def shared(example: Example) -> set[tuple[str, str]]:
    """What joins an Example with others: its row, its first message, a long response, a long context."""
    keys = {("row", example.group)}
    if not example.history:  # a later "thanks" says nothing
        keys.add(("prompt", normalised(example.prompt) or example.prompt))
    for kind, words in (("response", example.references[0]), ("context", example.context)):
        if len(words) >= LONG:
            keys.add((kind, normalised(words) or words))
    return keys


def turns(value: Any) -> list[tuple[str, str]]:
    """[(role, words), …] of a conversation: role and content, or ShareGPT's from and value; also as a string of JSON.

    A role that is not known stays as it is written. Raises NotText for another shape.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise NotText(value) from None
    found = []
    for turn in value or []:
        if not isinstance(turn, dict):
            raise NotText(value)
        role = text(turn.get("role", turn.get("from"))).lower()
        found.append((ROLES.get(role, role), spoken_text(turn.get("content", turn.get("value")))))
    return found


def spoken_text(content: Any) -> str:
    """The words of a turn, which may come in parts: [{"type": "text", "text": "Hello"}]."""
    if isinstance(content, list):
        return "\n".join(text(part.get("text")) if isinstance(part, dict) else text(part) for part in content)
    return text(content)


def joined(spoken: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Turns that alternate: what one says in a row is one turn."""
    found: list[tuple[str, str]] = []
    for role, words in spoken:
        if found and found[-1][0] == role:
            words = f"{found.pop()[1]}\n{words}"
        found.append((role, words))
    return found
