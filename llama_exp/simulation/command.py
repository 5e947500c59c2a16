"""The simulate command."""

from dataclasses import dataclass

from llama_exp.config.options import option
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.runs.run import Outcome


@dataclass(frozen=True)
class SimulateOptions:
    client: str = option(
        "tuned", "who speaks for the client: tuned, untuned, script:FILE (a turn a line) or a run's folder"
    )
    agent: str = option("tuned", "the same for the agent")
    against: str | None = option(
        None,
        "another run's folder, or untuned: it replaces the tuned run in a second simulation\n"
        "with the same openings, and the two are compared",
        shown="FOLDER",
    )
    conversations: int = option(20, "how many", minimum=1)
    opening: str = option(
        "held_out", "first messages of held-out conversations; client: it makes them up;\nor a file, a message a line"
    )
    turns: int = option(12, "the most in one conversation, the opening included", minimum=2)
    temperature: float = option(0.7, "0: greedy; more: draws at random")
    top_p: float = option(0.9, "draw from the likeliest tokens that together have this probability")
    sampling_seed: int = option(0, "the same seed gives the same conversations, also after an interruption")
    client_system: str | None = option(None, "another system prompt for the client than in training", shown="TEXT")
    agent_system: str | None = option(None, "the same for the agent", shown="TEXT")

    @staticmethod
    def check_arguments(arguments: list[str]) -> list[str]:
        """TweetSumm speaks in turns here, unless another task is typed."""
        typed = any(argument.startswith("dataset.task=") for argument in arguments)
        return [*arguments, "dataset.task=turns"] if "dataset=tweetsumm" in arguments and not typed else arguments

    def __post_init__(self) -> None:
        if self.against is not None and "tuned" not in (self.client, self.agent):
            raise UserError("against=… replaces the tuned run, and neither client nor agent is tuned.")


def simulate(config: Config, options: SimulateOptions) -> Outcome:
    """Let a client and an agent talk, by a run found by the keys that trained it:

        llama-exp train dataset=tweetsumm dataset.task=turns sample=null lora.r=8       a model that can speak
        llama-exp simulate dataset=tweetsumm lora.r=8                                   it talks with itself
        llama-exp simulate dataset=tweetsumm lora.r=8 client=script:lines.txt           with a fixed client
        llama-exp simulate dataset=tweetsumm lora.r=8 client=untuned against=untuned    against the untuned model

    eval_batch conversations, else 32, are held at a time. Writes RUN/simulation/NAME/: conversations.jsonl,
    conversations.html, simulation.json; with against= comparison.json and comparison.html, too. A conversation ends on
    a closing, a repeat, silence, the end of a script or the turn limit. Run again, the command continues. More:
    docs/chat.md.
    """
    from llama_exp.simulation.simulate import run_simulation  # scipy: a second

    return run_simulation(config, options)
