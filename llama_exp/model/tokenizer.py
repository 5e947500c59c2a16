"""The base's tokenizer, checked for what the chat format needs."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from llama_exp.config.schema import ModelConfig
from llama_exp.errors import UserError


def warn_of_slow_merges(tokenizer, folder: str) -> str | None:
    """The warning for a folder with tokenizer.model alone, which is converted without piece scores; None otherwise."""
    path = Path(folder)
    if path.is_dir() and (path / "tokenizer.model").exists() and not (path / "tokenizer.json").exists():
        return (
            f"{folder} has tokenizer.model but no tokenizer.json: converted merges lack the piece scores, and about "
            "one text in eight gets other ids than SentencePiece gives. "
            "Use a folder with tokenizer.json where there is one."
        )
    return None


def resolve_path(path: str) -> str:
    """A local folder as an absolute path, a hub id unchanged. Raises UserError for a path that does not exist."""
    if path == "llama_exp/tiny":  # inside the package, wherever that is installed
        from llama_exp import tiny

        tiny.verify()
        return str(tiny.PATH)
    if Path(path).is_dir():
        return str(Path(path).resolve())
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(f"model.path={path}: no such folder, and not a hub repository (OWNER/NAME).")
    return path


def load_tokenizer(model: ModelConfig):
    """The base's tokenizer, checked for what the encoding needs. The cells of a sweep share one."""
    return _load_tokenizer(resolve_path(model.path), model.path, model.revision)


@functools.lru_cache(maxsize=1)
def _load_tokenizer(path: str, asked: str, revision: str | None):
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, path, asked, revision, {})
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {path} has no EOS token: a reply would not end.")
    tokenizer.model_max_length = int(1e9)  # lengths are ours to keep; the library would only warn
    if warning := warn_of_slow_merges(tokenizer, path):
        print(f"Note: {warning}", flush=True)
    return tokenizer


def from_pretrained(loader, path: str, asked: str, revision: str | None, options: dict):
    """`loader.from_pretrained` without code from the repository, its errors in one readable line."""
    with readable(asked):
        return loader.from_pretrained(path, revision=revision, trust_remote_code=False, **options)


@contextlib.contextmanager
def readable(asked: str) -> Iterator[None]:
    """Turn what the hub and the file system can answer into one readable line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"Could not load model.path={asked}: {reason}\n"
            "Wanted a hub repository that this machine may read (log in with `hf auth login` if it is gated) or a "
            "folder with config.json, *.safetensors and a tokenizer: model.path=FOLDER."
        ) from error
