"""The model that one talks to, in the words it was trained with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from llama_exp.config.schema import Config
from llama_exp.data.dialogue import AGENT, SYSTEM
from llama_exp.errors import UserError
from llama_exp.model import hardware
from llama_exp.records import Example, Turn
from llama_exp.runs.find import find_run

CONTEXTS = ("context", "dialogue")  # fields of a template that may be shortened, as in training


@dataclass(frozen=True, slots=True)
class Wording:
    """How a run was spoken to: the template of a message and its fields, the system prompt."""

    template: str
    fields: tuple[str, ...]
    system: str

    @classmethod
    def of(cls, config: Config) -> "Wording":
        data = config.dataset
        if data.task.endswith("turns"):  # a side of a conversation: no template, and told who it is
            return cls("{message}", ("message",), data.system or SYSTEM[AGENT])
        fields = dict.fromkeys(name for _, name, _, _ in Formatter().parse(data.template) if name)
        return cls(data.template, tuple(fields), data.system)

    def message(self, said: str | dict[str, str], raw: bool = False) -> tuple[str, str]:
        """(the user's message, the part of it that may be shortened).

        A text fills a template of one field; one of several fields takes a dict of them, and a text stands for itself.
        """
        if isinstance(said, dict):
            lacking = [name for name in self.fields if name not in said]
            if lacking:
                raise UserError(
                    f"The run was trained with the fields {', '.join(self.fields)}; "
                    f'there is no {", ".join(lacking)}. Give them, or a whole "prompt".'
                )
            fields = {name: said[name].strip() for name in self.fields}
        elif raw or len(self.fields) != 1:
            return said.strip(), ""
        else:
            fields = {self.fields[0]: said.strip()}
        context = next((fields[name] for name in CONTEXTS if name in fields), "")
        return self.template.format(**fields).strip(), context


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole reply. finished: it ended by itself; shortened: of what was said before, not all fitted."""

    text: str
    finished: bool
    tokens: int
    shortened: bool


@dataclass(frozen=True, slots=True)
class Manner:
    """How replies are drawn. `sampling` is for generate(); {} is greedy, as in evaluation."""

    sampling: dict[str, Any]
    seed: int = 0
    max_new_tokens: int | None = None  # None: the dataset's
    raw: bool = False


class Partner:
    """A run to talk to. `run` is None for rank 0, where the tuned model and the untuned one are the same.

    partner.ask("Hello", history) yields pieces of the reply as they come, and at last the Answer.
    """

    def __init__(self, voices, run: Path | None, config: Config, manner: Manner, system: str | None = None):
        self.voices, self.run, self.config, self.manner = voices, run, config, manner
        self.wording = Wording.of(config)
        self.system = self.wording.system if system is None else system
        self.longest = manner.max_new_tokens or config.dataset.max_new_tokens
        if config.max_length - self.longest < 32:
            raise UserError(
                f"max_new_tokens={self.longest} leaves no room for what is said: this run reads "
                f"{config.max_length} tokens in all. At most {config.max_length - 32} can be new."
            )

    def ask(
        self, said: str | dict[str, str], history: Sequence[Turn] = (), *, system: str | None = None, tuned: bool = True
    ) -> Iterator[str | Answer]:
        """Reply to `said` after `history`. `tuned=False`: the base without the adapter, in the same words."""
        import torch

        from llama_exp.data.encoding import encode_prompts
        from llama_exp.evaluation.generation import stream

        message, context = self.wording.message(said, self.manner.raw)
        example = Example(
            "message", message, "", (), "", context, tuple(history), self.system if system is None else system
        )
        limit = self.config.max_length - self.longest
        prompts, shortened = encode_prompts([example], self.voices.tokenizer, limit)
        with self.voices.speaking(self.run if tuned else None) as model:
            torch.manual_seed(self.manner.seed + len(history))
            for piece in stream(
                model, self.voices.tokenizer, prompts[0], max_new_tokens=self.longest, **self.manner.sampling
            ):
                if isinstance(piece, str):
                    yield piece
                else:
                    yield Answer(piece.text, piece.finished, piece.tokens, bool(shortened))

    def turns(self, said: str | dict[str, str], reply: str) -> tuple[Turn, Turn]:
        """An exchange as history: the message as the model saw it, and what it said."""
        return Turn("user", self.wording.message(said, self.manner.raw)[0]), Turn("assistant", reply)

    def named(self) -> str:
        return f"{self.config.model.name}, untuned" if self.run is None else f"{self.run.parent.name}/{self.run.name}"


def find(config: Config) -> tuple[Path | None, Config]:
    """(the run that the words mean, its config); rank 0 is no run. A UserError says how to train what is not there."""
    if config.lora.r == 0:
        return None, config
    run = find_run(config)
    return run.folder, run.config


def meet(config: Config, manner: Manner, system: str | None = None) -> Partner:
    """Find the run, load its base and put its adapter on."""
    import dataclasses

    run, trained = find(config)
    hardware.check(dataclasses.replace(trained, trainer=config.trainer))
    from llama_exp.model.adapters import Voices

    voices = Voices(trained, config.trainer)
    if run is not None:
        voices.add(run)
    return Partner(voices, run, trained, manner, system)
