"""Raw rows from a local folder or file, or from the Hugging Face hub: {upstream split: [row, …]}."""

import contextlib
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

from llama_exp.config.schema import DatasetConfig
from llama_exp.errors import UserError

READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv"}
CONVERTED = "refs/convert/parquet"
Rows = dict[str, list[dict]]


def from_path(path: str, subset: str | None, columns: tuple[str, ...]) -> Rows:
    """Read what `load_dataset` reads (parquet, JSON lines, CSV), or what `save_to_disk` wrote.

    The path is checked first: `load_dataset` would take a mistyped folder for a repository on the hub.
    """
    location = find_path(path)
    import datasets

    wanted = "Wanted parquet, JSON lines or CSV files, named by their split (train.parquet …)."
    with no_progress_bars(), readable_errors(f"dataset.path={path}", wanted, location):
        if location.is_file():
            kind = READERS[location.suffix]
            separator = {"sep": "\t"} if location.suffix == ".tsv" else {}
            found = datasets.load_dataset(kind, data_files={"train": str(location)}, **separator)
        elif (location / "dataset_dict.json").exists() or (location / "state.json").exists():
            found = datasets.load_from_disk(str(location))
        else:
            found = datasets.load_dataset(str(location), name=subset if subset in named_subsets(location) else None)
    if isinstance(found, datasets.Dataset):
        found = {"train": found}
    return as_rows(found, columns, f"dataset.path={path}")


def find_path(path: str) -> Path:
    """The folder or file meant by `dataset.path`, or a UserError that says what is not there."""
    location = Path(path).expanduser().resolve()
    if not location.exists():
        raise UserError(f"dataset.path={path}: there is no such folder or file (looked at {location}).")
    if location.is_file() and location.suffix not in READERS:
        raise UserError(f"dataset.path={path}: wanted a folder, or a file ending in {', '.join(READERS)}.")
    return location


def check(dataset: DatasetConfig) -> None:
    """A UserError where `dataset.path` is not there, before anything heavy is imported."""
    if dataset.path:
        find_path(dataset.path)


def named_subsets(location: Path) -> list[str]:
    """Subsets that a cloned hub repository declares in its README; most local folders have none."""
    import datasets

    return datasets.get_dataset_config_names(str(location)) if (location / "README.md").exists() else []


def from_hub(hub: str, subset: str | None, revision: str | None, columns: tuple[str, ...]) -> Rows:
    """Download (or take from the cache) a dataset of the hub."""
    import datasets

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    where = (
        "the hub's cache (HF_HUB_OFFLINE is set)" if offline else "the hub (tries for half a minute without network)"
    )
    print(f"Loading {hub} from {where} …", file=sys.stderr, flush=True)
    offline = " HF_HUB_OFFLINE is set, so only its cache was looked at." if offline else ""
    advice = f"Give a local copy: dataset.path=FOLDER, or try without data: dataset.source=synthetic.{offline}"
    # The hub's own conversion to parquet has no list of subsets: there, a subset is a folder.
    part = {"data_dir": subset} if revision == CONVERTED else {"name": subset}
    with readable_errors(f"{hub} from the hub", advice):
        found = datasets.load_dataset(hub, revision=revision, **part)
    return as_rows(found, columns, hub)


def synthetic(dataset: DatasetConfig) -> Rows:
    """Rows made by rule in the dataset's raw schema. `split_seed` makes them, so no sweep moves them."""
    from llama_exp.data.synthetic import rows

    few = min(dataset.rows, max(400, dataset.rows // 10))
    counts = {"train": dataset.rows, "validation": few, "test": few}
    return {split: list(rows(dataset.name, split, count, dataset.split_seed)) for split, count in counts.items()}


@contextmanager
def no_progress_bars():
    """No progress bars: a local folder takes a second."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def readable_errors(what: str, advice: str, location: Path | None = None):
    """Turn whatever the readers raise (gated, offline, broken file: a dozen types) into one readable line. `location`:
    of the files."""
    try:
        yield
    except Exception as error:
        # "An error occurred while generating the dataset" says nothing; what it came from does
        first = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        message = next((line.strip() for line in str(first).splitlines() if line.strip()), "")
        found = (location and find_broken_file(location)) or f"{type(first).__name__}: {message[:300]}"
        raise UserError(f"Could not load {what}: {found}\n{advice}") from error


def find_broken_file(location: Path) -> str | None:
    """Which file keeps the rows from being read, and why, where that can be seen in it: the readers do not say."""
    files = [location] if location.is_file() else sorted(path for path in location.rglob("*") if path.suffix in READERS)
    for file in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if why := _wrong_with(file):
                return f"{file.relative_to(location) if location.is_dir() else file.name}: {why}."
    return None


def _wrong_with(file: Path) -> str | None:
    if not file.stat().st_size:
        return "the file is empty (0 bytes)"
    if READERS[file.suffix] == "parquet":
        return None
    whole = file.read_text(encoding="utf-8-sig")
    lines = [(number, line) for number, line in enumerate(whole.split("\n"), 1) if line.strip()]
    if not lines:
        return "the file has no rows"
    if READERS[file.suffix] == "csv":
        return "the file has a header and no rows" if len(lines) == 1 else None
    if file.suffix == ".json":  # a whole, or a row a line
        with contextlib.suppress(ValueError):
            json.loads(whole)
            return None
        if whole.lstrip().startswith("["):
            lines = [(1, whole)]
    for number, text in lines:
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            return f"line {number + error.lineno - 1} is not JSON ({error.msg})"
        if not isinstance(row, dict | list):
            return f'line {number} is no row: wanted {{"column": …}}, got {text.strip()[:60]}'
    return None


def as_rows(found, columns: tuple[str, ...], where: str) -> Rows:
    """The needed columns as plain dicts, or a UserError naming the columns there are."""
    for split, table in found.items():
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise UserError(
                f"{where} ({split}): wanted the columns {', '.join(columns)}; missing {', '.join(missing)}; "
                f"there are {', '.join(table.column_names)}."
            )
    return {split: table.select_columns(list(columns)).to_list() for split, table in found.items()}


def fingerprint(path: str | None) -> tuple:
    """Names, sizes and times of the files below a path: what tells that a source was changed."""
    found = [Path(path), *sorted(Path(path).rglob("*"))] if path else []
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in found if file.is_file())
