"""MedQuAD: a patient's question -> the answer of an institute of the NIH."""

import dataclasses
import hashlib
import re

from llama_exp.data.module import ExampleDataModule, text
from llama_exp.data.splitting import components
from llama_exp.records import Example

LONG = 40  # characters of a normalised sentence: two answers that share one of this length belong together


class MedicalDataModule(ExampleDataModule):
    """A row of `keivalya/MedQuad-MedicalQnADataset`:

        {"qtype": "symptoms", "Question": "What are the symptoms of Hay Fever ?",
         "Answer": "Hay fever may cause the following:     - Sneezing.    - Itchy eyes.   Talk to your doctor …"}

    Quirks: lists have lost their line breaks, and the answers are made of shared text: a question asked of two
    institutes, a paragraph about clinical trials pasted 150 times, tables introduced by the same seven sentences 2,243
    times. On a random split 20 % of the test questions and 31 % of the sentences of test answers also stand in train.
    So rows that share a normalised question or a sentence of at least `LONG` characters, directly or through others,
    are one group, and nothing is excused as boilerplate: sentences shared by more than 100 rows alone would be 20 %.
    The price: the largest group holds half of the rows, is larger than any held-out share and so always in train.
    Held-out answers are those that were written for their question; rows by template ("symptoms") are few among them.
    """

    columns = ("qtype", "Question", "Answer")
    fields = ("question", "qtype")
    splits = {"train": "train", "validation": "validation", "test": "test"}

    def read(self, row: dict) -> list[Example]:
        question, answer, qtype = text(row["Question"]), text(row["Answer"]), text(row["qtype"])
        response, prompt = self.clean(answer), self.fill(question=self.clean(question), qtype=qtype)
        if not response:
            return self.drop("no answer")
        if not question:
            return self.drop("no question")
        name = hashlib.sha256(f"{question}\n{answer}".encode()).hexdigest()[:16]
        return [Example(name, prompt, response, (answer,), normalised(question), tags={"qtype": qtype})]

    def regroup(self, examples: list[Example]) -> list[Example]:
        """Connected components, each named by its alphabetically first question: row order does not matter."""
        found = components([{("question", e.group), *long_sentences(e.references[0])} for e in examples])
        names: dict[int, str] = {}
        for number, example in zip(found, examples, strict=True):
            names[number] = min(names.get(number, example.group), example.group)
        return [dataclasses.replace(e, group=names[number]) for number, e in zip(found, examples, strict=True)]


def normalised(words: str) -> str:
    return " ".join(re.findall(r"\w+", words.lower()))


def long_sentences(answer: str) -> set[str]:
    """Normalised sentences, list items and lines of at least LONG characters."""
    sentences = (normalised(part) for part in re.split(r"(?<=[.!?])\s+|\n|\s{3,}", answer))
    return {sentence for sentence in sentences if len(sentence) >= LONG}
