"""Guanaco rows: one column `text` in Llama-2 chat markup, about a third of them with more than one turn.

    {"text": "<s>[INST] Who founded Brandor? … [/INST] Klaren Vimo. </s><s>[INST] Thanks! [/INST] Welcome. </s>"}

Every reply can be worked out from the conversation, so a model that learns the tasks answers held-out rows rightly.
"""

import random
from collections.abc import Iterator

from llama_exp.data.synthetic.squad import paragraph
from llama_exp.data.synthetic.world import KINDS, World

MULTI_TURN = 0.35
CLOSINGS = (
    ("Thanks!", "You are welcome."),
    ("Thank you, that is all.", "Glad to help. Have a good day!"),
    ("ok, great", "Happy to help. Let me know if there is anything else."),
)


def guanaco(split: str, rng: random.Random) -> Iterator[dict]:
    world = World(split, rng)
    while True:
        yield {"text": "".join(f"<s>[INST] {said} [/INST] {reply} </s>" for said, reply in conversation(world, rng))}


def conversation(world: World, rng: random.Random) -> list[tuple[str, str]]:
    """One or more (message, reply) pairs about one thing."""
    turns = rng.choice((about_text, sort_names, join_lists, fill_form))(world, rng)
    if rng.random() >= MULTI_TURN:
        return turns[:1]
    return turns if rng.random() < 0.5 else [*turns, rng.choice(CLOSINGS)]


def about_text(world: World, rng: random.Random) -> list[tuple[str, str]]:
    """A note, a question about it, and another one."""
    kind = rng.choice(tuple(KINDS))
    text, facts = paragraph(rng, (world.subject(kind), world.subject(kind)))
    first, second = rng.sample(facts, 2)
    ask = [rng.choice(fact.relation.asks).replace("{s}", fact.subject.name) for fact in (first, second)]
    opening = rng.choice(("Here is a note.", "Please read this:", "I found this in an old book."))
    return [(f"{opening}\n\n{text}\n\n{ask[0]}", sentence(first.value)), (ask[1], sentence(second.value))]


def sort_names(world: World, rng: random.Random) -> list[tuple[str, str]]:
    given = [world.name() for _ in range(rng.randint(3, 6))]
    listed = "\n".join(f"- {name}" for name in given)
    ask = rng.choice(("Sort these names by the alphabet", "Put these names in order"))
    return [
        (f"{ask}:\n{listed}", "\n".join(f"{i}. {name}" for i, name in enumerate(sorted(given), 1))),
        ("And the other way round?", "\n".join(f"{i}. {name}" for i, name in enumerate(sorted(given)[::-1], 1))),
    ]


def join_lists(world: World, rng: random.Random) -> list[tuple[str, str]]:
    given = [world.name() for _ in range(rng.randint(3, 5))]
    return [
        (f"Write these words in one line: {' / '.join(given)}", f"{', '.join(given[:-1])} and {given[-1]}."),
        ("How many are there?", f"There are {len(given)}."),
    ]


def fill_form(world: World, rng: random.Random) -> list[tuple[str, str]]:
    """Facts as a form; the reply tells them in sentences."""
    subject = world.subject(rng.choice(tuple(KINDS)))
    told = rng.sample(KINDS[subject.kind].relations, 3)
    form = "\n".join(f"{relation.key}: {subject.facts[relation.key]}" for relation in told)
    said = [r.says[0].replace("{s}", subject.name).replace("{v}", subject.facts[r.key]) for r in told]
    return [
        (f"Turn this card into sentences.\n\nname: {subject.name}\n{form}", " ".join(said)),
        ("Only the first sentence, please.", said[0]),
    ]


def sentence(value: str) -> str:
    return f"{value[0].upper()}{value[1:]}."
