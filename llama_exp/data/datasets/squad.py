"""SQuAD v1.1: a paragraph of Wikipedia and a question -> the words of the paragraph that answer it."""

import re
from collections.abc import Iterator

from llama_exp.data import sources
from llama_exp.data.datamodule import ExampleDataModule, text, texts
from llama_exp.data.readers import Row
from llama_exp.errors import UserError
from llama_exp.records import Example

QUESTION_WORDS = re.compile(r"\b(what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)


class SquadDataModule(ExampleDataModule):
    """A row of `rajpurkar/squad`:

        {"id": "5733be28…", "title": "Lake_Erren",
         "context": "Lake Erren lies in the north of the plain. It was dug in 1832 by miners …",
         "question": "Who dug Lake Erren?",
         "answers": {"text": ["miners", "miners", "by miners"], "answer_start": [58, 58, 55]}}

    Quirk: train has one answer a question, the dev set three to six, often the same one repeated. All of them count.
    Questions on one article repeat its facts, so the article (`title`) is the group. The official files, {"data":
    [{"title": …, "paragraphs": [{"context": …, "qas": […]}]}]}, are read too. Questions without an answer (SQuAD 2.0)
    are refused: v1.1's scores do not know them, and dropped ones would make another test set.
    """

    conf = "squad"
    columns = ("id", "title", "context", "question", "answers")
    answers_in_context = True
    fields = ("context", "question", "title")
    splits = {"train": "train", "test": "validation"}  # the official dev set; the official test set was never published

    def rows_on_disk(self) -> sources.Rows:
        path, subset = self.dataset.path, self.dataset.subset
        rows = sources.from_path(path, subset, (), self._repairs)
        rows = {split: [flat for row in of_split for flat in questions(row)] for split, of_split in rows.items()}
        for of_split in rows.values():
            sources.check_files(of_split, self.columns, f"dataset.path={path}")
        return rows

    def read(self, row: dict) -> list[Example]:
        answers = row["answers"]
        if answers is not None and (row.get("is_impossible") or answers.get("text") == []):
            raise UserError(
                f"{getattr(row, 'where', self.dataset.hub)}: question {text(row['id'])} has no answer, as in SQuAD "
                f"2.0. dataset={self.dataset.name} trains and scores by SQuAD 1.1, which has an answer to every "
                "question. Give the files of 1.1, or leave out the questions where is_impossible is true."
            )
        references = texts((answers or {}).get("text"))
        context, question = self.clean(text(row["context"])), self.clean(text(row["question"]))
        if not references:
            return self.drop("no answer")
        if not context or not question:
            return self.drop("no question or context")
        prompt = self.fill(context=context, question=question, title=text(row["title"]).replace("_", " "))
        tags = {"question_word": question_word(question), "answer_words": answer_words(references)}
        name, group = text(row["id"]), text(row["title"])
        return [Example(name, prompt, text(references[0]), references, group, context, tags=tags)]


def questions(row: dict) -> Iterator[dict]:
    """The questions of an article of the official JSON, a row each; any other row as it is."""
    if "paragraphs" not in row:
        yield row
        return
    for paragraph in row["paragraphs"]:
        for question in paragraph["qas"]:
            answers = {"text": [answer["text"] for answer in question["answers"]]}
            values = {**question, "title": row["title"], "context": paragraph["context"], "answers": answers}
            yield row.of(values) if isinstance(row, Row) else values


def question_word(question: str) -> str:
    """The first wh-word, which mostly tells the kind of answer; "other" where there is none."""
    found = QUESTION_WORDS.search(question)
    return found.group().lower() if found else "other"


def answer_words(references: tuple[str, ...]) -> str:
    """How long the shortest right answer is."""
    words = min(len(reference.split()) for reference in references)
    return "1" if words == 1 else "2-3" if words < 4 else "4+"
