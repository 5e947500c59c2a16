r"""JSON lines in, JSON lines out, one for one and in order: how a program talks to a run.

{"prompt": "Why is the sky blue?"}                                 a message
"Why is the sky blue?"                                             the same
{"prompt": "And red?", "history": [{"role": "user", "text": "…"}, {"role": "assistant", "text": "…"}]}
{"context": "…", "question": "…"}                                  the fields of the dataset's template
{…, "id": 7, "system": "Be brief."}                                the id is returned; another system prompt

{"id": 7, "reply": "…", "finished": true, "tokens": 12, "shortened": false}
{"id": 7, "error": "…"}                                            a line that cannot be answered; the next one can
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from llama_exp.chat.session import ChatSession, parse_history
from llama_exp.errors import UserError
from llama_exp.sanitize import escape_hidden, valid_unicode

KEYS = ("id", "prompt", "history", "system")


def answer_lines(session: ChatSession, lines: Iterable[str], out=None) -> int:
    """Answer each line as it comes; return how many could not be answered."""
    out = out or sys.stdout
    failed = count = 0
    note = session.format_note
    for line in filter(str.strip, lines):
        count += 1
        request: Any = None
        try:
            request = json.loads(valid_unicode(line))
            response = answer(session, request)
            if note and (isinstance(request, str) or "prompt" in request):
                print(note, file=sys.stderr, flush=True)
                note = ""
        except json.JSONDecodeError as error:
            failed += 1
            response = {"error": f'not JSON ({error}); wanted {{"prompt": "…"}} or "…" on a line of its own'}
        except (UserError, ValueError, TypeError, KeyError) as error:
            failed += 1
            response = {"error": str(error)}
        if isinstance(request, dict) and "id" in request:
            response = {"id": request["id"], **response}
        out.write(escape_hidden(valid_unicode(json.dumps(response, ensure_ascii=False))) + "\n")
        out.flush()
    if not count:
        print('Nothing on standard input. One JSON line is one message: {"prompt": "…"}', file=sys.stderr)
    return failed


def answer(session: ChatSession, request: Any) -> dict[str, Any]:
    """The reply to one request: {"reply", "finished", "tokens", "shortened"}."""
    if isinstance(request, str):
        request = {"prompt": request}
    fields = session.format.fields
    if not isinstance(request, dict):
        raise UserError(f'wanted {{"prompt": "…"}} or a string, got {type(request).__name__}')
    if unknown := sorted(request.keys() - {*KEYS, *fields}):
        raise UserError(f"unknown {', '.join(map(repr, unknown))}; known: {', '.join([*KEYS, *fields])}")
    texts = {key: value for key, value in request.items() if key in {"prompt", "system", *fields}}
    if texts.get("system", "") is None:
        del texts["system"]
    if not_text := [key for key, value in texts.items() if not isinstance(value, str)]:
        raise UserError(f"{', '.join(not_text)}: wanted text")
    texts = {key: valid_unicode(value) for key, value in texts.items()}
    prompt = texts["prompt"] if "prompt" in texts else {key: texts[key] for key in fields if key in texts}
    if not prompt:
        raise UserError('there is no "prompt"')
    history = parse_history(request.get("history") or [])
    *_, reply = session.ask(prompt, history, system=texts.get("system"))
    return {"reply": reply.text, "finished": reply.finished, "tokens": reply.tokens, "shortened": reply.shortened}
