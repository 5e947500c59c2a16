"""A repository on the Hugging Face hub that we may write to: checked before the work, written to patiently.

All by the real `huggingface_hub` client. No token and no address of an upload gets into a message: such addresses are
signed, and as good as a password.
"""

import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_exp.records import Problem

# What an earlier upload of ours may have left in a repository, of the other kind or with other shards.
OURS = ("adapter_*", "model*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json",
        "tokenizer*", "special_tokens_map.json", "chat_template.jinja", "NOTICE", "LICENSE*", "USE_POLICY*")  # fmt: skip
MARK = "llama_exp"  # the tag of our model cards: in a repository without it nothing is deleted
WAITS = (2, 5)  # seconds before another attempt; the client has its own, finer retries inside of each
TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository that we may write to, by the real client, patiently."""

    api: Any
    token: str
    repo: str
    private: bool
    stale: tuple[str, ...] = ()  # patterns of files to delete where the new upload has none like them

    @classmethod
    def open(cls, name: str, private: bool) -> "Hub":
        """Check the name and the login, and see that no one publishes by accident into what is public."""
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
        from huggingface_hub.utils import disable_progress_bars, validate_repo_id

        for library in ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2"):
            logging.getLogger(library).setLevel(logging.ERROR)  # they write down every address, the signed ones too
        if not sys.stderr.isatty():
            disable_progress_bars()
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise Problem(f"repo={name}: {scrubbed(str(error))}") from None
        if constants.HF_HUB_OFFLINE:
            raise Problem("HF_HUB_OFFLINE is set: the hub may not be asked. Unset it, or type dry_run=true.")
        token = get_token()
        if not token:
            raise Problem("Not logged in to the hub. Type `hf auth login`, or set HF_TOKEN to a token that may write.")
        api = HfApi(token=token)
        owner = patiently("log in", api.whoami)["name"]
        repo = name if "/" in name else f"{owner}/{name}"
        try:
            there = patiently(f"look up {repo}", lambda: api.repo_info(repo), RepositoryNotFoundError)
        except RepositoryNotFoundError:
            return cls(api, token, repo, private)
        if private and not there.private:
            raise Problem(f"{repo} exists and is public. Type private=false to update it, or choose another name.")
        print(f"{repo} exists and is updated{'' if private else '; its visibility stays as it is'}.", flush=True)
        return cls(api, token, repo, private, OURS if MARK in (there.tags or ()) else ())

    def upload(self, folder: Path, message: str) -> str:
        """Create the repository if need be and commit the folder; returns its address. Files that are there are not sent."""

        def send() -> str:
            self.api.create_repo(self.repo, private=self.private, exist_ok=True)
            done = self.api.upload_folder(
                repo_id=self.repo, folder_path=folder, commit_message=message, delete_patterns=list(self.stale) or None
            )
            return str(done.commit_url)

        return scrubbed(patiently(f"upload to {self.repo}", send))


def patiently(what: str, call: Callable[[], Any], *expected: type[Exception]) -> Any:
    """Call the hub, again after a while where it is busy or out of reach; what is not to be mended so is a Problem."""
    for wait in (*WAITS, None):
        try:
            return call()
        except expected:
            raise
        except Exception as error:
            if not is_hub_error(error):
                raise
            if wait is None or not passing(error):
                raise Problem(explained(what, error)) from None
            print(f"  {what}: {reason(error)}; again in {wait} s", flush=True)
            time.sleep(wait)


def is_hub_error(error: Exception) -> bool:
    """Of the hub's client, or of the HTTP library or the upload protocol below it (which differ between its versions)."""
    ours = type(error).__module__.split(".")[0] in ("huggingface_hub", "httpx", "httpx2", "requests", "hf_xet")
    return ours or isinstance(error, (OSError, RuntimeError))


def status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def unwrapped(error: BaseException) -> BaseException:
    """What broke an upload: the client raises a RuntimeError from it that says nothing of it."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ else error


def passing(error: Exception) -> bool:
    """Whether another attempt may do: the server is busy or broken (409, 429, 5xx), or the connection was cut."""
    code = status(error)
    return code in (408, 409, 429) or code is None or code >= 500


def reason(error: Exception) -> str:
    """What happened, without addresses: those of uploads are signed and as good as a password."""
    first = unwrapped(error)
    code = status(first)
    said = getattr(first, "server_message", None) or ""
    if code is None:
        said = re.sub(r"https?://\S+", "(address)", str(first)).strip().split("\n")[0].rstrip(".")
        return scrubbed(f"{type(first).__name__}: {said}" if said else f"{type(first).__name__}")
    return scrubbed(f"the hub answered {code}" + (f" ({said.strip()})" if said.strip() else ""))


def explained(what: str, error: Exception) -> str:
    """A line that says what to do."""
    advice = {
        401: "The token is not valid. Type `hf auth login`, or set HF_TOKEN to a token that may write.",
        403: "The token may not write there. Make one with the right to write at the hub (Settings, Access Tokens), "
             "or choose a name of your own: repo=NAME.",
        404: "No such repository, or none that this token may see.",
    }.get(status(unwrapped(error)), "What went up already stays there: the same command goes on from it.")  # fmt: skip
    return f"Could not {what}: {reason(error)}.\n{advice}"


def scrubbed(text: str) -> str:
    return TOKEN.sub("hf_…", text)
