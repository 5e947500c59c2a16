"""The public files keep what docs/files.md and docs/schemas promise."""

import csv
import json
import re

import pytest
from pydantic import TypeAdapter, ValidationError

from llama_exp.report.schemas import FILES, json_schema
from llama_exp.report.write import write_report
from tests.conftest import ROOT
from tests.test_report import write_grid


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public") / "outputs"
    write_grid(folder, samples=(100, 1000))
    write_report(folder)
    return folder


def validate(name, values):
    """Raises for a key that is not in the schema and for a value of another type than it says."""
    assert values.keys() <= json_schema(name)["properties"].keys()
    TypeAdapter(FILES[name]).validate_json(json.dumps(values), strict=True)


@pytest.mark.parametrize("name", FILES)
def test_the_published_schema_is_that_of_the_dataclass(name):
    published = ROOT / "docs" / "schemas" / name.replace(".json", ".schema.json")
    assert json.loads(published.read_text()) == json_schema(name), "python -m llama_exp.report.schemas docs/schemas"


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_written_fits_its_schema(name, outputs):
    found = list(outputs.rglob(name))
    assert found
    for path in found:
        validate(name, json.loads(path.read_text()))


def test_a_value_of_another_type_does_not_fit(outputs):
    values = json.loads((outputs / "report" / "answer.json").read_text())
    values["answers"][0]["recommended"]["rank"] = "sixteen"
    with pytest.raises(ValidationError, match="rank"):
        validate("answer.json", values)


def test_every_column_of_the_csv_is_documented(outputs):
    section = (ROOT / "docs" / "files.md").read_text().partition("## runs.csv")[2]
    names = [name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall("`(.*?)`", row)]
    patterns = [re.sub("[A-Z]{2,}", ".+", re.escape(name)) for name in names if not name.startswith("_")]
    known = re.compile(f"({'|'.join(patterns)})(_low|_high)?")
    with open(outputs / "report" / "runs.csv", newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert len(header) > 30 and [column for column in header if not known.fullmatch(column)] == []
