"""Raw rows from a local folder or file, or from the Hugging Face hub: {upstream split: [row, …]}."""

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from llama_exp.config.schema import DatasetConfig, Source
from llama_exp.data.readers import (
    COMPRESSED,
    KINDS,
    ZIP,
    BadFile,
    Row,
    columns_of,
    kind_of,
    read_rows,
    with_label_names,
)
from llama_exp.errors import UserError

CONVERTED = "refs/convert/parquet"
Rows = dict[str, list[dict]]
# A file belongs to the split that its name has as a word: train-00000-of-00002.parquet, dev-v1.1.json, my.test.csv
WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
NO_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}  # what lies beside data
SUFFIXES = ", ".join(dict.fromkeys([".parquet", ".json", *KINDS]))


def from_path(path: str, subset: str | None, columns: tuple[str, ...], repairs: Counter[str] | None = None) -> Rows:
    """Rows of a file, of a folder of files named by their split, or of what `save_to_disk` wrote.

    columns   those that every file must have; () = any
    repairs   counts what was put right while reading
    """
    location = find_path(path)
    counted = Counter() if repairs is None else repairs
    if (location / "dataset_dict.json").exists() or (location / "state.json").exists():
        with readable_errors(f"dataset.path={path}", "Wanted what datasets' save_to_disk wrote."):
            import datasets

            found = datasets.load_from_disk(str(location))
        tables = found if isinstance(found, dict) else {"train": found}
        return as_rows(tables, columns, f"dataset.path={path}", counted)
    rows: Rows = {}
    for split, files in files_by_split(location, subset, path).items():
        for file in files:
            name = file.relative_to(location).as_posix() if file != location else file.name
            rows.setdefault(split, []).extend(_rows_of(file, name, columns, path, counted))
    return rows


def _rows_of(file: Path, name: str, columns: tuple[str, ...], path: str, repairs: Counter[str]) -> list[Row]:
    try:
        rows = read_rows(file, name, repairs)
    except (BadFile, OSError) as error:
        raise UserError(f"Could not load dataset.path={path}: {name}: {error}.") from error
    check_columns(columns_of(rows), columns, f"dataset.path={path} ({name})")
    return rows


def files_by_split(location: Path, subset: str | None, path: str) -> dict[str, list[Path]]:
    """{split: its files}, by what a cloned repository's README declares, else by name; one file is train."""
    if location.is_file():
        return {"train": [location]}
    if found := _declared_files(location, subset, path):
        return found
    if subset and (location / subset).is_dir():
        location /= subset
    files = [file for file in sorted(location.rglob("*")) if _is_data(file.relative_to(location)) and file.is_file()]
    named = [(file, split) for file in files if (split := split_of(file.relative_to(location)))]
    by_split: dict[str, list[Path]] = {}
    for file, split in named or [(file, "train") for file in files]:
        by_split.setdefault(split, []).append(file)
    if not files:
        raise UserError(
            f"Could not load dataset.path={path}: no data file in this folder.\n"
            f"Wanted files ending in {SUFFIXES}, named by their split (train.csv, test.csv …)."
        )
    for split, several in by_split.items():
        if len({kind_of(file) for file in several}) > 1:
            both = ", ".join(file.relative_to(location).as_posix() for file in several[:4])
            raise UserError(
                f"dataset.path={path}: files of several formats for {split} ({both}), which may be the same rows "
                "twice. Name one of them: "
                f"dataset.path={path.rstrip('/')}/{several[0].relative_to(location).as_posix()}"
            )
    return by_split


def _is_data(file: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.parts)
    return not hidden and file.name not in NO_DATA and kind_of(file) is not None


def split_of(file: Path) -> str | None:
    """The split that a file's name has as a word, else the folder that it lies in."""
    for part in reversed(file.parts):
        for word in re.split(r"[-._ 0-9]+", part.lower()):
            if word in WORDS:
                return WORDS[word]
    return None


def _declared_files(location: Path, subset: str | None, path: str) -> dict[str, list[Path]]:
    """{split: files} as the YAML head of a cloned hub repository's README declares them; {} where it does not."""
    configs = [one for one in _readme_configs(location / "README.md") if one.get("data_files")]
    by_name = {one.get("config_name", "default"): one for one in configs}
    if not configs:
        return {}
    chosen = by_name.get(subset) or by_name.get("default") or (configs[0] if len(configs) == 1 else None)
    if chosen is None:
        raise UserError(
            f"dataset.path={path} holds several subsets: {', '.join(by_name)}. Type "
            f"dataset.subset={next(iter(by_name))}."
        )
    declared = chosen["data_files"]
    if isinstance(declared, str) or not all(isinstance(one, dict) for one in declared):
        declared = [{"split": "train", "path": declared}]
    found: dict[str, list[Path]] = {}
    for one in declared:
        patterns = [one["path"]] if isinstance(one["path"], str) else one["path"]
        files = [file for pattern in patterns for file in sorted(location.glob(pattern)) if file.is_file()]
        found.setdefault(str(one.get("split", "train")), []).extend(files)
    return {split: files for split, files in found.items() if files}


def _readme_configs(readme: Path) -> list[dict[str, Any]]:
    if not readme.is_file():
        return []
    head = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    with contextlib.suppress(yaml.YAMLError, AttributeError, TypeError):
        found = yaml.safe_load(head[1]).get("configs") if head else None
        return [one for one in found or [] if isinstance(one, dict)]
    return []


def find_path(path: str) -> Path:
    """The folder or file meant by `dataset.path`, or a UserError that says what is not there."""
    location = Path(path).expanduser().resolve()
    if not location.exists():
        raise UserError(f"dataset.path={path}: there is no such folder or file (looked at {location}).")
    if location.is_file() and kind_of(location) is None:
        packed = f" (also compressed: {', '.join([*COMPRESSED, ZIP])})"
        raise UserError(f"dataset.path={path}: wanted a folder, or a file ending in {SUFFIXES}{packed}.")
    return location


def check(dataset: DatasetConfig) -> None:
    """A UserError where `dataset.path` is not there, before anything heavy is imported."""
    if dataset.path:
        find_path(dataset.path)
    elif (
        dataset.source is Source.hub and not dataset.hub and (dataset._target_ or "llama_exp.").startswith("llama_exp.")
    ):
        raise UserError(
            f"dataset={dataset.name} has no data yet. Give a file or folder (dataset.path=FILE) or a repository on the "
            "hub (dataset.hub=OWNER/NAME)."
        )


def from_hub(
    hub: str, subset: str | None, revision: str | None, columns: tuple[str, ...], repairs: Counter[str] | None = None
) -> Rows:
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
        if any(getattr(table.info, "builder_name", None) == "csv" for table in found.values()):  # 0012 stays 0012
            found = datasets.load_dataset(hub, revision=revision, **part, dtype=str, keep_default_na=False)
    return as_rows(found, columns, hub, Counter() if repairs is None else repairs)


def synthetic(dataset: DatasetConfig) -> Rows:
    """Synthetic rows in the dataset's raw schema. `split_seed` makes them, so no sweep moves them."""
    from llama_exp.data.synthetic import MAKERS, rows

    if dataset.name not in MAKERS:
        raise UserError(
            f"dataset={dataset.name} has no synthetic rows: give your own (dataset.path=FILE), or take "
            f"dataset={', '.join(MAKERS)}."
        )
    few = min(dataset.rows, max(400, dataset.rows // 10))
    counts = {"train": dataset.rows, "validation": few, "test": few}
    return {split: list(rows(dataset.name, split, count, dataset.split_seed)) for split, count in counts.items()}


@contextmanager
def readable_errors(what: str, advice: str):
    """Turn whatever `datasets` raises (gated, offline, broken file: a dozen types) into one readable line."""
    try:
        yield
    except Exception as error:
        # "An error occurred while generating the dataset" says nothing; what it came from does
        first = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        message = next((line.strip() for line in str(first).splitlines() if line.strip()), "")
        raise UserError(f"Could not load {what}: {type(first).__name__}: {message[:300]}\n{advice}") from error


def as_rows(found: Any, columns: tuple[str, ...], where: str, repairs: Counter[str]) -> Rows:
    """What `datasets` loaded, {split: table}, as rows."""
    rows: Rows = {}
    for split, table in found.items():
        check_columns(table.column_names, columns, f"{where} ({split})")
        values = with_label_names(table.to_list(), table.features.to_dict(), repairs)
        rows[split] = [Row(row, f"{where} ({split})", "row", number) for number, row in enumerate(values, 1)]
    return rows


def check_files(rows: Iterable[Any], wanted: tuple[str, ...], where: str) -> None:
    """Raise a UserError for a column that one of several files lacks, naming the file."""
    by_file: dict[str, dict[str, None]] = {}
    for row in rows:
        by_file.setdefault(row.file, {}).update(dict.fromkeys(row))
    for file, there in by_file.items():
        check_columns(there, wanted, f"{where} ({file})")


def check_columns(there: Iterable[str], wanted: tuple[str, ...], where: str) -> None:
    """Raise a UserError that names the missing columns and those there are."""
    if missing := [column for column in wanted if column not in there]:
        raise UserError(
            f"{where}: wanted the columns {', '.join(wanted)}; missing {', '.join(missing)}; there are "
            f"{', '.join(there)}."
        )


def fingerprint(path: str | None) -> tuple:
    """Names, sizes and times of the files below a path: what tells that a source was changed."""
    found = [Path(path).expanduser(), *sorted(Path(path).expanduser().rglob("*"))] if path else []
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in found if file.is_file())
