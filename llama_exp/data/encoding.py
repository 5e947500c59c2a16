"""Example -> Tokens: ids and labels, the prompt masked.

Prompt and response are encoded apart and joined as ids, so that training sees the very ids that generation starts from.
No response template is ever searched for in the ids: `[/INST]` tokenises differently in context (huggingface/trl#588).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama_exp.data.chat_format import chat_format
from llama_exp.errors import UserError
from llama_exp.records import Example, Tokens

IGNORED = -100
EXTRACTIVE = 0.9  # of the answers lie in their contexts, where a table does not say that all do
LONGEST_WORD = 40  # characters: what is longer is no word, and may be cut anywhere


def encode_all(
    examples: Sequence[Example], tokenizer, max_length: int, max_new_tokens: int, answers_in_context: bool | None = True
) -> tuple[list[Tokens], dict[str, int]]:
    """Encode Examples for training; also return what it cost.

    The prompt gets at most `max_length - max_new_tokens` tokens, whatever the answer is; a response that does not fit
    beside its prompt drops the Example, and so does an empty one. Counts: encoded, shortened, answers_lost (a reference
    that was in the context and is cut away; 0 where answers are no spans of it, for a "no" occurs in any text; None:
    they are where nine in ten of the Examples with a context have a reference in it),
    dropped_response_too_long, dropped_no_response, tokens, label_tokens.
    """
    prompts, shortened = encode_prompts(examples, tokenizer, max_length - max_new_tokens)
    kept = [tokens for tokens in with_responses(examples, prompts, tokenizer, max_length) if tokens]
    empty = sum(not example.response.strip() for example in examples)
    counts = {
        "encoded": len(kept),
        "shortened": len(shortened),
        "answers_lost": _count_answers_lost(examples, shortened, answers_in_context),
        "dropped_response_too_long": len(examples) - len(kept) - empty,
        "dropped_no_response": empty,
        "tokens": sum(len(tokens.input_ids) for tokens in kept),
        "label_tokens": sum(tokens.label_tokens for tokens in kept),
    }
    return kept, counts


@dataclass(frozen=True, slots=True)
class HeldOutTokens:
    """Held-out Examples as an evaluation needs them.

    prompts       ids that generation starts from, a list an Example
    responses     each prompt with its response behind it; None where that is empty or does not fit
    shortened     indices of the prompts that had to be shortened
    answers_lost  how many of them lost their answer with it, as in `encode_all`; whether answers are spans of their
                  contexts is read from the shortened Examples
    """

    prompts: list[list[int]]
    responses: list[Tokens | None]
    shortened: frozenset[int]
    answers_lost: int


def encode_held_out(
    examples: Sequence[Example], tokenizer, max_length: int, max_new_tokens: int, answers_in_context: bool | None
) -> HeldOutTokens:
    """Encode Examples for answering: prompts as in training, and the responses whose likelihood is measured."""
    prompts, shortened = encode_prompts(examples, tokenizer, max_length - max_new_tokens)
    responses = with_responses(examples, prompts, tokenizer, max_length)
    if answers_in_context is None:
        answers_in_context = _are_extractive([examples[index] for index in shortened])
    lost = _count_answers_lost(examples, shortened, answers_in_context)
    return HeldOutTokens(prompts, responses, frozenset(shortened), lost)


def with_responses(
    examples: Sequence[Example], prompts: Sequence[list[int]], tokenizer, max_length: int
) -> list[Tokens | None]:
    """Each prompt with its Example's response and its end behind it; None where that is empty or does not fit."""
    responses = chat_format(tokenizer).responses([example.response for example in examples])
    made: list[Tokens | None] = []
    for example, prompt, response in zip(examples, prompts, responses, strict=True):
        fits = bool(response) and len(prompt) + len(response) <= max_length
        made.append(Tokens(example.id, prompt + response, [IGNORED] * len(prompt) + response) if fits else None)
    return made


def encode_prompts(examples: Sequence[Example], tokenizer, limit: int) -> tuple[list[list[int]], dict[int, Example]]:
    """Ids of each prompt, at most `limit` of them, all that generation starts from.

    Also returns {index: shortened Example} for those that had to be shortened.
    """
    ids = chat_format(tokenizer).prompts(examples)
    shortened = {}
    for index, prompt in enumerate(ids):
        if len(prompt) > limit:
            shortened[index], ids[index] = _shorten(examples[index], tokenizer, limit)
    return ids, shortened


def _shorten(example: Example, tokenizer, limit: int) -> tuple[Example, list[int]]:
    """The one rule, which never looks at the answer: first the oldest exchanges go, then the context's last words.

    Where there is no context, or none of it is left, the message itself loses its last words. A word that is longer
    than words are (Chinese, Thai, a line without spaces) loses its last characters.
    """
    while example.history:
        example = dataclasses.replace(example, history=example.history[2:])
        ids = chat_format(tokenizer).prompts([example])[0]
        if len(ids) <= limit:
            return example, ids
    for field in ("context", "prompt"):
        part = getattr(example, field)  # of what the pass before left
        if not part:
            continue
        if best := _longest_prefix(example, part, tokenizer, limit):
            return best
        example = _with_part(example, part, "")
    raise UserError(
        f"Even without its message the prompt of {example.id} is longer than {limit} tokens (a long system prompt?). "
        f"Raise max_length or shorten dataset.system."
    )


def _longest_prefix(example: Example, part: str, tokenizer, limit: int) -> tuple[Example, list[int]] | None:
    """The Example with as much of the beginning of `part` as fits, cut between words; None where not even "" fits."""

    def cut(pieces: Sequence[str], kept: str = "") -> tuple[int, tuple[Example, list[int]] | None]:
        """The most of the pieces that fit after `kept`, but not all; and what that makes."""
        low, high, best = 0, len(pieces) - 1, None
        while low <= high:
            middle = (low + high) // 2
            shorter = _with_part(example, part, kept + "".join(pieces[:middle]))
            ids = chat_format(tokenizer).prompts([shorter])[0]
            if len(ids) <= limit:
                best, low = (shorter, ids), middle + 1
            else:
                high = middle - 1
        return high, best

    words = part.split(" ")
    pieces = [words[0], *(f" {word}" for word in words[1:])]
    count, best = cut(pieces)
    if best and len(pieces[count]) > LONGEST_WORD:
        _, within = cut(pieces[count], "".join(pieces[:count]))
        best = within or best
    return best


def _with_part(example: Example, part: str, shorter: str) -> Example:
    before, _, after = example.prompt.partition(part)
    context = shorter if part == example.context else ""
    return dataclasses.replace(example, prompt=before + shorter + after, context=context)


def _in_context(example: Example) -> list[str]:
    """The right answers that are literally a part of the context. The response is one, as it is cleaned like it."""
    return [answer for answer in {example.response, *example.references} if answer and answer in example.context]


def _are_extractive(examples: Sequence[Example]) -> bool:
    found = [bool(_in_context(example)) for example in examples if example.context]
    return sum(found) >= EXTRACTIVE * len(found)


def _count_answers_lost(examples: Sequence[Example], shortened: Mapping[int, Example], in_context: bool | None) -> int:
    if in_context is None:
        in_context = _are_extractive(examples)
    return sum(in_context and _answer_lost(examples[index], cut) for index, cut in shortened.items())


def _answer_lost(example: Example, cut: Example) -> bool:
    answers = _in_context(example)
    return bool(answers) and not any(answer in cut.context for answer in answers)
