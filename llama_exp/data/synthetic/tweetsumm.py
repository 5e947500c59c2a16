"""TweetSumm rows in DialogStudio's shape: a customer writes to a company, an agent helps, people sum it up.

    {"original dialog id": "9c…", "new dialog id": "TweetSumm--train--1", "dialog index": 1,
     "original dialog info": '{"summaries": {"extractive_summaries": [...], "abstractive_summaries": [[…, …], …]}}',
     "log": [{"turn id": 1, "user utterance": "@BrandorHelp my order …", "system response": "@104211 … ^KL", …}],
     "prompt": []}

The quirks of the real set are here, less often: @handles, agents' signatures (^KL, -Klaren, /KL), https://t.co links,
HTML entities (&amp; &gt;&gt;), doubled spaces, and one to three summaries of which a few say next to nothing.
"""

import json
import random
import string
from collections.abc import Iterator
from typing import NamedTuple

from llama_exp.data.synthetic.world import World, goods

SHORT = {"train": "train", "validation": "val", "test": "test"}
NO_SIDE = {"original user side information": "{}", "original system side information": "{}"}


class Trouble(NamedTuple):
    opening: str
    asks: str  # the agent's first reply
    detail: str
    remedy: str
    summaries: tuple[tuple[str, str], ...]


TROUBLES = (
    Trouble("my order of {good} has not arrived. It has been {days} days", "Sorry to hear that! What is your order number?",
            "It is {number}", "Thanks. It was sent to {town} by mistake &amp; a new one leaves today",
            (("Customer complains that the order of {good} has not arrived for {days} days.",
              "Agent says it went to {town} and sends a new one today."),
             ("The {good} from order {number} is late by {days} days.", "The agent explains the mistake and sends a new one."))),
    Trouble("the {good} I bought from you is broken &amp; I want my money back", "We are sorry! Can you send us the order number?",
            "Sure, {number}, bought in {town}", "Thank you. You will get a refund of {sum} crowns within {days} days",
            (("Customer wants money back for broken {good}.", "Agent promises a refund of {sum} crowns within {days} days."),
             ("The {good} bought in {town} is broken.", "A refund of {sum} crowns is offered by the agent."))),
    Trouble("why was I charged {sum} crowns twice for one box of {good}?", "That should not happen. Where did you pay?",
            "In your shop in {town}", "We see it now. One payment goes back to you within {days} days",
            (("Customer was charged {sum} crowns twice for {good}.", "Agent says one payment goes back within {days} days."),
             ("Customer paid twice in the {town} shop.", "The agent returns one payment of {sum} crowns."))),
    Trouble("is your shop in {town} open today? I need {good}", "Hi there! Yes, until {hour} o'clock",
            "Great, and how much is it?", "A box is {sum} crowns. See you soon",
            (("Customer asks if the shop in {town} is open and needs {good}.",
              "Agent says it is open until {hour} and a box is {sum} crowns."),
             ("Wants to buy {good} in {town}.", "States the shop closes at {hour}."))),
)  # fmt: skip


def tweetsumm(split: str, rng: random.Random) -> Iterator[dict]:
    world, index = World(split, rng), 0
    while True:
        index += 1
        trouble, values = rng.choice(TROUBLES), details(world, rng)
        log = turns(trouble, values, world, rng)
        yield {
            "original dialog id": f"{rng.getrandbits(128):032x}",
            "new dialog id": f"TweetSumm--{SHORT[split]}--{index}",
            "dialog index": index,
            "original dialog info": json.dumps({"summaries": summaries(trouble, values, log, rng)}),
            "log": log,
            "prompt": [],
        }


def details(world: World, rng: random.Random) -> dict:
    return {
        "good": goods(world),
        "town": world.name(),
        "days": rng.randint(3, 30),
        "hour": rng.randint(5, 11),
        "number": rng.randint(10_000, 99_999),
        "sum": rng.randint(5, 400),
    }


def turns(trouble: Trouble, values: dict, world: World, rng: random.Random) -> list[dict]:
    """Two to four exchanges; each carries the dialogue before it, as the real rows do."""
    company, customer = f"@{world.name()}Help", f"@{rng.randint(100_000, 999_999)}"
    signature = rng.choice(("", " ^{0}{1}", " /{0}{1}", " -{2}")).format(
        rng.choice(string.ascii_uppercase), rng.choice(string.ascii_uppercase), world.name()
    )
    said = [
        (f"{company} {trouble.opening}{rng.choice(('', '!', '  :(', ' 😡'))}", trouble.asks),
        (f"{company} {trouble.detail}", trouble.remedy),
        (f"{company} {rng.choice(('Thanks!', 'ok thank you', 'Finally. Thx'))}", "You are welcome! Have a great day"),
        ("And where can I read about it?", "All you need is here &gt;&gt; https://t.co/" + "".join(rng.choices(string.ascii_letters, k=10))),
    ][: rng.choice((2, 3, 3, 4))]  # fmt: skip
    log, history = [], ""
    for i, (user, agent) in enumerate(said, 1):
        user, agent = user.format(**values), f"{customer} {agent.format(**values)}{signature}"
        log.append(
            {"turn id": i, "user utterance": user, "system response": agent, "dialog history": history, **NO_SIDE}
        )
        history = f"{history} <USER> {user} <SYSTEM> {agent}".lstrip()
    return log


def summaries(trouble: Trouble, values: dict, log: list[dict], rng: random.Random) -> dict:
    """One to three human summaries: two sentences each (customer, agent), now and then an idle one."""
    chosen = [[part.format(**values) for part in pair] for pair in trouble.summaries][: rng.choice((1, 2, 2, 2))]
    if rng.random() < 0.1:
        chosen.append(["The customer has a problem.", "The agent helps in a friendly way."])
    extract = [
        {"is_agent": False, "sentences": [log[0]["user utterance"]]},
        {"is_agent": True, "sentences": [log[1]["system response"]]},
    ]
    return {"extractive_summaries": [extract for _ in chosen], "abstractive_summaries": chosen}
