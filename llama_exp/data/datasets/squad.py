"""SQuAD v1.1: a paragraph of Wikipedia and a question -> the words of the paragraph that answer it."""

import re

from llama_exp.data.datamodule import ExampleDataModule, text, texts
from llama_exp.records import Example

QUESTION_WORDS = re.compile(r"\b(what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)


class SquadDataModule(ExampleDataModule):
    """A row of `rajpurkar/squad`:

        {"id": "5733be28…", "title": "Lake_Erren",
         "context": "Lake Erren lies in the north of the plain. It was dug in 1832 by miners …",
         "question": "Who dug Lake Erren?",
         "answers": {"text": ["miners", "miners", "by miners"], "answer_start": [58, 58, 55]}}

    Quirk: train has one answer a question, the dev set three to six, often the same one repeated. All of them count.
    Questions on one article repeat its facts, so the article (`title`) is the group.
    """

    conf = "squad"
    columns = ("id", "title", "context", "question", "answers")
    answers_in_context = True
    fields = ("context", "question", "title")
    splits = {"train": "train", "test": "validation"}  # the official dev set; the official test set was never published

    def read(self, row: dict) -> list[Example]:
        references = texts((row["answers"] or {}).get("text"))
        context, question = self.clean(text(row["context"])), self.clean(text(row["question"]))
        if not references:
            return self.drop("no answer")
        if not context or not question:
            return self.drop("no question or context")
        prompt = self.fill(context=context, question=question, title=text(row["title"]).replace("_", " "))
        tags = {"question_word": question_word(question), "answer_words": answer_words(references)}
        name, group = text(row["id"]), text(row["title"])
        return [Example(name, prompt, text(references[0]), references, group, context, tags=tags)]


def question_word(question: str) -> str:
    """The first wh-word, which mostly tells the kind of answer; "other" where there is none."""
    found = QUESTION_WORDS.search(question)
    return found.group().lower() if found else "other"


def answer_words(references: tuple[str, ...]) -> str:
    """How long the shortest right answer is."""
    words = min(len(reference.split()) for reference in references)
    return "1" if words == 1 else "2-3" if words < 4 else "4+"
