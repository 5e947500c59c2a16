"""MedQuAD rows and PubMedQA rows about invented illnesses and remedies.

    {"qtype": "symptoms", "Question": "What are the symptoms of Brandor dermitis ?", "Answer": "Brandor dermitis …"}
    {"pubid": 10412233, "question": "Does Klaren balm relieve headache?", "context": {"contexts": […], "labels": […],
     "meshes": […]}, "long_answer": "…", "final_decision": "yes"}

An illness's name says where it sits and what it does ("dermitis": the skin, an inflammation), and the answers follow
from that by rule; so unseen illnesses have answers that can be known. MedQuAD's quirks are here: the space before "?",
runs of spaces from flattened lists, several rows about one illness.
"""

import random
from collections.abc import Iterator

from llama_exp.data.synthetic.world import World, one_of

ORGANS = {  # root -> organ, sign
    "derm": ("the skin", "red spots"), "gastr": ("the stomach", "pain after meals"), "rhin": ("the nose", "sneezing"),
    "oste": ("the bones", "stiff legs"), "neur": ("the nerves", "numb fingers"), "cardi": ("the heart", "short breath"),
    "hepat": ("the liver", "yellow eyes"), "ot": ("the ears", "a ringing sound"),
}  # fmt: skip
NATURES = {  # ending -> nature, sign, treatment
    "itis": ("an inflammation", "fever", "cool cloths and rest"), "osis": ("a slow hardening", "weakness", "warm baths"),
    "algia": ("a lasting pain", "poor sleep", "willow bark"), "emia": ("a lack of blood", "cold hands", "iron and meat"),
}  # fmt: skip
TEMPLATES = {
    "information": ("What is (are) {name} ?", "{name} is {nature} of {organ}. It is rare and was first described in {town}."),
    "symptoms": ("What are the symptoms of {name} ?",
                 "The signs of {name} include:         - {sign}    - {general}    - tiredness    Check with a doctor if they last."),
    "treatment": ("What are the treatments for {name} ?", "{name} is treated with {treatment}.  Most people recover in a few weeks."),
    "causes": ("What causes {name} ?", "{name} begins when {organ} cannot rest. It does not pass from person to person."),
    "outlook": ("What is the outlook for {name} ?", "Most people with {name} recover. {general_cap} may stay for some time."),
    "susceptibility": ("Who is at risk for {name} ? ?", "People with weak {bare} are at risk for {name}."),
}  # fmt: skip

outcome = one_of("headache, fever, cough, back pain, insomnia, itching, nausea, dizziness")


def medical(split: str, rng: random.Random) -> Iterator[dict]:
    """Two to six questions of different types about each illness, as neighbouring rows."""
    world = World(split, rng)
    while True:
        values = illness(world, rng)
        for qtype in rng.sample(tuple(TEMPLATES), rng.randint(2, 6)):
            question, answer = TEMPLATES[qtype]
            yield {"qtype": qtype, "Question": question.format(**values), "Answer": answer.format(**values)}


def illness(world: World, rng: random.Random) -> dict[str, str]:
    root, ending = rng.choice(tuple(ORGANS)), rng.choice(tuple(NATURES))
    (organ, sign), (nature, general, treatment) = ORGANS[root], NATURES[ending]
    return {
        "name": f"{world.fresh_name()} {root}{ending}",
        "town": world.name(),
        "organ": organ,
        "bare": organ.removeprefix("the "),
        "sign": sign,
        "nature": nature,
        "general": general,
        "general_cap": general.capitalize(),
        "treatment": treatment,
    }


def pubmedqa(split: str, rng: random.Random) -> Iterator[dict]:
    """A trial of a remedy; yes, no or maybe follows from the two shares in the results (real set: 55, 34, 11 %)."""
    world = World(split, rng)
    while True:
        decision = rng.choices(("yes", "no", "maybe"), (55, 34, 11))[0]
        remedy, complaint, patients = f"{world.fresh_name()} balm", outcome(world), rng.randint(40, 900)
        control = rng.randint(20, 45)
        treated = (
            control + {"yes": rng.randint(20, 45), "no": -rng.randint(0, 15), "maybe": rng.randint(3, 8)}[decision]
        )
        conclusion = {
            "yes": f"{remedy} relieves {complaint}.",
            "no": f"{remedy} does not relieve {complaint}.",
            "maybe": f"{remedy} may relieve {complaint}, but larger trials are needed.",
        }[decision]
        yield {
            "pubid": rng.randint(10_000_000, 29_999_999),
            "question": f"Does {remedy} relieve {complaint}?",
            "context": {
                "contexts": [
                    f"{remedy} is used against {complaint} in {world.name()}, but no trial has been reported.",
                    f"In {world.name()} {patients} patients took {remedy} or water for {rng.randint(2, 20)} weeks.",
                    f"{complaint.capitalize()} went away in {treated}% of those who took {remedy} "
                    f"and {control}% of those who took water.",
                ],
                "labels": ["BACKGROUND", "METHODS", "RESULTS"],
                "meshes": ["Humans", complaint.title()],
            },
            "long_answer": conclusion,
            "final_decision": decision,
        }
