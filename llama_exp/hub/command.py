"""Publish a finished run on the Hugging Face hub, found by the words that trained it:

    python -m llama_exp.hub dataset=squad sample=1000 lora.r=16 repo=NAME                  the adapter, private
    python -m llama_exp.hub dataset=squad sample=1000 lora.r=16 repo=NAME merged=true      base and adapter in one, bf16
    python -m llama_exp.hub dataset=squad sample=1000 lora.r=16 dry_run=true               only shows what would go up

Its own words, beside those of conf/:

    repo=NAME         or OWNER/NAME; one that exists is updated
    merged=false      true: the merged model instead of the adapter
    private=true      false: for everyone to see
    dry_run=false     true: write the folder, print what would go up, ask no server
    tolerance=0.02    merged: refused if its held-out loss is further than this from the adapter's, in nats a token
    agreement=0.8     merged: refused if fewer of its greedy answers are the adapter's, word for word
    check=64          merged: held-out Examples that both answer

The token is the hub's own (`hf auth login`, or HF_TOKEN in the environment); it is never a word of a command. What
went up before a connection broke stays there: the same command goes on from it. More: docs/hub.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_exp.cli import options
from llama_exp.cli.main import with_options
from llama_exp.config.compose import register
from llama_exp.errors import UserError
from llama_exp.hub.publish import publish
from llama_exp.hub.upload import TOKEN

register()


@dataclass(frozen=True, slots=True)
class Words:
    """The words of this command that are not of conf/."""

    repo: str | None = None
    merged: bool = False
    private: bool = True
    dry_run: bool = False
    tolerance: float = 0.02
    agreement: float = 0.8
    check: int = 64


def split(words: Sequence[str]) -> tuple[Words, list[str]]:
    """This command's own words, typed; and the rest, which is Hydra's."""
    for word in words:
        key = word.partition("=")[0]
        if key.lstrip("+~-").lower() in ("token", "hf_token") or TOKEN.search(word):
            raise UserError(
                "A token on the command line is seen by everyone on this machine and kept in the shell's history. "
                "Log in with `hf auth login`, or put it into the environment: HF_TOKEN. Then renew this one."
            )
    mine, rest = options.split(words, Words)
    if mine.check < 1:
        raise UserError(f"check={mine.check}: wanted 1 or more.")
    return mine, rest


def main() -> None:
    with_options(
        __doc__, split, publish, "One run at a time: a name on the hub holds one model. Leave out -m and the commas."
    )
