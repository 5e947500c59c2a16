"""A repository on the Hugging Face hub: checked before the work, uploaded to with retries.

By the real `huggingface_hub` client. No token and no upload address appears in a message: such addresses are signed,
and as good as a password.
"""

import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from llama_exp.errors import UserError

# Files that an earlier upload of the other kind, or with other shards, may have left in a repository.
REPLACED = (
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
TAG = "llama_exp"  # of our model cards: in a repository without it nothing is deleted
WAITS = (2, 5)  # seconds before a retry; the client has its own, shorter retries within each
TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository that may be written to.

    new      created by this upload, or left empty by one that broke: this command decides its visibility
    replaced patterns of files to delete where the new upload has none like them
    """

    api: Any
    token: str
    name: str
    private: bool
    new: bool = False
    replaced: tuple[str, ...] = ()

    @classmethod
    def open(cls, name: str, private: bool) -> "HubRepository":
        """Check the login, and refuse to publish by accident in a public repository."""
        for library in ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2"):
            logging.getLogger(library).setLevel(logging.ERROR)  # they log every address, the signed ones too
        if not sys.stderr.isatty():
            disable_progress_bars()
        if constants.HF_HUB_OFFLINE:
            raise UserError("HF_HUB_OFFLINE is set: the hub cannot be reached. Unset it, or type dry_run=true.")
        token = get_token()
        if not token:
            raise UserError(
                "Not logged in to the hub. Type `hf auth login`, or set HF_TOKEN to a token that may write."
            )
        api = HfApi(token=token)
        owner = retry("log in", api.whoami)["name"]
        name = name if "/" in name else f"{owner}/{name}"
        try:
            found = retry(f"look up {name}", lambda: api.repo_info(name), RepositoryNotFoundError)
        except RepositoryNotFoundError:
            return cls(api, token, name, private, new=True)
        if private and not found.private:
            raise UserError(f"{name} exists and is public. Type private=false to update it, or choose another name.")
        empty = found.private and not {file.rfilename for file in found.siblings or ()} - {".gitattributes"}
        unchanged = "" if private or empty else "; its visibility is not changed"
        print(f"{name} exists and is updated{unchanged}.", flush=True)
        return cls(api, token, name, private, empty, REPLACED if TAG in (found.tags or ()) else ())

    def upload(self, folder: Path, message: str) -> str:
        """Create the repository if needed and commit the folder; returns the commit's address. Files already there are
        not sent again.

        A new repository is private until all files are there: a broken upload leaves nothing for everyone to see.
        """
        try:
            commit = redact(retry(f"upload to {self.name}", lambda: self._commit(folder, message)))
        except UserError as error:
            if self.new and self._exists():
                raise UserError(
                    f"{error}\n{self.name} is left there, private and without these files; to delete it: "
                    f"hf repos delete {self.name}"
                ) from None
            raise
        if self.new and not self.private:
            try:
                retry(f"make {self.name} public", lambda: self.api.update_repo_settings(self.name, private=False))
            except UserError as error:
                raise UserError(
                    f"{error}\nAll files are uploaded ({commit}), still private. Make {self.name} public in its "
                    "settings on the hub."
                ) from None
        return commit

    def _commit(self, folder: Path, message: str) -> str:
        self.api.create_repo(self.name, private=True if self.new else self.private, exist_ok=True)
        patterns = list(self.replaced) or None
        commit = self.api.upload_folder(
            repo_id=self.name, folder_path=folder, commit_message=message, delete_patterns=patterns
        )
        return str(commit.commit_url)

    def _exists(self) -> bool:
        try:
            return bool(self.api.repo_exists(self.name))
        except Exception:  # the hub does not answer, for whatever reason: claim nothing
            return False


def check_name(name: str) -> None:
    """Raise UserError for a name that no repository can have."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"repo={name}: {redact(str(error))}") from None


def retry(action: str, call: Callable[[], Any], *expected: type[Exception]) -> Any:
    """Call the hub, and again after a wait where it is busy or unreachable. Other errors of the hub are a UserError."""
    for wait in (*WAITS, None):
        try:
            return call()
        except expected:
            raise
        except Exception as error:
            if not is_hub_error(error):
                raise
            if wait is None or not is_transient(error):
                raise UserError(advise(action, error)) from None
            print(f"  {action}: {describe(error)}; again in {wait} s", flush=True)
            time.sleep(wait)


def is_hub_error(error: Exception) -> bool:
    """Of the hub's client, or of the HTTP library or upload protocol below it (which differ between its versions)."""
    libraries = ("huggingface_hub", "httpx", "httpx2", "requests", "hf_xet")
    return type(error).__module__.split(".")[0] in libraries or isinstance(error, (OSError, RuntimeError))


def status_code(error: BaseException) -> int | None:
    """The server's HTTP status. hf_xet gives it in its text alone, and calls every error a ConnectionError."""
    in_text = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(error))
    return getattr(getattr(error, "response", None), "status_code", None) or (int(in_text[1]) if in_text else None)


def is_xet_error(error: BaseException) -> bool:
    return "/xet-" in str(error) or type(error).__module__.split(".")[0] == "hf_xet"


def root_cause(error: BaseException) -> BaseException:
    """What broke an upload: the client raises a RuntimeError from it that does not mention it."""
    return error.__cause__ if type(error) is RuntimeError and error.__cause__ else error


def is_transient(error: Exception) -> bool:
    """Whether a retry may help: the server is busy or broken (409, 429, 5xx), or the connection was cut."""
    code = status_code(error)
    return code in (408, 409, 429) or code is None or code >= 500


def describe(error: Exception) -> str:
    """What happened, without addresses other than the API's: those of uploads are signed."""
    cause = root_cause(error)
    code = status_code(cause)
    if code is None:
        text = re.sub(r"https?://\S+", "(address)", str(cause)).strip().split("\n")[0].rstrip(".")
        return redact(f"{type(cause).__name__}: {text}" if text else type(cause).__name__)
    message = (getattr(cause, "server_message", None) or "").strip()
    path = re.search(r"/api/[^\s?'\")]+", str(getattr(getattr(cause, "response", None), "url", None) or cause))
    answer = f"the hub answered {code}" + (f" to {path[0]}" if path else "")
    return redact(answer + (f" ({message})" if message else ""))


def advise(action: str, error: Exception) -> str:
    """What could not be done, why, and what to do."""
    cause = root_cause(error)
    code = status_code(cause)
    if is_xet_error(cause) and code in (400, 403, 404, 405, 501):
        advice = (
            "This server does not accept uploads by xet, the client's default. "
            "Put HF_HUB_DISABLE_XET=1 before the same command."
        )
    else:
        advice = {
            401: "The token is not valid. Type `hf auth login`, or set HF_TOKEN to a token that may write.",
            403: "The token may not write there. Create one with write access on the hub (Settings, Access Tokens), "
            "or choose a name of your own: repo=NAME.",
            404: "No such repository, or none that this token may see.",
        }.get(code, "What was uploaded is kept: the same command continues from it.")
    return f"Could not {action}: {describe(error)}.\n{advice}"


def redact(text: str) -> str:
    return TOKEN.sub("hf_…", text)
