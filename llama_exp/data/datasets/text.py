"""Plain text of the user's own: the first half of a passage -> its second half."""

import hashlib

from llama_exp.data.datamodule import ExampleDataModule, text
from llama_exp.data.readers import NEIGHBOURS
from llama_exp.records import Example

PASSAGE, SHORTEST = 120, 16  # words of a passage; a shorter one than that has nothing to go on


class TextDataModule(ExampleDataModule):
    """A row is a paragraph of a .txt file, as the reader finds them between empty lines:

        {"text": "The ferry to the island leaves at nine. …", "paragraph": 12}

    Longer paragraphs are passages of `PASSAGE` words. Paragraphs near each other are one group.
    """

    conf = "text"
    columns = ("text", "paragraph")
    fields = ("text",)
    answers_in_context = False

    def read(self, row: dict) -> list[Example]:
        words, number = self.clean(text(row["text"])).split(), int(row["paragraph"])
        found = []
        for start in range(0, len(words), PASSAGE):
            passage = words[start : start + PASSAGE]
            if len(passage) < SHORTEST:
                self.drop("fewer than 16 words")
                continue
            half = len(passage) // 2
            rest = " ".join(passage[half:])
            prompt = self.fill(text=" ".join(passage[:half]))
            name = hashlib.md5(" ".join(passage).encode()).hexdigest()[:12]  # of another text it is another item
            found.append(Example(name, prompt, rest, (rest,), f"{number // NEIGHBOURS}"))
        return found
