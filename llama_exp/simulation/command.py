"""Let a client and an agent talk, by a run found by the words that trained it:

    python train.py dataset=tweetsumm dataset.task=turns sample=null lora.r=8              a model that can speak
    python -m llama_exp.simulation dataset=tweetsumm lora.r=8                              it talks with itself
    python -m llama_exp.simulation dataset=tweetsumm lora.r=8 client=script:lines.txt      with a fixed client
    python -m llama_exp.simulation dataset=tweetsumm lora.r=8 client=untuned against=untuned

Its own words, beside those of conf/ (dataset.task is `turns` unless another is typed; eval_batch, else 32, talk at a time):

    client=tuned         who speaks for the client: tuned, untuned, script:FILE (a turn a line) or another run's folder
    agent=tuned          the same for the agent
    against=             another run's folder, or untuned: it takes the place of the tuned one in a second simulation
                         over the same openings, and the two are compared
    conversations=20     how many
    opening=held_out     first messages of held-out conversations (split=, dataset.source=synthetic); client: it makes
                         them up; or a file, a message a line
    turns=12             the most in one conversation, the opening included
    temperature=0.7      0 = greedy; top_p=0.9
    sampling_seed=0      the same seed gives the same conversations, also after an interruption
    client_system=TEXT   another system prompt than that of training; agent_system=TEXT

Writes RUN/simulation/NAME/: conversations.jsonl, conversations.html, simulation.json; with against= comparison.json and
comparison.html too. A conversation ends on a closing, a repeat, silence, the end of a script or the turn limit, and says
which. Typed again, it goes on where it was. More: docs/chat.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_exp.cli import options
from llama_exp.cli.main import with_options
from llama_exp.config.compose import register
from llama_exp.errors import UserError
from llama_exp.simulation.simulate import simulate

register()


@dataclass(frozen=True, slots=True)
class Words:
    """The words of this command that are not of conf/."""

    client: str = "tuned"
    agent: str = "tuned"
    against: str | None = None
    conversations: int = 20
    opening: str = "held_out"
    turns: int = 12
    temperature: float = 0.7
    top_p: float = 0.9
    sampling_seed: int = 0
    client_system: str | None = None
    agent_system: str | None = None


def split(words: Sequence[str]) -> tuple[Words, list[str]]:
    """This command's own words, checked; and the rest, which is Hydra's."""
    mine, rest = options.split(words, Words)
    if mine.conversations < 1 or mine.turns < 2:
        raise UserError(f"conversations={mine.conversations} turns={mine.turns}: wanted at least 1 and at least 2.")
    if mine.against is not None and "tuned" not in (mine.client, mine.agent):
        raise UserError("against=… takes the place of the tuned run, and neither client nor agent is tuned.")
    if "dataset=tweetsumm" in rest and not any(word.startswith("dataset.task=") for word in rest):
        rest.append("dataset.task=turns")
    return mine, rest


def main() -> None:
    with_options(__doc__, split, simulate)
