"""A conversation: its turns, why it ended, and conversations.jsonl. No torch here.

{"id": "T--7", "group": "9f2c…", "ending": "closing",
 "turns": [{"speaker": "client", "text": "Where is it?", "made": false, "finished": true}, …],
 "scores": {"turns": 6, "distinct_1": 0.71, …}, "real": {"agent": [81.2, 24]}}
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_exp.data.dialogue import AGENT, CLIENT
from llama_exp.errors import UserError
from llama_exp.runs.files import MAX_BYTES, parse_json, read_text
from llama_exp.sanitize import reason

CLOSING, REPEAT, SILENCE, LIMIT, SCRIPT = "closing", "repeat", "silence", "turn limit", "script ended"
ENDINGS = {
    CLOSING: "a farewell, or thanks that the agent answered",
    REPEAT: "a turn repeats an earlier one",
    SILENCE: "an empty turn",
    LIMIT: "the limit turns=… was reached",
    SCRIPT: "a script had no more lines",
}
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
FAREWELL = re.compile(
    r"\b(?:good)?bye\b|\btake care\b|\bsee you\b|\bfarewell\b|\b(?:you are|you['’]?re|ur|most) (?:very )?welcome\b|"
    r"\bmy pleasure\b|\bcheers\b|\bhave an? (?:\w+ ){0,2}(?:day|one|evening|night|weekend|week|time|trip|flight)\b",
    re.IGNORECASE,
)
THANKS = re.compile(r"\b(?:thanks?|thank you|thx|tks|ty|appreciate)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn. made: by a model (False: an opening or a script); finished: by EOS, not cut at the token limit."""

    speaker: str
    text: str
    made: bool = True
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """scores: by name; a score that is undefined here is absent, and counts in no mean.

    real: by side, (nll in nats, tokens) of that side's turns in the real conversation, under the side's model
    """

    id: str
    group: str
    ending: str
    turns: tuple[Utterance, ...]
    scores: dict[str, float] = field(default_factory=dict)
    real: dict[str, tuple[float, int]] = field(default_factory=dict)


def split_words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))


def find_ending(turns: Sequence[Utterance]) -> str | None:
    """Why a conversation is over after its last turn; None where it goes on. An opening alone ends nothing."""
    last, before = turns[-1], turns[:-1]
    words = split_words(last.text)
    if not words:
        return SILENCE
    if not before:
        return None
    if any(split_words(turn.text) == words for turn in before):
        return REPEAT
    if "?" not in last.text and (FAREWELL.search(last.text) or (last.speaker == AGENT and _client_thanked(before))):
        return CLOSING
    return None


def _client_thanked(turns: Sequence[Utterance]) -> bool:
    """Whether the last turn is the client's thanks and asks for nothing; an opening does not count."""
    last = turns[-1]
    return len(turns) > 1 and last.speaker == CLIENT and bool(THANKS.search(last.text)) and "?" not in last.text


def count_endings(conversations: Iterable[Conversation]) -> dict[str, int]:
    """{ending: conversations}, in the order of ENDINGS."""
    endings = [conversation.ending for conversation in conversations]
    return {name: endings.count(name) for name in ENDINGS if name in endings}


def count_silent(conversations: Iterable[Conversation]) -> int:
    """Conversations without a turn from a model."""
    return sum(not any(split_words(turn.text) for turn in one.turns if turn.made) for one in conversations)


def read_conversations(path: Path) -> list[Conversation]:
    """conversations.jsonl; [] where there is none. A last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    try:
        lines = read_text(path, limit=8 * MAX_BYTES).split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}). Move it elsewhere and simulate again.") from None
    conversations = []
    for number, text in enumerate(lines, 1):
        try:
            if text.strip():
                conversations.append(_parse(parse_json(text)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path}:{number}: not a conversation ({error}). Move the file elsewhere and simulate again."
            ) from None
    return conversations


def _parse(values: dict) -> Conversation:
    turns = tuple(Utterance(**turn) for turn in values["turns"])
    real = {side: (float(nll), int(tokens)) for side, (nll, tokens) in values["real"].items()}
    return Conversation(**{**values, "turns": turns, "real": real})
