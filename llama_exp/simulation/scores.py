"""What is measured of a conversation.

An undefined score is left out: distinct_1 without a word, distinct_2 without a word pair, self_repetition unless a
speaker has word pairs in two turns. As a 0 it would make a silent model the least repetitive of all.
Distinct shares fall and repetition rises with length alone: compare conversations over the same openings, and read
these scores beside `turns`.
"""

import dataclasses
from collections.abc import Sequence

from llama_exp.simulation.conversations import CLOSING, Conversation, Utterance, split_words

SCORES = {
    "turns": "turns, including the opening",
    "closing": "share of conversations that reached a closing",
    "words": "words generated",
    "distinct_1": "distinct words / all words",
    "distinct_2": "distinct word pairs / all word pairs",
    "self_repetition": "share of a turn's word pairs that its speaker had used before",
    "real_loss_client": "loss on the client's real turns, nats per token",
    "real_loss_agent": "loss on the agent's real turns, nats per token",
}
SHARES = ("closing", "distinct_1", "distinct_2", "self_repetition")  # between 0 and 1


def with_scores(conversation: Conversation) -> Conversation:
    return dataclasses.replace(conversation, scores=score(conversation))


def score(conversation: Conversation) -> dict[str, float]:
    """The SCORES that are defined; those of words are over the turns that models generated."""
    generated = [turn for turn in conversation.turns if turn.made]
    scores = {
        "turns": float(len(conversation.turns)),
        "closing": float(conversation.ending == CLOSING),
        "words": float(sum(len(split_words(turn.text)) for turn in generated)),
        "distinct_1": distinct(generated, 1),
        "distinct_2": distinct(generated, 2),
        "self_repetition": self_repetition(generated),
    }
    scores |= {f"real_loss_{side}": nll / tokens for side, (nll, tokens) in conversation.real.items() if tokens}
    return {name: value for name, value in scores.items() if value is not None}


def ngrams(text: str, size: int) -> list[tuple[str, ...]]:
    words = split_words(text)
    return [words[start : start + size] for start in range(len(words) - size + 1)]


def distinct(turns: Sequence[Utterance], size: int) -> float | None:
    """distinct_n (Li et al. 2016) within a conversation; None where there is no n-gram."""
    found = [ngram for turn in turns for ngram in ngrams(turn.text, size)]
    return len(set(found)) / len(found) if found else None


def self_repetition(turns: Sequence[Utterance]) -> float | None:
    """The mean over a speaker's later turns; None where no speaker has word pairs in two turns."""
    shares, used_by = [], {}
    for turn in turns:
        pairs, used = ngrams(turn.text, 2), used_by.setdefault(turn.speaker, set())
        if pairs and used:
            shares.append(sum(pair in used for pair in pairs) / len(pairs))
        used.update(pairs)
    return sum(shares) / len(shares) if shares else None
