"""What is read is what was written, in every format; and what cannot be read is named with file, row and column."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import tracemalloc
import zipfile

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_exp.data import DATASETS
from llama_exp.data.sources import from_path, split_of
from llama_exp.errors import UserError

from .test_your_data import everything, write_csv, write_jsonl

ODD = [
    "0012",
    "12.0",
    "true",
    "NA",
    "None",
    "null",
    "2024-01-02",
    "1e5",
    "",
    "  x ",
    "a\nb",
    'say "hi"',
    "a,b",
    "ü字\u2028",
]


def write_parquet(path, rows):
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_arrow(path, rows):
    found = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(path, found.schema) as file:
        file.write_table(found)
    return path


def read(path):
    return {split: [dict(row) for row in rows] for split, rows in from_path(str(path), None, ()).items()}


def only(path):
    return read(path)["train"]


def packed(plain, path):
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def csv_bytes(path, rows):
    return write_csv(path.with_name("plain.csv"), rows).read_bytes()


WRITERS = {
    "csv": write_csv,
    "tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "jsonl": write_jsonl,
    "json": lambda path, rows: (path.write_text(json.dumps(rows)), path)[1],
    "parquet": write_parquet,
    "arrow": write_arrow,
    "csv.gz": lambda path, rows: packed(write_csv(path.with_name("plain.csv"), rows), path),
    "csv.bz2": lambda path, rows: (path.write_bytes(bz2.compress(csv_bytes(path, rows))), path)[1],
    "csv.xz": lambda path, rows: (path.write_bytes(lzma.compress(csv_bytes(path, rows))), path)[1],
    "csv.zst": lambda path, rows: (
        path.write_bytes(pyarrow.compress(csv_bytes(path, rows), codec="zstd", asbytes=True)), path)[1],
    "zip": lambda path, rows: zipped(
        path, **{"__MACOSX/._a.csv": b"\0", "folder/": b"", "../../a.csv": csv_bytes(path, rows)}),
}  # fmt: skip


@pytest.mark.parametrize("suffix", WRITERS)
def test_text_stays_text_in_every_format(suffix, tmp_path):
    rows = [{"number": str(n), "value": value} for n, value in enumerate(ODD)]
    assert only(WRITERS[suffix](tmp_path / f"rows.{suffix}", rows)) == rows


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.none() | TEXT, st.none() | TEXT), min_size=1, max_size=6))
def test_any_text_is_read_back_equal_from_csv_jsonl_and_parquet(rows, tmp_path):
    rows = [{"id": str(number), "one": one, "other": other} for number, (one, other) in enumerate(rows)]
    for suffix in ("csv", "jsonl", "parquet"):
        found = only(WRITERS[suffix](tmp_path / f"rows.{suffix}", rows))
        empty_for_null = [{column: value or "" for column, value in row.items()} for row in found]
        assert empty_for_null == [{column: value or "" for column, value in row.items()} for row in rows], suffix


def test_numbers_and_booleans_of_json_are_learnt_as_json_writes_them(tmp_path):
    values = '1.10 19 true null 1e5 "x"'.split()
    lines = [f'{{"prompt": "p{n}", "response": {value}}}' for n, value in enumerate(values * 8)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    data = DATASETS["table"](path=str(tmp_path / "r.jsonl"), validation=0.2, test=0.2)
    data.setup()
    assert {e.response for e in everything(data)} == {"1.10", "19", "true", "1e5", "x"}
    assert data.counts["dropped"]["train"] == {"no response": 8}


def test_folders_and_files_with_brackets_in_their_names_open(tmp_path):
    folder = tmp_path / "run [v2]"
    folder.mkdir()
    rows = [{"a": "1"}]
    assert only(write_jsonl(folder / "a[1].jsonl", rows)) == only(folder) == rows


def test_the_split_is_a_word_of_the_name_and_a_readme_may_declare_files(tmp_path):
    from pathlib import Path

    names = ["train-00000-of-00002.parquet", "dev-v1.1.json", "my.test.csv", "data/val/part1.csv", "latest.csv"]
    assert [split_of(Path(name)) for name in names] == ["train", "validation", "test", "validation", None]
    write_jsonl(tmp_path / "one.jsonl", [{"a": "1"}])
    write_jsonl(tmp_path / "two.jsonl", [{"a": "2"}])
    head = (
        "configs:\n- config_name: x\n  data_files:\n"
        "  - {split: train, path: one.jsonl}\n  - {split: test, path: two*}\n"
    )
    (tmp_path / "README.md").write_text(f"---\n{head}---\nText")
    assert read(tmp_path) == {"train": [{"a": "1"}], "test": [{"a": "2"}]}


def test_two_formats_of_one_split_are_refused(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"a": "1"}])
    write_csv(tmp_path / "train.csv", [{"a": "1"}])
    with pytest.raises(UserError, match="several formats for train .*train.csv, train.jsonl.*same rows twice"):
        read(tmp_path)


def zip_of(members, mark=0):
    """An archive in memory; `mark` is set in the flags of the first member (1: encrypted)."""
    packed = io.BytesIO()
    zipped(packed, **members)
    content = bytearray(packed.getvalue())
    for at in (6, content.index(b"PK\1\2") + 8):
        content[at] |= mark
    return bytes(content)


GOOD = "prompt,response\n" + "".join(f"p{n},r{n}\n" for n in range(30))
LINES = "".join(json.dumps({"prompt": f"p{n}", "response": f"r{n}"}) + "\n" for n in range(30))
GOOD_PACKED = zip_of({"r.csv": GOOD})[36:80]  # of the deflated bytes, behind the header and the name
REFUSED = {
    "too many fields": (
        "r.csv",
        GOOD + "a, b, c\n",
        "r.csv: line 32 has 3 fields, the header names 2 (prompt, response)",
    ),
    "too few fields": ("r.csv", GOOD + "a\n", "r.csv: line 32 has 1 fields, the header names 2"),
    "an open quotation mark": (
        "r.csv",
        GOOD + '"a,b\nc,d\n',
        "r.csv: line 32: a quotation mark opens here that is never",
    ),
    "a quotation mark inside": (
        "r.csv",
        GOOD + '"a "b" c",d\n',
        "r.csv: line 32: text follows a closing quotation mark",
    ),
    "a byte of Windows": (
        "r.csv",
        GOOD.encode() + b"a,caf\xe9\n",
        "line 32, column 'response': byte 0xe9 is not UTF-8",
    ),
    "a byte of Windows in JSON": (
        "r.jsonl",
        LINES.encode() + b'{"prompt": "\xfc", "response": "r"}\n',
        "line 31, column 'prompt': byte 0xfc",
    ),
    "UTF-16": ("r.csv", codecs.BOM_UTF16_LE + GOOD.encode("utf-16-le"), "the file is UTF-16, wanted UTF-8"),
    "a column twice": ("r.csv", "prompt,response,prompt\na,b,c\n", "line 1 names the column 'prompt' twice"),
    "a type that changes": (
        "r.jsonl",
        LINES + '{"prompt": {"a": 1}, "response": "r"}\n',
        "line 31, column 'prompt': wanted text, got an object",
    ),
    "a list for a prompt": (
        "r.jsonl",
        LINES + '{"prompt": ["a"], "response": "r"}\n',
        "line 31, column 'prompt': wanted text, got a list",
    ),
    "a row that is none": ("r.jsonl", LINES + '"text"\n', "r.jsonl: line 31 is no row"),
    "a broken xz": ("r.csv.xz", lzma.compress(GOOD.encode())[:-20], "r.csv.xz: cannot be unpacked as xz"),
    "a broken zip": ("r.zip", zip_of({"r.csv": GOOD})[:-30], "r.zip: cannot be unpacked as zip"),
    "a damaged zip": (
        "r.zip",
        zip_of({"r.csv": GOOD}).replace(GOOD_PACKED, GOOD_PACKED[::-1]),
        "r.zip: cannot be unpacked as zip",
    ),
    "an encrypted zip": ("r.zip", zip_of({"r.csv": GOOD}, 1), "r.zip: the archive is encrypted"),
    "several files in a zip": (
        "r.zip",
        zip_of({"train.csv": GOOD, "test.csv": GOOD}),
        "in the archive, got 2 (train.csv, test.csv)",
    ),
    "another format in a zip": ("r.zip", zip_of({"r.csv.gz": GOOD}), "in the archive, got 1 (r.csv.gz)"),
    "a broken archive": ("r.csv.gz", b"no archive", "r.csv.gz: cannot be unpacked as gzip"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_line_with_file_row_and_column(name, command, tmp_path):
    file, content, said = REFUSED[name]
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ["dataset=table", f"dataset.path={tmp_path / file}", "model=tiny", f"outputs={command.outputs}"]
    done = command("train.py", *words, check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not command.outputs.exists()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("r.csv", GOOD.replace("p3,r3", "p3,r3,,"), "empty fields beyond the last column left out (rows)"),
        ("r.csv", GOOD.replace(",", ";"), "read with ';' between fields: r.csv"),
        ("r.csv", "\ufeff" + GOOD, ""),
        ("r.jsonl", LINES + '{"prompt": "half \\ud83d", "response": "r"}\n', ""),
    ],
)
def test_what_is_harmless_is_put_right_and_counted(file, text, said, tmp_path):
    (tmp_path / file).write_text(text, encoding="utf-8")
    data = DATASETS["table"](path=str(tmp_path / file))
    data.setup()
    assert len(everything(data)) >= 30 and said in data.describe()
    assert all(example.prompt.encode() for example in everything(data))


def test_a_shard_of_empty_answers_and_a_missing_key_are_dropped_and_counted(tmp_path):
    write_jsonl(tmp_path / "train-0.jsonl", [{"prompt": f"p{n}", "response": f"r{n}"} for n in range(30)])
    write_jsonl(tmp_path / "train-1.jsonl", [{"prompt": f"q{n}", "response": None} for n in range(5)])
    write_jsonl(tmp_path / "train-2.jsonl", [{"prompt": "a", "response": "b"}, {"prompt": "c"}])
    data = DATASETS["table"](path=str(tmp_path))
    data.setup()
    assert data.counts["dropped"]["train"] == {"no response": 6} and len(everything(data)) == 31


@pytest.mark.parametrize("suffix", ["csv.gz", "csv.bz2", "csv.xz", "zip", "parquet"])
def test_a_small_file_that_unpacks_to_gigabytes_is_stopped_at_the_stated_bound(suffix, tmp_path):
    text, path = b"prompt,response\n" + (b"p," + b"x" * 2**20 + b"\n") * 80, tmp_path / f"bomb.{suffix}"
    if suffix == "parquet":
        write_parquet(path, [{"prompt": "p", "response": "x" * 2**20}] * 400)
    elif suffix == "zip":
        zipped(path, **{"bomb.csv": text})
    else:
        pack = {"csv.gz": gzip.compress, "csv.bz2": bz2.compress, "csv.xz": lzma.compress}[suffix]
        path.write_bytes(pack(text))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="stopped while unpacking: it holds more than .* MiB, 100 times its size"):
        from_path(str(path), None, ())


@pytest.mark.parametrize("form", ["parquet", "categories", "arrow"])
def test_one_long_text_that_every_row_repeats_is_stopped_before_it_fills_the_memory(form, tmp_path):
    """256 rows of 8 MiB each are 2 GiB, in a file that stores the text once."""
    from pyarrow import parquet

    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 256, pyarrow.int32()), ["x" * 2**23])
    table, path = pyarrow.table({"prompt": text, "response": text}), tmp_path / f"bomb.{form}"
    if form == "arrow":
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    else:
        path = tmp_path / "bomb.parquet"
        kept = {"store_schema": form == "categories", "dictionary_pagesize_limit": 2**30, "compression": "zstd"}
        parquet.write_table(table, path, **kept)
        assert path.stat().st_size < 2**20
    tracemalloc.start()
    before = pyarrow.default_memory_pool().max_memory()
    with pytest.raises(UserError, match="stopped while unpacking"):
        from_path(str(path), None, ())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak + pyarrow.default_memory_pool().max_memory() - before < 2**29


# -- what `datasets` wrote ---------------------------------------------------------------------------------------------


def labelled(count=60):
    import datasets

    label = datasets.ClassLabel(names=["calm", "angry"])
    text = datasets.Value("string")
    features = {"prompt": text, "response": label, "several": datasets.Sequence(label), "nested": {"tone": label}}
    rows = {
        "prompt": [f"p{n}" for n in range(count)],
        "response": [n % 3 - 1 for n in range(count)],  # -1: no label
        "several": [[n % 2, 0] for n in range(count)],
        "nested": [{"tone": n % 2} for n in range(count)],
    }
    return datasets.Dataset.from_dict(rows, datasets.Features(features))


@pytest.mark.parametrize("form", ["folder", "parquet", "arrow"])
def test_class_labels_are_read_by_their_names_and_that_is_said(form, tmp_path):
    path = tmp_path / form
    if form == "folder":
        labelled().save_to_disk(path)
    elif form == "parquet":
        labelled().to_parquet(path := tmp_path / "r.parquet")
    else:
        labelled().save_to_disk(path)
        path = next(path.glob("*.arrow"))
    assert [row["nested"] for row in only(path)[:2]] == [{"tone": "calm"}, {"tone": "angry"}]
    data = DATASETS["table"](path=str(path), validation=0.2, test=0.2)
    data.setup()
    assert {e.response for e in everything(data)} == {"calm", "angry"}
    assert data.counts["dropped"]["train"] == {"no response": 20}
    assert "class labels of the column response read by their names" in data.describe()
    several = DATASETS["table"](path=str(path), prompt="prompt", response="several", validation=0.2, test=0.2)
    several.setup()
    assert {e.references for e in everything(several)} == {("calm", "calm"), ("angry", "calm")}


# -- SQuAD -------------------------------------------------------------------------------------------------------------


def nested(questions, titles=30):
    return {
        "version": "1.1",
        "data": [
            {"title": f"T{t}", "paragraphs": [{"context": "Dug by miners.", "qas": [q(t) for q in questions]}]}
            for t in range(titles)
        ],
    }


def question(t):
    return {"id": f"q{t}", "question": "Who?", "answers": [{"text": "miners", "answer_start": 7}]}


def impossible(t):
    return {"id": f"i{t}", "question": "When?", "answers": [], "is_impossible": True, "plausible_answers": []}


def squad(path, **keys):
    data = DATASETS["squad"](path=str(path), test=0.2, **keys)
    data.setup()
    return data


def test_the_official_json_gives_the_same_examples_as_rows(tmp_path):
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(nested([question])))
    rows = [
        {
            "id": f"q{t}",
            "title": f"T{t}",
            "context": "Dug by miners.",
            "question": "Who?",
            "answers": {"text": ["miners"]},
        }
        for t in range(30)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert squad(tmp_path / "dev-v1.1.json").available == squad(tmp_path / "rows.jsonl").available


def test_squad_2_is_refused_as_rows_as_official_json_and_for_predictions(command, tmp_path):
    (tmp_path / "v2.json").write_text(json.dumps(nested([question, impossible])))
    row = {"id": "i1", "title": "T", "context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}
    write_jsonl(tmp_path / "v2.jsonl", [row])
    for file in ("v2.json", "v2.jsonl"):
        with pytest.raises(UserError, match=rf"{file}, .*question i\d+ has no answer, as in SQuAD 2.0"):
            squad(tmp_path / file)
    (tmp_path / "answers.json").write_text('{"q1": "miners"}')
    words = ["dataset=squad", f"dataset.path={tmp_path / 'v2.json'}", "dataset.test=0.2"]
    done = command("evaluate.py", *words, f"predictions={tmp_path / 'answers.json'}", check=False)
    assert done.returncode == 2 and "as in SQuAD 2.0" in done.stderr


def test_a_row_that_comes_twice_counts_twice_with_one_answer_as_in_the_official_script(command, tmp_path):
    """The official script counts q0 twice: 3 right of 4."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"id": f"q{t}", "title": f"T{t}", "context": "By miners.", "question": "Who?", "answers": {"text": ["miners"]}}
        for t in range(3)
    ]
    write_jsonl(data / "validation.jsonl", [*rows, rows[0]])
    write_jsonl(data / "train.jsonl", [{**row, "id": f"t{n}", "title": f"A{n}"} for n in range(30) for row in rows[:1]])
    (tmp_path / "answers.json").write_text('{"q0": "miners", "q1": "miners", "q2": "others"}')
    words = ["dataset=squad", f"dataset.path={data}", f"predictions={tmp_path / 'answers.json'}"]
    done = command("evaluate.py", *words)
    assert "squad/exact_match 75.0000000000" in done.stdout
    assert "4 questions; 0 without an answer" in done.stdout and "0 unknown ids" in done.stdout


def test_references_given_as_one_string_are_one_reference(tmp_path):
    rows = [
        {"id": f"q{t}", "title": f"T{t}", "context": "By Miller.", "question": "Who?", "answers": {"text": "Miller"}}
        for t in range(30)
    ]
    assert squad(write_jsonl(tmp_path / "r.jsonl", rows)).train[0].references == ("Miller",)
    tweets = DATASETS["tweetsumm"]()
    info = {"summaries": {"abstractive_summaries": "One text."}}
    log = [{"user utterance": "Where?", "system response": "Here."}]
    row = {"new dialog id": "a", "original dialog id": "a", "original dialog info": info, "log": log}
    assert tweets.read(row)[0].references == ("One text.",)
    abstract = {"pubid": 7, "question": "Does it?", "context": {"contexts": "One text."}, "final_decision": "Yes"}
    assert DATASETS["pubmedqa"]().read(abstract)[0].context == "One text."
