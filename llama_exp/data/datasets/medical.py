"""MedQuAD: a patient's question -> the answer of an institute of the NIH."""

import dataclasses
import hashlib
import re

from llama_exp.data.datamodule import ExampleDataModule, text
from llama_exp.data.splitting import components, normalised
from llama_exp.records import Example

LONG = 40  # characters of a normalised sentence: two answers that share one of this length belong together


class MedicalDataModule(ExampleDataModule):
    """A row of `keivalya/MedQuad-MedicalQnADataset`:

        {"qtype": "symptoms", "Question": "What are the symptoms of Hay Fever ?",
         "Answer": "Hay fever may cause the following:     - Sneezing.    - Itchy eyes.   Talk to your doctor …"}

    Quirks: lists have lost their line breaks, and answers share text: one question is asked of two institutes, the
    paragraphs on clinical trials are pasted 150 times, the same seven sentences introduce 2,243 tables. A random split
    leaves a fifth of the test questions and a third of the sentences of test answers in train as well.
    So rows that share a normalised question or a sentence of at least `LONG` characters, directly or through others,
    are one group, and nothing is excused as boilerplate: excusing what more than 100 rows share leaves a fifth of the
    sentences. The price: one group holds half of the rows and is always in train, being larger than any held-out share;
    answers made by template (most "symptoms") are few among the held-out ones, which were written for their question.
    """

    conf = "medical"
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


def long_sentences(answer: str) -> set[str]:
    """Normalised sentences, list items and lines of at least LONG characters."""
    parts = re.split(r"(?<=[.!?])\s+|\n|\s{2,}", answer)
    sentences = (normalised(part) for part in parts if len(part) >= LONG)
    return {sentence for sentence in sentences if len(sentence) >= LONG}
