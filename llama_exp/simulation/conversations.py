"""Conversations between two: how they end, what they score, and their file. No torch here.

{"id": "T--7", "group": "9f2c…", "ending": "closing",
 "turns": [{"speaker": "client", "text": "Where is it?", "made": false, "finished": true}, …],
 "scores": {"turns": 6, "distinct_1": 0.71, …}, "real": {"agent": [81.2, 24]}}
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_exp.data.dialogue import AGENT, CLIENT
from llama_exp.errors import UserError

AT_ONCE = 32  # conversations in a batch unless eval_batch says otherwise; random draws depend on it
CLOSING, REPEAT, SILENCE, LIMIT, SCRIPT = "closing", "repeat", "silence", "turn limit", "script ended"
ENDINGS = {
    CLOSING: "a farewell, or thanks that the agent answered",
    REPEAT: "a turn in words that were said before",
    SILENCE: "a side said nothing",
    LIMIT: "as many turns as turns= allows",
    SCRIPT: "a script had no more lines",
}
SHARES = ("closing", "distinct_1", "distinct_2", "self_repetition")  # scores from 0 to 1
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
FAREWELL = re.compile(
    r"\b(?:good)?bye\b|\btake care\b|\bsee you\b|\bfarewell\b|\b(?:you are|you['’]?re|ur|most) (?:very )?welcome\b|"
    r"\bmy pleasure\b|\bcheers\b|\bhave an? (?:\w+ ){0,2}(?:day|one|evening|night|weekend|week|time|trip|flight)\b",
    re.IGNORECASE,
)
THANKS = re.compile(r"\b(?:thanks?|thank you|thx|tks|ty|appreciate)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Speech:
    """One turn. made: by a model (False: an opening or a script); finished: by EOS, not cut at the token limit."""

    speaker: str
    text: str
    made: bool = True
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """`real`: by side, (nll in nats, tokens) of that side's turns in the real conversation, under the side's model.

    scores    by name; one that is not defined here is not there, and counts in no mean
    """

    id: str
    group: str
    ending: str
    turns: tuple[Speech, ...]
    scores: dict[str, float] = field(default_factory=dict)
    real: dict[str, tuple[float, int]] = field(default_factory=dict)


def ending(turns: Sequence[Speech]) -> str | None:
    """Why a conversation is over after its last turn, or None. An opening alone ends nothing."""
    last, before = turns[-1], turns[:-1]
    if not words(last.text):
        return SILENCE
    if not before:
        return None
    if any(words(turn.text) == words(last.text) for turn in before):
        return REPEAT
    if "?" not in last.text and (FAREWELL.search(last.text) or (last.speaker == AGENT and thanked(before))):
        return CLOSING
    return None


def thanked(turns: Sequence[Speech]) -> bool:
    """Whether the client's last words were thanks that ask for nothing; an opening is no thanks."""
    last = turns[-1]
    return len(turns) > 1 and last.speaker == CLIENT and bool(THANKS.search(last.text)) and "?" not in last.text


def words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))


def score(conversation: Conversation) -> dict[str, float]:
    """turns, closing (1 or 0), and of the models' own turns words, distinct_1, distinct_2 and self_repetition.

    distinct_n        different n-grams in the share of all (Li et al. 2016), within a conversation
    self_repetition   the share of a turn's word pairs that its speaker had used before, mean over later turns
    real_loss_SIDE    nats a token of the side's real turns under its model

    A share of nothing is no score: without a word (distinct_1), a word pair (distinct_2), a speaker who said pairs in two turns
    (self_repetition) or real turns it is left out. As a 0 it would make a silent model the least repetitive of all.
    Both rise or fall with length alone: compare conversations over the same openings, and look at `turns` beside them.
    """
    own = [turn for turn in conversation.turns if turn.made]
    found = {
        "turns": float(len(conversation.turns)),
        "closing": float(conversation.ending == CLOSING),
        "words": float(sum(len(words(turn.text)) for turn in own)),
        "distinct_1": distinct(own, 1),
        "distinct_2": distinct(own, 2),
        "self_repetition": self_repetition(own),
    }
    found |= {f"real_loss_{side}": nll / tokens for side, (nll, tokens) in conversation.real.items() if tokens}
    return {name: value for name, value in found.items() if value is not None}


def silent(conversations: Iterable[Conversation]) -> int:
    """In how many no model said a word."""
    return sum(not any(words(turn.text) for turn in one.turns if turn.made) for one in conversations)


def grams(text: str, size: int) -> list[tuple[str, ...]]:
    said = words(text)
    return [said[start : start + size] for start in range(len(said) - size + 1)]


def distinct(turns: Sequence[Speech], size: int) -> float | None:
    """None where there is no n-gram at all."""
    all_grams = [gram for turn in turns for gram in grams(turn.text, size)]
    return len(set(all_grams)) / len(all_grams) if all_grams else None


def self_repetition(turns: Sequence[Speech]) -> float | None:
    """None where no side said word pairs twice."""
    shares, said = [], {}
    for turn in turns:
        pairs, known = grams(turn.text, 2), said.setdefault(turn.speaker, set())
        if pairs and known:
            shares.append(sum(pair in known for pair in pairs) / len(pairs))
        known.update(pairs)
    return sum(shares) / len(shares) if shares else None


def scored(conversation: Conversation) -> Conversation:
    return dataclasses.replace(conversation, scores=score(conversation))


def read(path: Path) -> list[Conversation]:
    """conversations.jsonl, scored as today; [] where there is none. A last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, text in enumerate(lines, 1):
        try:
            if text.strip():
                found.append(_parsed(json.loads(text)))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path}:{number}: not a conversation ({error}). Delete the file and simulate again."
            ) from None
    return found


def _parsed(values: dict) -> Conversation:
    turns = tuple(Speech(**turn) for turn in values["turns"])
    real = {side: (float(nll), int(tokens)) for side, (nll, tokens) in values["real"].items()}
    return scored(Conversation(**{**values, "turns": turns, "real": real}))


def endings(conversations: Iterable[Conversation]) -> dict[str, int]:
    """{why: how many}, in the order of ENDINGS."""
    found = [conversation.ending for conversation in conversations]
    return {name: found.count(name) for name in ENDINGS if name in found}
