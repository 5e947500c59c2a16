"""The files of a run's adapter, and whether they are those that training saved. No torch here."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from llama_exp.config.checksums import sha256
from llama_exp.runs.files import read_json
from llama_exp.runs.summary import find_summary
from llama_exp.sanitize import clean, reason

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter_checksums(folder: Path) -> dict[str, str]:
    """{file name: SHA-256} of an adapter's two files."""
    return {name: sha256(folder / name) for name in ADAPTER_FILES}


def incomplete_adapter(folder: Path) -> str:
    """Which file of an adapter is missing or cut short, by their heads alone; "" where both are whole."""
    if missing := [name for name in ADAPTER_FILES if not (folder / name).is_file()]:
        return f"No adapter at {folder.absolute()}: {' and '.join(missing)} missing."
    try:
        read_json(folder / ADAPTER_FILES[0])
        with safe_open(folder / ADAPTER_FILES[1], framework="np") as file:  # the head says how long the data is
            whole = bool(file.keys())
    except (OSError, ValueError, SafetensorError) as error:
        name = ADAPTER_FILES[isinstance(error, SafetensorError)]
        return f"{folder / name} is damaged or cut short ({clean(reason(error), 100)})."
    return "" if whole else f"{folder / ADAPTER_FILES[1]} holds no weights."


def damaged_adapter(folder: Path) -> str:
    """The same, with every byte compared with the checksums in summary.json beside the folder.

    An adapter from elsewhere, or of an earlier version, has no checksums: only its files must be whole.
    """
    if problem := incomplete_adapter(folder):
        return problem
    summary = find_summary(folder.parent)
    stored, found = summary.adapter if summary else {}, adapter_checksums(folder)
    changed = [name for name in stored if stored[name] != found.get(name)]
    return f"{folder / changed[0]} is not the file that training saved: its SHA-256 is another." if changed else ""
