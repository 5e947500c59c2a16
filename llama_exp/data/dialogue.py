"""Two who talk, and how their conversation looks from the side of one: the same in training and in simulation.

    as it happened        client: Where is it?     agent: Which number?           client: 123
    the agent's side      user: Where is it?       assistant: Which number?       user: 123        -> the agent speaks
    the client's side     user: BEGIN              assistant: Where is it?        user: Which …?   -> the client speaks

Llama 2's format begins with a user and alternates. So whoever opens a conversation does so in answer to BEGIN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_exp.records import Example, Turn

CLIENT, AGENT = SIDES = ("client", "agent")
BEGIN = "Begin the conversation."
# What each side is told it is; `dataset.system` takes the place of both.
SYSTEM = {
    CLIENT: "You are a customer who writes to the customer service of a company.",
    AGENT: "You are an agent in the customer service of a company. You help the customer who writes to you.",
}


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """One turn; `speaker` is one of SIDES."""

    speaker: str
    text: str


def seen_by(speaker: str, utterances: Sequence[SpokenTurn]) -> tuple[Turn, ...]:
    """A conversation from one side: its own turns are the assistant's. Begins and ends with a user's.

    Raises ValueError where it is not this side's turn to speak.
    """
    turns = [Turn("assistant" if turn.speaker == speaker else "user", turn.text) for turn in utterances]
    if not turns or turns[0].role == "assistant":
        turns.insert(0, Turn("user", BEGIN))
    if turns[-1].role == "assistant":
        raise ValueError(f"{speaker} spoke last: it is the other side's turn")
    return tuple(turns)


def next_turn_example(
    name: str,
    utterances: Sequence[SpokenTurn],
    speaker: str,
    system: str,
    response: str = "",
    written: str = "",
    group: str = "",
) -> Example:
    """The Example in which `speaker` goes on after `utterances`; `written` is the response before any cleaning."""
    *history, last = seen_by(speaker, utterances)
    return Example(
        name,
        last.text,
        response,
        (written or response,),
        group,
        history=tuple(history),
        system=system,
        tags={"speaker": speaker},
    )
