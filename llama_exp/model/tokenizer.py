"""The base's tokenizer, checked for what the chat format needs."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from llama_exp.config.schema import ModelConfig
from llama_exp.errors import UserError
from llama_exp.formatting import join_list
from llama_exp.runs.files import read_json


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
def _load_tokenizer(path: str, model_path: str, revision: str | None):
    tokenizer = read_tokenizer(path, model_path, revision)
    if tokenizer.eos_token_id is None:
        raise UserError(f"The tokenizer of {path} has no EOS token: a reply would not end.")
    _check_embeddings(tokenizer, path, model_path, revision)
    tokenizer.model_max_length = int(1e9)  # lengths are ours to keep; the library would only warn
    return tokenizer


def read_tokenizer(path: str, model_path: str, revision: str | None):
    """The tokenizer as its files are, merges in SentencePiece's order where there is only a tokenizer.model."""
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, path, model_path, revision, {})
    if pieces := pieces_alone(path, revision):
        rank_merges(tokenizer, pieces)
    return tokenizer


def pieces_alone(path: str, revision: str | None) -> Path | None:
    """The tokenizer.model of a model that has no tokenizer.json, so that its merges are made here."""
    pieces = find_file(path, "tokenizer.model", revision)
    return pieces if pieces and find_file(path, "tokenizer.json", revision) is None else None


def rank_merges(tokenizer, file: Path) -> None:
    """Rebuild the merges of a tokenizer that was converted from `file`, in the order of SentencePiece's piece scores.

    transformers orders them by ids, by which about one text in sixteen gets other ids than SentencePiece gives.
    """
    import sentencepiece
    from tokenizers.models import BPE

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except RuntimeError:  # another kind of file under that name, as Llama 3's, which transformers reads as it is
        return
    if not isinstance(tokenizer.backend_tokenizer.model, BPE):
        return
    size = processor.get_piece_size()
    ids = {processor.id_to_piece(index): index for index in range(size)}
    merges = ranked_merges(processor, ids)
    tokenizer.backend_tokenizer.model = BPE(
        ids, merges, unk_token=processor.id_to_piece(processor.unk_id()), fuse_unk=True, byte_fallback=True
    )
    # Stripped, as messages are: before a text that begins with a blank, tokenizers puts no second one.
    texts = [processor.decode(list(range(start, min(start + 16, size)))).strip() for start in range(0, size, 16)]
    ours = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if differ := sum(mine != processor.encode(text) for mine, text in zip(ours, texts, strict=True)):
        print(
            f"Note: {file} is read by merges that give {differ} of {len(texts)} texts other ids than SentencePiece. "
            "Use a folder with tokenizer.json where there is one.",
            flush=True,
        )


def ranked_merges(processor, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third one, best score first: SentencePiece joins the best there is."""

    def is_text(index: int) -> bool:
        marks = (processor.is_control, processor.is_unknown, processor.is_byte, processor.is_unused)
        return not any(is_mark(index) for is_mark in marks)

    pieces = {piece: index for piece, index in ids.items() if is_text(index)}
    merges = [
        (-processor.get_score(index), pieces[piece[:cut]], pieces[piece[cut:]], piece[:cut], piece[cut:])
        for piece, index in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    return [(left, right) for *_, left, right in sorted(merges)]


def _check_embeddings(tokenizer, path: str, model_path: str, revision: str | None) -> None:
    """Raise UserError for tokens that the tokenizer knows and the embeddings do not."""
    file = find_file(path, "config.json", revision)
    try:
        size = read_json(file).get("vocab_size") if file else None
    except (OSError, ValueError):
        return  # whoever loads the base will say that it is damaged
    unknown = {name: number for name, number in tokenizer.get_vocab().items() if size and number >= size}
    if unknown:
        names = [f"{name!r} ({number})" for name, number in sorted(unknown.items(), key=lambda item: item[1])]
        raise UserError(
            f"The tokenizer of model.path={model_path} knows {join_list(names)}, and config.json has embeddings for "
            f"{size} tokens (vocab_size). Take the tokens out of the tokenizer's files, or resize the embeddings."
        )


def find_file(path: str, name: str, revision: str | None, needed: bool = False) -> Path | None:
    """A file of a folder, or of a repository on the hub (fetched into the cache); None where there is none.

    needed: raise what the hub answers, instead of None.
    """
    if Path(path).is_dir():
        return found if (found := Path(path, name)).is_file() else None
    from transformers.utils import cached_file

    kinds = ("missing_entries", "connection_errors", "gated_repo")
    cached = cached_file(path, name, revision=revision, **{f"_raise_exceptions_for_{kind}": needed for kind in kinds})
    return Path(cached) if cached else None


def from_pretrained(loader, path: str, model_path: str, revision: str | None, options: dict):
    """`loader.from_pretrained` without code from the repository, its errors in one readable line."""
    with readable(model_path):
        return loader.from_pretrained(path, revision=revision, trust_remote_code=False, **options)


@contextlib.contextmanager
def readable(model_path: str) -> Iterator[None]:
    """Turn what the hub and the file system can answer into one readable line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"Could not load model.path={model_path}: {reason}\n"
            "Wanted a hub repository that this machine may read (log in with `hf auth login` if it is gated) or a "
            "folder with config.json, *.safetensors and a tokenizer: model.path=FOLDER."
        ) from error
