"""One file -> rows, with text as it was written: `0012`, `12.0`, `true`, `NA` and dates stay what they are.

CSV, TSV, JSON, JSON lines, parquet and Arrow, also compressed. Nothing is guessed from the values of a column, so a
value does not change with the rows around it, and all formats give the same rows. An empty cell of CSV is "", a null is
None; both are no text.
"""

import codecs
import csv
import io
import json
import lzma
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llama_exp.sanitize import clean

NEIGHBOURS = 8  # paragraphs of a text that are one group
KINDS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".arrow": "arrow",
    ".feather": "arrow",
}
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".xz": "xz"}
ZIP = ".zip"  # of one text file, whose name says what it is
ZIP_ERRORS = (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
# A file that unpacks to more than both is refused while it unpacks: a few kilobytes must not fill the memory.
MAX_UNPACKED, MAX_RATIO = 64 * 2**20, 100
BATCH = 256  # rows of parquet that are unpacked at a time, at most


class BadFile(ValueError):
    """What is wrong with a file, without its name and without a full stop."""


class Row(dict):
    """A row by column. `where` names its file, and its line or number there: "train.csv, line 7"."""

    __slots__ = ("_place",)

    def __init__(self, values: Any, name: str, unit: str, number: int):
        super().__init__(values)
        self._place = (name, unit, number)

    def of(self, values: dict) -> "Row":
        """A row made of a part of this one, from the same place."""
        return Row(values, *self._place)

    @property
    def file(self) -> str:
        return self._place[0]

    @property
    def where(self) -> str:
        name, unit, number = self._place
        return f"{name}, {unit} {number:,}"


class Number(float):
    """A number of JSON that prints as it was written: `1.10` is not `1.1`."""

    written: str

    def __new__(cls, written: str) -> "Number":
        number = super().__new__(cls, written)
        number.written = written
        return number

    def __str__(self) -> str:
        return self.written


def kind_of(file: Path) -> str | None:
    """ "csv" for `a.csv` and `a.CSV.gz`, "zip" for an archive; None for what is not read here."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes and suffixes[-1] == ZIP:
        return "zip"
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def read_rows(file: Path, name: str, repairs: Counter[str]) -> list[Row]:
    """The rows of a file. `name` is the file's in messages; `repairs` counts what was put right.

    Raises BadFile for what cannot be read without guessing: a row of another length, an undecodable byte …
    """
    if not file.stat().st_size:
        raise BadFile("the file is empty (0 bytes)")
    kind = kind_of(file)
    if kind == "parquet" or kind == "arrow":
        rows = list(_numbered(_arrow_values(file, kind, repairs), name))
    else:
        kind, data = _zipped(file) if kind == "zip" else (kind, _unpacked(file))
        text, intact = _decoded(data)
        rows = list(TEXT_READERS[kind](text, name, repairs))
        if not intact:
            raise BadFile(_undecodable(rows))
    if not rows:
        raise BadFile("the file has a header and no rows" if kind in ("csv", "tsv") else "the file has no rows")
    return rows


def columns_of(rows: Iterable[dict]) -> list[str]:
    """Every column that some row has, in the order of their coming."""
    return list(dict.fromkeys(column for row in rows for column in row))


# -- bytes and text ----------------------------------------------------------------------------------------------------


def _unpacked(file: Path) -> bytes:
    compression = COMPRESSED.get(file.suffix.lower())
    if compression is None:
        return file.read_bytes()
    import pyarrow

    try:
        with (
            lzma.open(file) if compression == "xz" else pyarrow.input_stream(str(file), compression=compression)
        ) as stream:
            return _read_bounded(stream, _limit(file))
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadFile(f"cannot be unpacked as {compression} ({str(error).rstrip('.')})") from None


def _zipped(file: Path) -> tuple[str, bytes]:
    """(kind, content) of the one text file in an archive. Nothing is written, and its name is no path."""
    try:
        with zipfile.ZipFile(file) as archive:
            files = [one for one in archive.infolist() if not one.is_dir()]
            members = [
                one for one in files if not PurePosixPath(one.filename).name.startswith(".")
            ]  # of macOS: ._a.csv
            kinds = [KINDS.get(PurePosixPath(one.filename).suffix.lower()) for one in members]
            if len(members) != 1 or kinds[0] not in TEXT_READERS:
                names = ", ".join(clean(one.filename, 60) for one in members[:8]) + ", …" * (len(members) > 8)
                raise BadFile(
                    f"wanted one file of CSV, TSV, JSON or JSON lines in the archive, got {len(members)} ({names}). "
                    "Unpack it and give the folder: unzip FILE -d FOLDER"
                )
            if members[0].flag_bits & 1:
                raise BadFile("the archive is encrypted. Unpack it and give the unpacked file: unzip FILE -d FOLDER")
            with archive.open(members[0]) as stream:
                return str(kinds[0]), _read_bounded(stream, _limit(file))
    except BadFile:
        raise
    except ZIP_ERRORS as error:
        raise BadFile(f"cannot be unpacked as zip ({str(error).rstrip('.')})") from None


def _read_bounded(stream: Any, limit: int) -> bytes:
    """All of a stream. Raises BadFile where it holds more than `limit` bytes, before they are in memory."""
    parts, size = [], 0
    while part := stream.read(2**20):
        size += len(part)
        _check_size(size, limit)
        parts.append(part)
    return b"".join(parts)


def _limit(file: Path) -> int:
    return max(MAX_UNPACKED, MAX_RATIO * file.stat().st_size)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BadFile(
            f"stopped while unpacking: it holds more than {limit / 2**20:,.0f} MiB, {MAX_RATIO} times its size and "
            "more than a data file would. Unpack it yourself and give the unpacked file, if it is meant to be read"
        )


def _decoded(data: bytes) -> tuple[str, bool]:
    """(text, True); where a byte is not UTF-8 (text with a mark in its place, False)."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadFile("the file is UTF-16, wanted UTF-8. Type: iconv -f UTF-16 -t UTF-8 FILE > NEW_FILE")
    try:
        return data.decode("utf-8-sig"), True
    except UnicodeDecodeError:
        return data.decode("utf-8-sig", "surrogateescape"), False


def _undecodable(rows: Iterable[Row]) -> str:
    """Where the first byte is that is not UTF-8: decoding has left a lone surrogate there."""
    for row in rows:
        for column, value in row.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            found = next((index for index, character in enumerate(shown) if "\udc80" <= character <= "\udcff"), None)
            if found is not None:
                byte, around = ord(shown[found]) - 0xDC00, shown[max(0, found - 12) : found + 12]
                around = around.encode("utf-8", "replace").decode()
                return (
                    f"{row.where.split(', ')[-1]}, column {column!r}: byte 0x{byte:02x} is not UTF-8 (“{around}”). "
                    "If the file is from Windows, type: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"
                )
    return "the header or a name in the file is not UTF-8. Type: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv_rows(text: str, name: str, repairs: Counter[str]) -> Iterator[Row]:
    first = text.split("\n", 1)[0]
    delimiter = ","
    if "," not in first and (other := max(";\t|", key=first.count)) in first:  # as spreadsheets save it in Europe
        delimiter = other
        repairs[f"read with {other!r} between fields: {name}"] += 1
    return _delimited(text, name, delimiter, repairs)


def _tsv_rows(text: str, name: str, repairs: Counter[str]) -> Iterator[Row]:
    return _delimited(text, name, "\t", repairs)


def _delimited(text: str, name: str, delimiter: str, repairs: Counter[str]) -> Iterator[Row]:
    lines = _lines_of_fields(text, delimiter)
    header = [column.strip() for column in next(lines, (1, []))[1]]
    twice = [column for column, count in Counter(header).items() if column and count > 1]
    if twice:
        raise BadFile(f"line 1 names the column {twice[0]!r} twice")
    for number, fields in lines:
        if len(fields) != len(header):
            fields = _repaired(fields, header, number, repairs)
        yield Row(
            ((column, field) for column, field in zip(header, fields, strict=True) if column), name, "line", number
        )


def _lines_of_fields(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, fields) of each row; empty lines are none."""
    csv.field_size_limit(sys.maxsize)
    # newline="": only the three line ends are line ends, and those inside quotation marks stay as they are
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 1
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadFile(f"line {number}: {_in_words(error)}") from None
        if fields:
            yield number, fields


def _in_words(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "a quotation mark opens here that is never closed"
    if "expected after" in str(error):
        return 'text follows a closing quotation mark; a quotation mark inside a quoted text is written twice ("")'
    return str(error)


def _repaired(fields: list[str], header: list[str], number: int, repairs: Counter[str]) -> list[str]:
    """Surplus fields that are empty come from a spreadsheet; any others would put texts into wrong columns."""
    if len(fields) > len(header) and not any(fields[len(header) :]):
        repairs["empty fields beyond the last column left out (rows)"] += 1
        return fields[: len(header)]
    raise BadFile(
        f"line {number:,} has {len(fields)} fields, the header names {len(header)} ({', '.join(header)}). A text with "
        'a separator or a line break in it stands in quotation marks: "a, b"'
    )


# -- JSON --------------------------------------------------------------------------------------------------------------


def _jsonl_rows(text: str, name: str, repairs: Counter[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = _parsed(line, number)
            if not isinstance(row, dict):
                raise BadFile(f'line {number} is no row: wanted {{"column": …}}, got {line.strip()[:60]}')
            yield Row(row, name, "line", number)


def _paragraphs(text: str, name: str, repairs: Counter[str]) -> Iterator[Row]:
    """What stands between empty lines, with the number of the paragraph."""
    line = 1
    for number, part in enumerate(re.split(r"(\n\s*\n)", text)):
        if number % 2 == 0 and part.strip():
            yield Row({"text": part.strip(), "paragraph": number // 2}, name, "line", line)
        line += part.count("\n")


def _json_rows(text: str, name: str, repairs: Counter[str]) -> Iterator[Row]:
    """One array of rows, one object that holds such an array as "data", one object of columns; else JSON lines."""
    try:
        whole = _parsed(text, 1)
    except BadFile:
        if not text.strip() or text.lstrip().startswith("["):
            raise
        return _jsonl_rows(text, name, repairs)
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    elif isinstance(whole, dict) and (columns := list(whole.values())) and all(isinstance(c, list) for c in columns):
        if len({len(column) for column in columns}) > 1:
            raise BadFile("the file is one object of columns, and they are not of one length")
        whole = [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)]
    rows = whole if isinstance(whole, list) else [whole]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise BadFile(f'row {number} is no row: wanted {{"column": …}}, got {json.dumps(row, default=str)[:60]}')
    return _numbered(rows, name)


def _parsed(text: str, line: int) -> Any:
    try:
        value = json.loads(text, parse_float=Number)
        return _without_surrogates(value) if "\\ud" in text.lower() else value
    except json.JSONDecodeError as error:
        if not text.strip():
            raise BadFile("the file has no rows") from None
        raise BadFile(f"line {line + error.lineno - 1} is not JSON ({error.msg})") from None
    except RecursionError:
        raise BadFile(f"line {line} is nested too deeply") from None


def _without_surrogates(value: Any) -> Any:
    r"""Half an emoji ("\ud83d" alone) is no text: UTF-8 has no place for it, and no tokenizer takes it."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    return [_without_surrogates(inner) for inner in value] if isinstance(value, list) else value


TEXT_READERS: dict[str | None, Callable[[str, str, Counter[str]], Iterator[Row]]] = {
    "csv": _csv_rows,
    "tsv": _tsv_rows,
    "json": _json_rows,
    "jsonl": _jsonl_rows,
    "text": _paragraphs,
}

# -- parquet and Arrow -------------------------------------------------------------------------------------------------


def _arrow_values(file: Path, kind: str, repairs: Counter[str]) -> Iterator[dict]:
    import pyarrow

    limit, size = _limit(file), 0
    try:
        for batch in _parquet_batches(file, limit) if kind == "parquet" else _arrow_batches(file):
            size += batch.nbytes + sum(map(_repeated_size, batch.columns))
            _check_size(size, limit)
            yield from with_label_names(batch.to_pylist(), _features(batch.schema), repairs)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadFile(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '').rstrip('.')}") from None


def _repeated_size(column: Any) -> int:
    """Bytes of the texts of a column that stores each different text once and points at it."""
    import pyarrow
    from pyarrow import compute

    if not pyarrow.types.is_dictionary(column.type) or column.type.value_type not in (
        pyarrow.string(),
        pyarrow.large_string(),
    ):
        return 0
    return compute.sum(compute.binary_length(column.dictionary).take(column.indices)).as_py() or 0


def _parquet_batches(file: Path, limit: int) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        sizes = [opened.metadata.row_group(index).total_byte_size for index in range(opened.metadata.num_row_groups)]
        _check_size(sum(sizes), limit)
        # A value that a group stores once may be that of all its rows: so many rows hold no more than the limit.
        yield from opened.iter_batches(batch_size=min(BATCH, max(1, limit // max([1, *sizes]))))


def _arrow_batches(file: Path) -> Iterator[Any]:
    """Of Arrow's file format, or of its stream, which `datasets` writes."""
    import pyarrow

    with pyarrow.OSFile(str(file)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            opened = pyarrow.ipc.open_file(source)
            yield from (opened.get_batch(index) for index in range(opened.num_record_batches))
        else:
            yield from pyarrow.ipc.open_stream(source)


def _features(schema: Any) -> dict[str, Any]:
    """{column: its type}, as `datasets` writes it beside a table; {} where something else wrote the file."""
    try:
        return json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}


def with_label_names(rows: list[dict], features: dict[str, Any], repairs: Counter[str]) -> list[dict]:
    """Rows with class labels by their names: `datasets` stores them as numbers, which say nothing to a model."""
    labels = {column: kind for column, kind in features.items() if '"ClassLabel"' in json.dumps(kind)}
    for column, kind in labels.items():
        repairs[f"class labels of the column {column} read by their names"] = 1
        for row in rows:
            row[column] = _label_names(row.get(column), kind)
    return rows


def _label_names(value: Any, kind: Any) -> Any:
    """`kind` is {"_type": "ClassLabel", "names": […]}, or a list or object with such in it. -1 is no label."""
    if isinstance(value, list):
        inner = kind[0] if isinstance(kind, list) else kind.get("feature", kind)
        return [_label_names(one, inner) for one in value]
    if isinstance(value, dict):
        kinds = kind.get("feature", kind)  # an older Sequence of objects, which is stored as an object of lists
        return {key: _label_names(inner, kinds.get(key, {})) for key, inner in value.items()}
    if isinstance(value, int) and kind.get("_type") == "ClassLabel":
        return dict(enumerate(kind["names"])).get(value)
    return value


def _numbered(values: Iterable[dict], name: str) -> Iterator[Row]:
    return (Row(row, name, "row", number) for number, row in enumerate(values, 1))
