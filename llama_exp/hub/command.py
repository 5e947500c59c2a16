"""The publish command."""

from dataclasses import dataclass
from pathlib import Path

from llama_exp.config.options import option
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.hub.upload import TOKEN


@dataclass(frozen=True)
class PublishOptions:
    repo: str | None = option(None, "or OWNER/NAME; one that exists is updated", shown="NAME")
    merged: bool = option(False, "true: adapter and base merged into one model")
    private: bool = option(True, "false: everyone can see it")
    dry_run: bool = option(False, "true: write the folder and list what would be uploaded; ask no server")
    tolerance: float = option(
        0.02, "merged: refused if its held-out loss differs more from the adapter's, in nats a token"
    )
    agreement: float = option(0.8, "merged: refused if a smaller share of its greedy answers equals the adapter's")
    check: int = option(64, "merged: held-out Examples that both answer", minimum=1)

    @staticmethod
    def check_arguments(arguments: list[str]) -> list[str]:
        """Raise UserError for a token, before anything else is read."""
        for argument in arguments:
            key = argument.partition("=")[0]
            if key.lstrip("+~-").lower() in ("token", "hf_token") or TOKEN.search(argument):
                raise UserError(
                    "A token on the command line is seen by everyone on this machine and kept in the shell's history. "
                    "Log in with `hf auth login`, or put it into the environment: HF_TOKEN. Then renew this one."
                )
        return arguments


def publish(config: Config, options: PublishOptions) -> Path:
    """Publish a finished run on the Hugging Face hub, found by the keys that trained it:

        llama-exp publish dataset=squad sample=1000 lora.r=16 repo=NAME                the adapter, private
        llama-exp publish dataset=squad sample=1000 lora.r=16 repo=NAME merged=true    base and adapter in one, bf16
        llama-exp publish dataset=squad sample=1000 lora.r=16 dry_run=true             only lists what would be uploaded

    The token is the hub's own (`hf auth login`, or HF_TOKEN in the environment), never an option. After a broken
    connection the same command continues the upload. More: docs/hub.md.
    """
    from llama_exp.hub.publish import publish_run

    return publish_run(config, options)
