"""The chat command: which way to talk, by the options and by what standard input is."""

import sys
from dataclasses import dataclass
from pathlib import Path

from llama_exp.config.options import option
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.evaluation.sampling import check_sampling


@dataclass(frozen=True)
class ChatOptions:
    prompt: str | None = option(None, "one question, answered once; any text, taken literally", shown="TEXT")
    prompt_file: str | None = option(None, "the same from a file", shown="FILE")
    system: str | None = option(None, "another system prompt than in training; empty: none", shown="TEXT")
    temperature: float = option(0.0, "0: greedy, as in evaluation; more: draws at random", shown="0")
    top_p: float = option(1.0, "draw from the likeliest tokens that together have this probability", shown="1")
    sampling_seed: int = option(0, "seed of the draws")
    max_new_tokens: int | None = option(None, "longest reply; null: as in training", minimum=1)
    raw: bool = option(False, "true: messages as they are, not in the dataset's template")
    ui: bool = option(False, "true: a page in the browser")
    port: int = option(8766, "of the page; 0: any free port", maximum=65535)
    host: str = option(
        "127.0.0.1", "others can reach another one: it needs a password, LLAMA_EXP_PASSWORD in the environment"
    )

    @staticmethod
    def check_arguments(arguments: list[str]) -> list[str]:
        """Raise UserError for a password, before anything else is read."""
        if any(argument.partition("=")[0].lower() in ("password", "llama_exp_password") for argument in arguments):
            raise UserError(
                "A password on the command line is seen by everyone on this machine and kept in the shell's "
                "history. Put it into the environment: LLAMA_EXP_PASSWORD."
            )
        return arguments

    def __post_init__(self) -> None:
        if self.prompt is not None and self.prompt_file is not None:
            raise UserError("prompt=… and prompt_file=… are both given. Which of them?")

    def question(self) -> str | None:
        """The prompt, from the command line or the file."""
        prompt = self.prompt if self.prompt_file is None else _read(Path(self.prompt_file))
        if prompt is not None and not prompt.strip():
            raise UserError("The prompt is empty. Type prompt='…', or leave it out to chat.")
        return prompt


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"prompt_file={path}: {error.strerror}.") from None


def chat(config: Config, options: ChatOptions) -> int:
    """Talk to a finished run, found by the keys that trained it (lora.r=0: the untuned model; out=FOLDER: that run):

        llama-exp chat dataset=guanaco lora.r=8                           in the terminal; /help there
        llama-exp chat dataset=guanaco lora.r=8 prompt='Why, "friend"?'   one answer
        llama-exp chat dataset=guanaco lora.r=8 < questions.jsonl         JSON lines in, JSON lines out
        llama-exp chat dataset=guanaco lora.r=8 ui=true                   in the browser, beside the untuned model

    From Python: llama_exp.chat.pipeline("outputs/…"). More: docs/chat.md.
    """
    prompt = options.question()
    from llama_exp.chat.json_lines import answer_lines
    from llama_exp.chat.session import ReplySettings, load_session
    from llama_exp.chat.terminal import answer_once, chat_in_terminal, redirect_to_stderr

    sampling = check_sampling(options.temperature, options.top_p)
    settings = ReplySettings(sampling, options.sampling_seed, options.max_new_tokens, options.raw)
    if options.ui:
        from llama_exp.chat.server import Endpoint, serve

        endpoint = Endpoint.open(options.host, options.port)  # checked before a model is loaded
        return serve(load_session(config, settings, options.system), endpoint)
    with redirect_to_stderr():
        session = load_session(config, settings, options.system)
    with session:
        if prompt is not None:
            answer_once(session, prompt)
        elif sys.stdin.isatty():
            chat_in_terminal(session)
        else:
            return 1 if answer_lines(session, sys.stdin) else 0
    return 0
