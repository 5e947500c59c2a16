"""SQuAD v1.1 rows: articles of a few paragraphs, 3 to 5 questions each, answers with exact character offsets.

    {"id": "5f0c…", "title": "Brandor", "context": "The founder of Brandor was Klaren Vimo. …", "question": "Who founded
     Brandor?", "answers": {"text": ["Klaren Vimo"], "answer_start": [27]}}

Every paragraph tells of its article's subject and of a second one of the same kind, so the right sentence is not found
by the question's verb alone. As in the real set, rows of `train` carry one answer and held-out rows up to three.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from llama_exp.data.synthetic.world import KINDS, Relation, Subject, World, state

MIN_WORDS = 60


class Fact(NamedTuple):
    subject: Subject
    relation: Relation
    start: int  # of the value, in characters from the paragraph's start

    @property
    def value(self) -> str:
        return self.subject.facts[self.relation.key]


def squad(split: str, rng: random.Random) -> Iterator[dict]:
    """Endless rows of one split, article by article."""
    world = World(split, rng)
    while True:
        subject = world.subject(rng.choice(tuple(KINDS)))
        for _ in range(rng.randint(2, 4)):
            companion = world.subject(subject.kind)
            context, facts = paragraph(rng, (subject, companion))
            for fact in rng.sample(facts, rng.randint(3, 5)):
                yield {
                    "id": f"{rng.getrandbits(96):024x}",
                    "title": subject.name.replace(" ", "_"),
                    "context": context,
                    "question": rng.choice(fact.relation.asks).replace("{s}", fact.subject.name),
                    "answers": answers(fact, split, rng),
                }


def paragraph(rng: random.Random, subjects: tuple[Subject, ...]) -> tuple[str, list[Fact]]:
    """60 to 150 words about the subjects, facts interleaved, with where each fact's value stands."""
    told = [(s, relation) for i, s in enumerate(subjects) for relation in pick(rng, s, *((5, 6) if i == 0 else (3, 4)))]
    rng.shuffle(told)
    text, facts = "", []
    for subject, relation in told:
        sentence, at = state(rng.choice(relation.says), subject.name, subject.facts[relation.key])
        facts.append(Fact(subject, relation, len(text) + at))
        text += sentence + " "
    asides = list(KINDS[subjects[0].kind].asides)
    rng.shuffle(asides)
    while asides and (text.count(" ") < MIN_WORDS or rng.random() < 0.3):
        text += asides.pop() + " "
    return text[:-1], facts


def pick(rng: random.Random, subject: Subject, low: int, high: int) -> list[Relation]:
    return rng.sample(KINDS[subject.kind].relations, rng.randint(low, high))


def answers(fact: Fact, split: str, rng: random.Random) -> dict[str, list]:
    """The value as it stands in the paragraph; held-out rows hear up to three people, some of whom leave out "the"."""
    text, start = [fact.value], [fact.start]
    if split != "train":
        for _ in range(rng.randint(0, 2)):
            skip = len("the ") if fact.value.startswith("the ") and rng.random() < 0.5 else 0
            text.append(fact.value[skip:])
            start.append(fact.start + skip)
    return {"text": text, "answer_start": start}
