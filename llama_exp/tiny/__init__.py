"""The base model in this package: a Llama of 3.8 M parameters with its tokenizer, made by pretrain.py (README.md)."""

from pathlib import Path

from llama_exp.config.checksums import sha256
from llama_exp.errors import UserError

PATH = Path(__file__).resolve().parent


def verify(folder: Path = PATH) -> None:
    """Check every file that is loaded against SHA256SUMS; raise a UserError that lists missing and damaged ones."""
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").split("\n")
    except OSError:
        raise UserError(f"{folder / 'SHA256SUMS'} is missing. {ADVICE}") from None
    wrong = [fault for line in lines if line for fault in check(folder, *line.split(maxsplit=1))]
    if wrong:
        raise UserError(f"The embedded model in {folder} is not whole: {'; '.join(wrong)}. {ADVICE}")


def check(folder: Path, wanted: str, name: str) -> list[str]:
    """What is wrong with one file, or nothing."""
    try:
        found = sha256(folder / name)
    except OSError:
        return [f"{name} is missing"]
    return [] if found == wanted else [f"{name} is damaged (SHA-256 {found[:12]}…, wanted {wanted[:12]}…)"]


ADVICE = "Restore it with `git checkout -- llama_exp/tiny`, or reinstall the package."
