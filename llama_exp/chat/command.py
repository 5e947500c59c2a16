"""Talk to a finished run, found by the words that trained it:

    python -m llama_exp.chat dataset=guanaco lora.r=8                           in the terminal; /help there
    python -m llama_exp.chat dataset=guanaco lora.r=8 prompt='Why, "friend"?'   one answer, and done
    python -m llama_exp.chat dataset=guanaco lora.r=8 < asked.jsonl             JSON lines in, JSON lines out
    python -m llama_exp.chat dataset=guanaco lora.r=8 ui=true                   in the browser, beside the untuned model

Its own words, beside those of conf/ (lora.r=0 is the untuned model; out=FOLDER is the run in that folder):

    prompt=TEXT          any text: it is taken as it stands; prompt_file=FILE reads it from a file
    system=TEXT          another system prompt than that of training; "" = none
    temperature=0        0 is greedy, as in evaluation; more draws at random
    top_p=1              of the likeliest words that together have this probability
    sampling_seed=0      of those draws
    max_new_tokens=null  null = as in training
    raw=false            true: messages as they are, not in the dataset's template
    ui=false             true: a page in the browser
    port=8766            0 = any that is free
    host=127.0.0.1       others can reach another one: it takes a password, LLAMA_EXP_PASSWORD in the environment

From Python: `llama_exp.chat.pipeline("outputs/…")`. More: docs/chat.md.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_exp.cli import options
from llama_exp.cli.main import with_options
from llama_exp.config.compose import register
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.evaluation.sampling import check_sampling

register()


@dataclass(frozen=True, slots=True)
class Words:
    """The words of this command that are not of conf/."""

    prompt: str | None = None
    prompt_file: str | None = None
    system: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    sampling_seed: int = 0
    max_new_tokens: int | None = None
    raw: bool = False
    ui: bool = False
    host: str = "127.0.0.1"
    port: int = 8766


def split(words: Sequence[str]) -> tuple[Words, list[str]]:
    """This command's own words, checked; and the rest, which is Hydra's."""
    for word in words:
        if word.partition("=")[0].lower() in ("password", "llama_exp_password"):
            raise UserError(
                "A password on the command line is seen by everyone on this machine and kept in the shell's "
                "history. Put it into the environment: LLAMA_EXP_PASSWORD."
            )
    mine, rest = options.split(words, Words)
    if mine.prompt is not None and mine.prompt_file is not None:
        raise UserError("prompt=… and prompt_file=… are both given. Which of them?")
    if mine.prompt_file is not None:
        mine = dataclasses.replace(mine, prompt=_read(Path(mine.prompt_file)))
    if mine.prompt is not None and not mine.prompt.strip():
        raise UserError("The prompt is empty. Type prompt='…', or leave it out to chat.")
    if mine.max_new_tokens == 0:
        raise UserError("max_new_tokens=0: wanted a whole number of at least 1, or null.")
    if mine.port > 65535:
        raise UserError(f"port={mine.port}: wanted a number from 0 (any that is free) to 65535.")
    return mine, rest


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"prompt_file={path}: {error.strerror}.") from None


def chat(config: Config, words: Words) -> int:
    """Find the run, load it and talk in the way that the words and standard input ask for. Returns the exit code."""
    from llama_exp.chat import json_lines, session, terminal

    sampling = check_sampling(words.temperature, words.top_p)
    manner = session.Manner(sampling, words.sampling_seed, words.max_new_tokens, words.raw)
    if words.ui:
        from llama_exp.chat import app

        door = app.Door.of(words.host, words.port)  # what is wrong with it is said before a model is loaded
        return app.serve(session.meet(config, manner, words.system), door)
    with terminal.notes_aside():
        met = session.meet(config, manner, words.system)
    if words.prompt is not None:
        terminal.once(met, words.prompt)
    elif sys.stdin.isatty():
        terminal.talk(met)
    else:
        return 1 if json_lines.answer_lines(met, sys.stdin) else 0
    return 0


def main() -> None:
    sys.exit(with_options(__doc__, split, chat, "One run at a time to talk to. Leave out -m and the commas.") or 0)
