"""The files of a run's adapter, and whether they are those that training saved. No torch here."""

from pathlib import Path

from llama_exp.config.checksums import sha256
from llama_exp.errors import UserError
from llama_exp.runs.summary import find_summary

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter_checksums(folder: Path) -> dict[str, str]:
    """{file name: SHA-256} of an adapter's two files."""
    return {name: sha256(folder / name) for name in ADAPTER_FILES}


def check_adapter(folder: Path) -> None:
    """Raise UserError where a file of an adapter is missing or is not the one that summary.json beside it names.

    An adapter from elsewhere, or of an earlier version, has no checksums: only its files must be there.
    """
    if missing := [name for name in ADAPTER_FILES if not (folder / name).is_file()]:
        raise UserError(f"No adapter at {folder}: {' and '.join(missing)} missing.")
    summary = find_summary(folder.parent)
    stored, found = summary.adapter if summary else {}, adapter_checksums(folder)
    if changed := [name for name in stored if stored[name] != found.get(name)]:
        raise UserError(
            f"{folder / changed[0]} is not the file that training saved: its SHA-256 is another. "
            f"Copy {folder} again from where it was trained; or move {folder.parent} elsewhere and train again."
        )
