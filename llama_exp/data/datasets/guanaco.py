"""Guanaco (OpenAssistant conversations) in Llama-2 markup: what was said so far -> the assistant's next turn."""

import hashlib

from llama_exp.data.datamodule import ExampleDataModule, text
from llama_exp.records import Example, Turn


class GuanacoDataModule(ExampleDataModule):
    """A row of `mlabonne/guanaco-llama2-1k`:

        {"text": "<s>[INST] Why is the sky blue? [/INST] Air scatters … </s><s>[INST] And red? [/INST] At dusk … </s>"}

    Quirk: the special tokens are written out, and a third of the rows holds several turns. The markup is taken apart
    here, so that no tokenizer ever sees a literal `<s>`. One Example per assistant turn, with the turns before it.
    Rows that open with the same message are branches of one conversation tree: they are one group.
    """

    conf = "guanaco"
    columns = ("text",)
    fields = ("message",)
    tasks = ("chat",)
    splits = {"train": "train"}

    def read(self, row: dict) -> list[Example]:
        pairs = turns(text(row["text"]))
        if not pairs:
            return self.drop("not [INST] … [/INST] … markup")
        system, pairs[0] = opening(pairs[0])
        name, group = digest(text(row["text"])), digest(pairs[0][0])
        examples: list[Example] = []
        history: tuple[Turn, ...] = ()
        for number, (message, reply) in enumerate(pairs, 1):
            if not message or not reply:  # what follows answers something that is not there
                self.drop("empty message or answer in the conversation", len(pairs) - number + 1)
                break
            prompt, response = self.fill(message=self.clean(message)), self.clean(reply)
            example = Example(f"{name}-{number}", prompt, response, (reply,), group, history=history, system=system)
            examples.append(example)
            history += (Turn("user", prompt), Turn("assistant", response))
        return examples


def turns(markup: str) -> list[tuple[str, str]]:
    """[(message, reply), …], stripped; [] where the markup is broken.

    turns("<s>[INST] a [/INST] b </s><s>[INST] c [/INST] d </s>") == [("a", "b"), ("c", "d")]
    """
    before, *pieces = markup.split("<s>")
    pairs = []
    for piece in pieces:
        said, closed, after = piece.partition("</s>")
        message, answered, reply = said.strip().removeprefix("[INST]").partition("[/INST]")
        whole = said.strip().startswith("[INST]") and answered and closed and not after.strip()
        if not whole or any(mark in part for mark in ("[INST]", "[/INST]") for part in (message, reply)):
            return []
        pairs.append((message.strip(), reply.strip()))
    return [] if before.strip() else pairs


def opening(pair: tuple[str, str]) -> tuple[str, tuple[str, str]]:
    """Take the system prompt out of the first message: ("Be brief.", ("Hello", "Hi"))."""
    message, reply = pair
    if not message.startswith("<<SYS>>") or "<</SYS>>" not in message:
        return "", pair
    system, _, message = message.removeprefix("<<SYS>>").partition("<</SYS>>")
    return system.strip(), (message.strip(), reply)


def digest(words: str) -> str:
    """A name made of the content: the same whatever the order of rows."""
    return hashlib.sha256(words.encode()).hexdigest()[:16]
