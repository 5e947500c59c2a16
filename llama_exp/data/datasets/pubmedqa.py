"""PubMedQA, the part labelled by experts: an abstract without its conclusion and a question -> yes, no or maybe."""

from llama_exp.data.datamodule import ExampleDataModule, text, texts
from llama_exp.records import Example


class PubMedQADataModule(ExampleDataModule):
    """A row of `qiaojin/PubMedQA`, `pqa_labeled`:

        {"pubid": 10000001, "question": "Does a nap improve recall?",
         "context": {"contexts": ["Sleep is thought to …", "Forty adults were …"], "labels": ["BACKGROUND", "METHODS"]},
         "long_answer": "A short nap improved recall …", "final_decision": "yes"}

    Quirk: `long_answer` is the abstract's conclusion: it gives the decision away and is never shown.
    """

    conf = "pubmedqa"
    columns = ("pubid", "question", "context", "final_decision")
    fields = ("context", "question")
    tasks = ("decision",)
    splits = {"train": "train"}

    def read(self, row: dict) -> list[Example]:
        decision, question = text(row["final_decision"]), self.clean(text(row["question"]))
        parts = (self.clean(part.strip()) for part in texts((row["context"] or {}).get("contexts")))
        context = "\n".join(part for part in parts if part)
        if not decision:
            return self.drop("no answer")
        if not context or not question:
            return self.drop("no question or context")
        name, tags = text(row["pubid"]), {"decision": decision.lower()}
        prompt = self.fill(context=context, question=question)
        return [Example(name, prompt, decision.lower(), (decision,), name, context, tags=tags)]
