r"""JSON lines in, JSON lines out, one for one and in order, so that a program can talk to a run.

{"prompt": "Why is the sky blue?"}                                 a message
"Why is the sky blue?"                                             the same
{"prompt": "And red?", "history": [{"role": "user", "text": "…"}, {"role": "assistant", "text": "…"}]}
{"context": "…", "question": "…"}                                  the fields of the dataset's template
{…, "id": 7, "system": "Be brief."}                                the id comes back; another system prompt

{"id": 7, "reply": "…", "finished": true, "tokens": 12, "shortened": false}
{"id": 7, "error": "…"}                                            a line that cannot be answered; the next one can
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from llama_exp.chat.session import Answer, Partner
from llama_exp.data.chat_format import check_alternation
from llama_exp.errors import UserError
from llama_exp.records import Turn
from llama_exp.sanitize import valid_unicode

KNOWN = ("id", "prompt", "history", "system")


def answer_lines(partner: Partner, lines: Iterable[str], out=None) -> int:
    """Answer each line as it comes; returns how many could not be answered."""
    out = out or sys.stdout
    wrong = read = 0
    for line in lines:
        if not line.strip():
            continue
        read += 1
        given: Any = None
        try:
            given = json.loads(valid_unicode(line))
            told = answered(partner, given)
        except (UserError, ValueError, TypeError, KeyError) as error:
            wrong += 1
            told = {
                "error": f'not JSON ({error}); wanted {{"prompt": "…"}} on a line of its own'
                if isinstance(error, json.JSONDecodeError)
                else str(error)
            }
        if isinstance(given, dict) and "id" in given:
            told = {"id": given["id"], **told}
        out.write(valid_unicode(json.dumps(told, ensure_ascii=False)) + "\n")
        out.flush()
    if not read:
        print('Nothing on standard input. One JSON line is one message: {"prompt": "…"}', file=sys.stderr)
    return wrong


def answered(partner: Partner, given: Any) -> dict[str, Any]:
    """The reply to what a line holds."""
    said, history, system = parts(partner, {"prompt": given} if isinstance(given, str) else given)
    *_, answer = partner.ask(said, history, system=system)
    assert isinstance(answer, Answer)
    return {"reply": answer.text, "finished": answer.finished, "tokens": answer.tokens, "shortened": answer.shortened}


def parts(partner: Partner, given: Any) -> tuple[str | dict[str, str], tuple[Turn, ...], str | None]:
    """(message or fields, history, system prompt) of a line, checked."""
    fields = partner.wording.fields
    if not isinstance(given, dict):
        raise UserError(f'wanted {{"prompt": "…"}} or a string, got {type(given).__name__}')
    unknown = sorted(given.keys() - {*KNOWN, *fields})
    if unknown:
        raise UserError(f"unknown {', '.join(map(repr, unknown))}; known: {', '.join([*KNOWN, *fields])}")
    texts = {key: value for key, value in given.items() if key in {"prompt", "system", *fields}}
    odd = [
        key for key, value in texts.items() if not isinstance(value, str) and not (key == "system" and value is None)
    ]
    if odd:
        raise UserError(f"{', '.join(odd)}: wanted text")
    texts = {key: value if value is None else valid_unicode(value) for key, value in texts.items()}
    said: str | dict[str, str] = {key: texts[key] for key in fields if key in texts}
    if "prompt" in texts:
        said = texts["prompt"]
    if not said:
        raise UserError('there is no "prompt"')
    return said, past(given.get("history") or []), texts.get("system")


def past(turns: Any) -> tuple[Turn, ...]:
    """A history from JSON: [{"role": "user", "text": "…"}, {"role": "assistant", "text": "…"}, …]."""
    try:
        history = tuple(Turn(str(turn["role"]), valid_unicode(str(turn["text"]))) for turn in turns)
    except (TypeError, KeyError):
        raise UserError('history: wanted [{"role": "user", "text": "…"}, {"role": "assistant", "text": "…"}]') from None
    try:
        check_alternation(history)
    except ValueError as error:
        raise UserError(f"history: {error}") from None
    if len(history) % 2:
        raise UserError("history ends with a user's turn: give that one as the prompt")
    return history
