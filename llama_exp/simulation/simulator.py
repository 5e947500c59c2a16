"""The conversations themselves: many at a time, in step, each side from its own side."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from llama_exp.config.schema import Config
from llama_exp.data.dialogue import CLIENT, SIDES, Said
from llama_exp.data.encoding import encode_all, encode_prompts
from llama_exp.evaluation.generation import generate, likelihood
from llama_exp.evaluation.sampling import check_sampling
from llama_exp.model.adapters import Voices
from llama_exp.simulation.conversations import LIMIT, SCRIPT, Conversation, Speech, ending
from llama_exp.simulation.speakers import Opening, Part, example


@dataclass(slots=True)
class Talk:
    """A conversation that is going on; `ending` is None until it is over."""

    opening: Opening
    turns: list[Speech] = field(default_factory=list)
    ending: str | None = None

    def add(self, speech: Speech) -> None:
        self.turns.append(speech)
        self.ending = ending(self.turns)


class Stage:
    """The base with the adapters that the parts need, for the length of a `with` block."""

    def __init__(self, config: Config, options, parts: dict[str, Part]):
        self.config, self.options, self.parts = config, options, parts
        self.sampling = check_sampling(options.temperature, options.top_p)

    def __enter__(self) -> "Stage":
        speaking = [part for part in self.parts.values() if part.script is None]
        self.voices = Voices(speaking[0].config, self.config.trainer)
        try:
            for part in speaking:
                if part.run is not None:
                    self.voices.add(part.run)
        except BaseException:
            self.voices.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.voices.close()

    def talk(self, batch: Sequence[Opening]) -> list[Conversation]:
        """Hold the conversations of a batch, from their openings to their ends."""
        talks = [Talk(opening) for opening in batch]
        for talk in talks:
            if talk.opening.text is not None:
                talk.add(Speech(CLIENT, talk.opening.text, made=False))
        for place in range(len(talks[0].turns), self.options.turns):
            going = [talk for talk in talks if talk.ending is None]
            if going:
                self._turn(self.parts[SIDES[place % 2]], going, place)
        real = self._real(batch)
        return [
            Conversation(
                talk.opening.id, talk.opening.group, talk.ending or LIMIT, tuple(talk.turns), real=real[talk.opening.id]
            )
            for talk in talks
        ]

    def _turn(self, part: Part, talks: list[Talk], place: int) -> None:
        """One side speaks in all conversations that still go on."""
        if part.script is not None:
            number = self._script_line(part, talks[0])
            for talk in talks:
                if number < len(part.script):
                    talk.add(Speech(part.side, part.script[number], made=False))
                else:
                    talk.ending = SCRIPT
            return
        asked = [example(part, talk.opening, [Said(turn.speaker, turn.text) for turn in talk.turns]) for talk in talks]
        longest = part.config.dataset.max_new_tokens
        prompts, _ = encode_prompts(asked, self.voices.tokenizer, part.config.max_length - longest)
        torch.manual_seed(seed(self.options.sampling_seed, talks[0].opening.id, place))
        replies = {}
        with self.voices.speaking(part.run) as model:
            for some in generate(
                model, self.voices.tokenizer, prompts, max_new_tokens=longest, batch=len(prompts), **self.sampling
            ):
                replies |= {reply.place: reply for reply in some}
        for number, talk in enumerate(talks):
            reply = replies[number]
            talk.add(Speech(part.side, reply.text, finished=reply.finished))

    def _script_line(self, part: Part, talk: Talk) -> int:
        """How many of its lines a script has said; an opening that was given is none of them."""
        given = talk.opening.text is not None and part.side == CLIENT
        return sum(turn.speaker == part.side for turn in talk.turns) - given

    def _real(self, batch: Sequence[Opening]) -> dict[str, dict[str, tuple[float, int]]]:
        """By opening and side: how likely each side's model finds what was really said there."""
        found: dict[str, dict[str, tuple[float, int]]] = {opening.id: {} for opening in batch}
        for side, part in self.parts.items():
            owner = {e.id: opening.id for opening in batch for e in opening.real.get(side, ())}
            if part.script is not None or not owner:
                continue
            examples = [
                dataclasses.replace(e, system=part.system) if e.tags.get("speaker") else e
                for opening in batch
                for e in opening.real.get(side, ())
            ]
            tokens, _ = encode_all(
                examples, self.voices.tokenizer, part.config.max_length, part.config.dataset.max_new_tokens
            )
            with self.voices.speaking(part.run) as model:
                measured = likelihood(model, tokens)
            for name, (nll, count) in measured.items():
                before = found[owner[name]].get(side, (0.0, 0))
                found[owner[name]][side] = before[0] + nll, before[1] + count
        return found


def seed(*parts: object) -> int:
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16)
