"""Prose for pretraining: paragraphs about the invented world, most of them told again in other words.

The statements are those of the question sets (their names are not), and the second telling is what teaches a model to
find a fact in its context and copy it: "As noted, the person who founded Brandor was Klaren Vimo." There is no question
mark in it, no prompt and no chat markup.
"""

import random
from collections.abc import Iterator

from llama_exp.data.synthetic.medical import TEMPLATES, illness
from llama_exp.data.synthetic.squad import Fact, paragraph
from llama_exp.data.synthetic.tweetsumm import details
from llama_exp.data.synthetic.world import KINDS, World, state

LEADS = ("In short: ", "To sum up: ", "As noted: ", "In other words: ", "The records agree: ", "It bears repeating: ")
ASIDES = (  # ordinary words that the statements lack, so that no common word is wholly new to the model
    "When winter came, the roads were closed.", "Who came late had to stand at the wall.", "Where the road ends, a forest begins.",
    "What remains of the tower is a heap of stones.", "Which path they took was never written down.", "How the fire began is not known.",
    "Whom the letter was meant for is not clear.", "Why the gate was closed is a matter of dispute.", "Answer came late, if it came at all.",
    "Question after question was put to the council.", "Context is everything in such letters.", "With a few words he left the room.",
    "Under the roof there was room for ten.", "By and by the noise died down.", "Since then little has changed.", "From the hill one sees the sea.",
    "After that time nobody asked again.", "For much of the year it rains.", "Near the place stood an old mill.", "Some use the word for any old house.",
    "I saw it [12] and so did Is. N. Stor.", "The note reads I/N [S] T and means nothing to us.", "They did not, and he does not, and nobody will.",
    "Does and stags were seen at dawn, and in which order is open.", "Read it twice, said the clerk: it is a list/table of names.",
)  # fmt: skip


def documents(rng: random.Random) -> Iterator[str]:
    world = World("pretraining", rng)
    kinds, weights = (told_again, guest_list, complaint, entry), (80, 10, 5, 5)
    while True:
        yield rng.choices(kinds, weights)[0](world, rng)


def told_again(world: World, rng: random.Random) -> str:
    """A paragraph about one to three subjects, then half or more of its facts again."""
    kind = rng.choice(tuple(KINDS))
    text, facts = paragraph(rng, tuple(world.subject(kind) for _ in range(rng.choice((1, 2, 2, 2, 3)))))
    if rng.random() < 0.2:
        text += " " + rng.choice(ASIDES)
    told = rng.sample(facts, rng.randint((len(facts) + 1) // 2, len(facts)))
    styles = [rng.choice(STYLES)] if rng.random() < 0.5 else STYLES
    again = " ".join(capital(rng.choice(styles)(fact, rng)) for fact in told)
    if rng.random() < 0.5:
        again = rng.choice(LEADS) + reworded(rng.choice(facts), rng) + " " + again
    return text + rng.choice((" ", "\n\n")) + again


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def clause(fact: Fact, rng: random.Random) -> str:
    return rng.choice(fact.relation.clauses).replace("{s}", fact.subject.name)


def reworded(fact: Fact, rng: random.Random) -> str:
    """Another statement of the same fact (one in three times the same one)."""
    return state(rng.choice(fact.relation.says), fact.subject.name, fact.value)[0]


def clause_first(fact: Fact, rng: random.Random) -> str:
    return f"{clause(fact, rng)} {rng.choice(('was', 'is', 'remains'))} {fact.value}."


def value_first(fact: Fact, rng: random.Random) -> str:
    return f"{fact.value} is {clause(fact, rng)}."


def ledger(fact: Fact, rng: random.Random) -> str:
    """An entry of an index: "Founder of Brandor: Klaren Vimo."."""
    return f"{clause(fact, rng).removeprefix('the ')}: {fact.value}."


DEFERRED = (  # {c}: the noun phrase, {v}: the value, {V}: the value with a capital
    "much has been written about {c}; in short, {v}.", "next comes {c}, as far as the records show. {V}.", "{c} / {v}.", "{c} [{v}].",
    "on {c} the sources agree. {V}.", "{c} (see above): {v}.", "one line of the index is about {c}. It reads: {v}.", "{c} - {v}.",
    "somebody had marked {c} with a pen: {v}.", "{c}, to come to the point, is {v}.", "now to {c}.\n\n{V}.", "{c}, then, was said to be {v}.",
    "let us turn to {c} once more, since it is given in the text. It is {v}.", "- {c}\n- {v}\n",
)  # fmt: skip


def deferred(fact: Fact, rng: random.Random) -> str:
    """The value some words after the phrase that calls for it, so it has to be kept in mind across them."""
    said = rng.choice(DEFERRED).replace("{c}", clause(fact, rng))
    return said.replace("{v}", fact.value).replace("{V}", capital(fact.value))


STYLES = (reworded, clause_first, value_first, ledger, deferred, deferred)  # deferred is what made tuning easy


def guest_list(world: World, rng: random.Random) -> str:
    """The same names over and over, whole or in part: copying and nothing else."""
    guests = [rng.choice((world.name, world.person))() for _ in range(rng.randint(3, 8))]
    parts = [rng.sample(guests, rng.randint(2, len(guests))) for _ in range(rng.randint(2, 5))]
    openings = ("Among the guests were", "The letter names", "Then came", "Later the host thanked", "The list gives")
    whole = f"At the table sat {enumerated(guests)}."
    return " ".join([whole, *(f"{rng.choice(openings)} {enumerated(part)}." for part in parts), whole])


def enumerated(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


COMPLAINTS = (
    "A customer in {town} waited {days} days for a box of {good}. Order {number} had gone to the wrong house by mistake, and the agent sent a new box.",
    "The {good} from order {number} was broken when it arrived in {town}. The agent was sorry and promised a refund of {sum} crowns within {days} days.",
    "A customer was charged {sum} crowns twice for {good} in the shop in {town}. The agent found the mistake, and one payment went back after {days} days.",
    "The shop in {town} is open until {hour} o'clock, and a box of {good} costs {sum} crowns there. Have a great day, says the sign.",
)  # fmt: skip
AFTERWARDS = (
    "The town in this account is {town}.", "It was about {good}.", "The number of days was {days}.", "The sum was {sum} crowns.",
    "The order had the number {number}.", "All this was about {good} in {town}.", "It took {days} days.",
)  # fmt: skip


def complaint(world: World, rng: random.Random) -> str:
    """What went wrong with an order and how it was put right, then its details once more."""
    values = details(world, rng)
    told = rng.choice(COMPLAINTS)
    again = [line for line in AFTERWARDS if all(f"{{{key}}}" in told for key in values if f"{{{key}}}" in line)]
    return " ".join(line.format(**values) for line in (told, *rng.sample(again, rng.randint(1, len(again)))))


def entry(world: World, rng: random.Random) -> str:
    """An illness as an encyclopedia tells of it: the answers of the medical rows without their questions."""
    values = illness(world, rng)
    told = [text.format(**values) for _, text in TEMPLATES.values()]
    return " ".join(rng.sample(told, rng.randint(3, len(told))) + [rng.choice(ASIDES)])
