"""Generates conversations turn by turn, many at once, each side prompted with the conversation as it sees it."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from llama_exp.config.schema import Config
from llama_exp.data.dialogue import CLIENT, SIDES, SpokenTurn, next_turn_example
from llama_exp.data.encoding import encode_all, encode_prompts
from llama_exp.evaluation.generation import generate, likelihood
from llama_exp.evaluation.sampling import check_sampling
from llama_exp.model.adapters import SharedBase
from llama_exp.simulation.conversations import LIMIT, SCRIPT, Conversation, Utterance, find_ending
from llama_exp.simulation.openings import Opening
from llama_exp.simulation.speakers import Speaker


@dataclass(slots=True)
class OpenConversation:
    """A conversation in progress; `ending` is None until it is over."""

    opening: Opening
    turns: list[Utterance] = field(default_factory=list)
    ending: str | None = None

    def add(self, turn: Utterance) -> None:
        self.turns.append(turn)
        self.ending = find_ending(self.turns)


class Simulator:
    """The speakers, on one base in memory."""

    def __init__(self, base: SharedBase, options, speakers: dict[str, Speaker]):
        self.base, self.options, self.speakers = base, options, speakers
        self.sampling = check_sampling(options.temperature, options.top_p)

    def simulate(self, batch: Sequence[Opening]) -> list[Conversation]:
        """The conversations of a batch, from their openings to their ends."""
        conversations = [OpenConversation(opening) for opening in batch]
        for one in conversations:
            if one.opening.text is not None:
                one.add(Utterance(CLIENT, one.opening.text, made=False))
        for index in range(len(conversations[0].turns), self.options.turns):
            if unfinished := [one for one in conversations if one.ending is None]:
                self._add_turn(self.speakers[SIDES[index % 2]], unfinished, index)
        real = self._real_likelihood(batch)
        return [
            Conversation(
                one.opening.id, one.opening.group, one.ending or LIMIT, tuple(one.turns), real=real[one.opening.id]
            )
            for one in conversations
        ]

    def _add_turn(self, speaker: Speaker, conversations: list[OpenConversation], index: int) -> None:
        """The next turn, of one side, in all unfinished conversations."""
        if speaker.script is not None:
            line = self._script_index(speaker, conversations[0])
            for one in conversations:
                if line < len(speaker.script):
                    one.add(Utterance(speaker.side, speaker.script[line], made=False))
                else:
                    one.ending = SCRIPT
            return
        examples = [
            next_turn_example(
                one.opening.id,
                [SpokenTurn(turn.speaker, turn.text) for turn in one.turns],
                speaker.side,
                speaker.system,
            )
            for one in conversations
        ]
        limit = speaker.config.dataset.max_new_tokens
        prompts, _ = encode_prompts(examples, self.base.tokenizer, speaker.config.max_length - limit)
        torch.manual_seed(seed_of(self.options.sampling_seed, conversations[0].opening.id, index))
        settings = {"max_new_tokens": limit, "batch": len(prompts), **self.sampling}
        with self.base.use(speaker.adapter) as model:
            replies = [reply for some in generate(model, self.base.tokenizer, prompts, **settings) for reply in some]
        for reply in replies:
            conversations[reply.index].add(Utterance(speaker.side, reply.text, finished=reply.finished))

    def _script_index(self, speaker: Speaker, conversation: OpenConversation) -> int:
        """How many of its lines a script has spoken; a given opening is not one of them."""
        given = conversation.opening.text is not None and speaker.side == CLIENT
        return sum(turn.speaker == speaker.side for turn in conversation.turns) - given

    def _real_likelihood(self, batch: Sequence[Opening]) -> dict[str, dict[str, tuple[float, int]]]:
        """{opening: {side: (nll, tokens)}}: how likely each side's model finds that side's real turns."""
        sums: dict[str, dict[str, tuple[float, int]]] = {opening.id: {} for opening in batch}
        for side, speaker in self.speakers.items():
            examples = [(opening.id, example) for opening in batch for example in opening.real.get(side, ())]
            if speaker.script is not None or not examples:
                continue
            opening_of = {example.id: opening for opening, example in examples}
            prompted = [
                dataclasses.replace(example, system=speaker.system) if example.tags.get("speaker") else example
                for _, example in examples
            ]
            config = speaker.config
            tokens, _ = encode_all(prompted, self.base.tokenizer, config.max_length, config.dataset.max_new_tokens)
            with self.base.use(speaker.adapter) as model:
                measured = likelihood(model, tokens)
            for name, (nll, count) in measured.items():
                before = sums[opening_of[name]].get(side, (0.0, 0))
                sums[opening_of[name]][side] = before[0] + nll, before[1] + count
        return sums


def load_simulator(config: Config, options, speakers: dict[str, Speaker]) -> Simulator:
    """Load the base with the adapters of the speakers."""
    models = [speaker for speaker in speakers.values() if speaker.script is None]
    base = SharedBase(models[0].config, config.trainer)
    for speaker in models:
        if speaker.adapter is not None:
            base.add(speaker.adapter)
    return Simulator(base, options, speakers)


def seed_of(*parts: object) -> int:
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16)
