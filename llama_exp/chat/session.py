"""A loaded run to talk to: prompts formatted as in training, replies as they are generated."""

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from llama_exp.config.schema import Config
from llama_exp.config.seeds import fold_seed
from llama_exp.data.chat_format import check_alternation
from llama_exp.data.dialogue import AGENT, SYSTEM
from llama_exp.errors import UserError
from llama_exp.model import hardware
from llama_exp.model.adapters import SharedBase
from llama_exp.records import Example, Turn
from llama_exp.runs.find import find_run
from llama_exp.runs.run import Run
from llama_exp.sanitize import valid_unicode, visible
from llama_exp.stopping import interrupted_at_end

CONTEXTS = ("context", "dialogue")  # template fields that may be shortened, as in training
MIN_PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How a run's user messages were written in training: a template with named fields, and the system prompt."""

    template: str
    fields: tuple[str, ...]
    system: str

    @classmethod
    def of(cls, config: Config) -> "PromptFormat":
        dataset = config.dataset
        if dataset.task.endswith(
            "turns"
        ):  # one side of a dialogue: no template, and a system prompt that names the side
            return cls("{message}", ("message",), dataset.system or SYSTEM[AGENT])
        fields = dict.fromkeys(name for _, name, _, _ in Formatter().parse(dataset.template) if name)
        return cls(dataset.template, tuple(fields), dataset.system)

    def example(
        self, prompt: str | dict[str, str], history: Sequence[Turn] = (), system: str | None = None, raw: bool = False
    ) -> Example:
        """The Example that asks `prompt` after `history`.

        A text fills a template of one field. A template of several fields takes a dict, or a text that is sent
        unchanged.
        """
        if isinstance(prompt, dict):
            if missing := [name for name in self.fields if name not in prompt]:
                raise UserError(
                    f"The run was trained with the fields {', '.join(self.fields)}; missing: {', '.join(missing)}. "
                    'Give them, or a whole "prompt".'
                )
            values = {name: prompt[name].strip() for name in self.fields}
        else:
            values = {self.fields[0]: prompt.strip()} if not raw and len(self.fields) == 1 else {}
        message = self.template.format(**values).strip() if values else prompt.strip()
        context = next((values[name] for name in CONTEXTS if name in values), "")
        system = self.system if system is None else system
        return Example("message", message, "", (), "", context, tuple(history), system)


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A whole reply. finished: it ended by EOS; shortened: part of the prompt or history was left out to make it
    fit."""

    text: str
    finished: bool
    tokens: int
    shortened: bool


@dataclass(frozen=True, slots=True)
class ReplySettings:
    """`sampling`: temperature and top_p; {} is greedy, as in evaluation. `max_new_tokens`: None as in training."""

    sampling: dict[str, Any]
    seed: int = 0
    max_new_tokens: int | None = None
    raw: bool = False


class ChatSession:
    """One run in memory, beside its base without the adapter.

    session.ask("Hello", history) yields pieces of the reply as they are generated, and at last the ChatReply.

    `close`, or the end of a `with` block, frees what is kept in memory from reply to reply.
    """

    def __init__(self, base: SharedBase, run: Run, settings: ReplySettings, system: str | None = None):
        self.base, self.run, self.config, self.settings = base, run, run.config, settings
        self.format = PromptFormat.of(run.config)
        self.system = self.format.system if system is None else system
        self.max_new_tokens = settings.max_new_tokens or run.config.dataset.max_new_tokens
        limit = run.config.max_length - MIN_PROMPT_TOKENS
        if self.max_new_tokens > limit:
            raise UserError(
                f"max_new_tokens={self.max_new_tokens} leaves no room for a prompt: this run reads "
                f"{run.config.max_length} tokens in all. Type max_new_tokens={limit} or less."
            )

    def ask(
        self,
        prompt: str | dict[str, str],
        history: Sequence[Turn] = (),
        *,
        system: str | None = None,
        tuned: bool = True,
    ) -> Generator[str | ChatReply, None, None]:
        """Reply to `prompt` after `history`; with tuned=False by the base without the adapter, prompted alike.

        A piece comes for each token, "" where it has no text yet: closing the iterator, or Ctrl-C, stops the model at
        its next token.
        """
        import torch

        from llama_exp.data.encoding import encode_prompts
        from llama_exp.evaluation.generation import stream

        example = self.format.example(prompt, history, self.system if system is None else system, self.settings.raw)
        tokenizer, limit = self.base.tokenizer, self.config.max_length - self.max_new_tokens
        prompts, shortened = encode_prompts([example], tokenizer, limit)
        sampling: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, **self.settings.sampling}
        adapter = self.run.adapter if tuned and not self.run.is_untuned else None
        with self.base.use(adapter, keep_weights=True) as model:
            torch.manual_seed(fold_seed(self.settings.seed + len(history)))
            with contextlib.closing(stream(model, tokenizer, prompts[0], **sampling)) as pieces:
                while True:
                    with interrupted_at_end():  # not around the yields: there Ctrl-C is for whoever reads
                        piece = next(pieces, None)
                    if isinstance(piece, str):
                        yield piece
                        continue
                    if piece is not None:
                        yield ChatReply(piece.text, piece.finished, piece.tokens, bool(shortened))
                    return

    def close(self) -> None:
        """Close an open reply first: it holds the base."""
        self.base.release_weights()

    def __enter__(self) -> "ChatSession":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def turns(self, prompt: str | dict[str, str], reply: str) -> tuple[Turn, Turn]:
        """The two turns to add to the history: the message as the model saw it, and its reply."""
        message = self.format.example(prompt, raw=self.settings.raw).prompt
        return Turn("user", message), Turn("assistant", reply)

    @property
    def unused_fields(self) -> tuple[str, ...]:
        """The fields of a template that typed messages do not fill, because it has several."""
        return self.format.fields if len(self.format.fields) > 1 and not self.settings.raw else ()

    @property
    def format_note(self) -> str:
        """How the model was trained to be asked, where typed messages are sent unchanged; "" where they are not."""
        if not (fields := self.unused_fields):
            return ""
        return (
            f"This run was trained with a template of {len(fields)} fields ({', '.join(fields)}); what you type is "
            f"sent unchanged:\n{visible(self.format.template)}"
        )

    @property
    def name(self) -> str:
        return f"{self.config.model.title}, untuned" if self.run.is_untuned else self.run.name

    @property
    def chats_folder(self) -> Path:
        return (Path(self.config.outputs) if self.run.is_untuned else self.run.folder) / "chats"


def find_run_or_untuned(config: Config) -> Run:
    """The finished run that the config names; for lora.r=0 the untuned model, which needs no training.

    Raises UserError with the command that would train a missing run.
    """
    return Run.of(config) if config.lora.r == 0 else find_run(config)


def load_session(config: Config, settings: ReplySettings, system: str | None = None) -> ChatSession:
    """Find the run, load its base and its adapter."""
    run = find_run_or_untuned(config)
    hardware.check(dataclasses.replace(run.config, trainer=config.trainer))
    base = SharedBase(run.config, config.trainer)
    if not run.is_untuned:
        base.add(run.adapter)
    return ChatSession(base, run, settings, system)


def parse_history(turns: Any) -> tuple[Turn, ...]:
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
