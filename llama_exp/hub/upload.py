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

from llama_exp.errors import UserError

# What an earlier upload of ours may have left in a repository, of the other kind or with other shards.
OURS = (
    "adapter_*",
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "NOTICE",
    "LICENSE*",
    "USE_POLICY*",
)
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
    fresh: bool = False  # made by this upload, or left empty by one that broke: its visibility is ours to set
    stale: tuple[str, ...] = ()  # patterns of files to delete where the new upload has none like them

    @classmethod
    def open(cls, name: str, private: bool) -> "Hub":
        """Check the login, and see that no one publishes by accident into what is public."""
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.utils import disable_progress_bars

        for library in ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2"):
            logging.getLogger(library).setLevel(logging.ERROR)  # they write down every address, the signed ones too
        if not sys.stderr.isatty():
            disable_progress_bars()
        if constants.HF_HUB_OFFLINE:
            raise UserError("HF_HUB_OFFLINE is set: the hub may not be asked. Unset it, or type dry_run=true.")
        token = get_token()
        if not token:
            raise UserError(
                "Not logged in to the hub. Type `hf auth login`, or set HF_TOKEN to a token that may write."
            )
        api = HfApi(token=token)
        owner = patiently("log in", api.whoami)["name"]
        repo = name if "/" in name else f"{owner}/{name}"
        try:
            there = patiently(f"look up {repo}", lambda: api.repo_info(repo), RepositoryNotFoundError)
        except RepositoryNotFoundError:
            return cls(api, token, repo, private, fresh=True)
        if private and not there.private:
            raise UserError(f"{repo} exists and is public. Type private=false to update it, or choose another name.")
        empty = there.private and not {file.rfilename for file in there.siblings or ()} - {".gitattributes"}
        print(
            f"{repo} exists and is updated{'' if private or empty else '; its visibility stays as it is'}.", flush=True
        )
        return cls(api, token, repo, private, empty, OURS if MARK in (there.tags or ()) else ())

    def upload(self, folder: Path, message: str) -> str:
        """Create the repository if need be and commit the folder; returns its address. Files that are there are not sent.

        It is private until all is there: what breaks on the way leaves nothing for everyone to see.
        """

        def send() -> str:
            self.api.create_repo(self.repo, private=True if self.fresh else self.private, exist_ok=True)
            done = self.api.upload_folder(
                repo_id=self.repo, folder_path=folder, commit_message=message, delete_patterns=list(self.stale) or None
            )
            return str(done.commit_url)

        try:
            commit = scrubbed(patiently(f"upload to {self.repo}", send))
        except UserError as problem:
            if self.fresh and self._is_there():
                raise UserError(
                    f"{problem}\n{self.repo} is left there, private and without these files; to delete it: "
                    f"hf repos delete {self.repo}"
                ) from None
            raise
        if self.fresh and not self.private:
            try:
                patiently(f"make {self.repo} public", lambda: self.api.update_repo_settings(self.repo, private=False))
            except UserError as problem:
                raise UserError(
                    f"{problem}\nAll files are there ({commit}), for you alone: the settings of {self.repo} at the hub "
                    "make it public."
                ) from None
        return commit

    def _is_there(self) -> bool:
        try:
            return bool(self.api.repo_exists(self.repo))
        except Exception:  # whatever keeps the hub from answering: nothing is said of what cannot be seen
            return False


def check_name(name: str) -> None:
    """A UserError for what can be no repository's name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"repo={name}: {scrubbed(str(error))}") from None


def patiently(what: str, call: Callable[[], Any], *expected: type[Exception]) -> Any:
    """Call the hub, again after a while where it is busy or out of reach; what is not to be mended so is a UserError."""
    for wait in (*WAITS, None):
        try:
            return call()
        except expected:
            raise
        except Exception as error:
            if not is_hub_error(error):
                raise
            if wait is None or not passing(error):
                raise UserError(explained(what, error)) from None
            print(f"  {what}: {reason(error)}; again in {wait} s", flush=True)
            time.sleep(wait)


def is_hub_error(error: Exception) -> bool:
    """Of the hub's client, or of the HTTP library or the upload protocol below it (which differ between its versions)."""
    ours = type(error).__module__.split(".")[0] in ("huggingface_hub", "httpx", "httpx2", "requests", "hf_xet")
    return ours or isinstance(error, (OSError, RuntimeError))


def status(error: BaseException) -> int | None:
    """The server's answer. hf_xet gives it in words alone, and calls whatever it meets a ConnectionError."""
    in_words = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(error))
    return getattr(getattr(error, "response", None), "status_code", None) or (int(in_words[1]) if in_words else None)


def of_xet(error: BaseException) -> bool:
    return "/xet-" in str(error) or type(error).__module__.split(".")[0] == "hf_xet"


def unwrapped(error: BaseException) -> BaseException:
    """What broke an upload: the client raises a RuntimeError from it that says nothing of it."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ else error


def passing(error: Exception) -> bool:
    """Whether another attempt may do: the server is busy or broken (409, 429, 5xx), or the connection was cut."""
    code = status(error)
    return code in (408, 409, 429) or code is None or code >= 500


def reason(error: Exception) -> str:
    """What happened, without addresses: those of uploads are signed and as good as a password. Those of the API are not."""
    first = unwrapped(error)
    code = status(first)
    said = getattr(first, "server_message", None) or ""
    if code is None:
        said = re.sub(r"https?://\S+", "(address)", str(first)).strip().split("\n")[0].rstrip(".")
        return scrubbed(f"{type(first).__name__}: {said}" if said else f"{type(first).__name__}")
    asked = re.search(r"/api/[^\s?'\")]+", str(getattr(getattr(first, "response", None), "url", None) or first))
    told = f"the hub answered {code}" + (f" to {asked[0]}" if asked else "")
    return scrubbed(told + (f" ({said.strip()})" if said.strip() else ""))


def explained(what: str, error: Exception) -> str:
    """A line that says what to do."""
    first = unwrapped(error)
    if of_xet(first) and status(first) in (400, 403, 404, 405, 501):
        return (
            f"Could not {what}: {reason(error)}.\nThis server does not take uploads by xet, the client's usual way. Send them "
            "without: put HF_HUB_DISABLE_XET=1 before the same command."
        )
    advice = {
        401: "The token is not valid. Type `hf auth login`, or set HF_TOKEN to a token that may write.",
        403: "The token may not write there. Make one with the right to write at the hub (Settings, Access Tokens), "
        "or choose a name of your own: repo=NAME.",
        404: "No such repository, or none that this token may see.",
    }.get(status(first), "What went up already stays there: the same command goes on from it.")
    return f"Could not {what}: {reason(error)}.\n{advice}"


def scrubbed(text: str) -> str:
    return TOKEN.sub("hf_…", text)
