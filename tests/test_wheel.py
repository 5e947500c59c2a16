"""The wheel holds all that the commands need: they run from an empty folder, with nothing of the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import llama_exp
from llama_exp.programs import install
from tests.conftest import ROOT, small


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources: building leaves files behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("llama_exp", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [found] = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """`llama-exp` of the unpacked wheel, from an empty folder."""
    home = tmp_path_factory.mktemp("home")
    zipfile.ZipFile(wheel).extractall(home / "installed")
    (home / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(home / "installed")}

    def start(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "llama_exp", *arguments]
        done = subprocess.run(command, cwd=home / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stderr if code else done.stdout

    start.folder = home / "empty"
    start.environment = environment
    return start


def test_every_file_of_the_package_and_of_conf_is_in_the_wheel(wheel):
    paths = [path for folder in ("llama_exp", "conf") for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = [str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts]
    wanted = {f"llama_exp/{name}" if name.startswith("conf/") else name for name in names}
    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_console_script_and_the_version_are_those_of_the_package(wheel):
    assert wheel.name.startswith(f"llama_exp-{llama_exp.__version__}-")
    files = zipfile.ZipFile(wheel)
    [entries] = [name for name in files.namelist() if name.endswith("entry_points.txt")]
    assert "llama-exp = llama_exp.cli.main:main" in files.read(entries).decode()


def test_a_run_is_trained_scored_and_reported_from_an_empty_folder(run):
    where = subprocess.run(
        [sys.executable, "-c", "import llama_exp; print(llama_exp.__file__)"],
        cwd=run.folder,
        env=run.environment,
        capture_output=True,
        text=True,
    )
    assert str(ROOT) not in where.stdout
    assert run("--version") == f"llama-exp {llama_exp.__version__}\n"
    assert "name: squad" in run("train", "--cfg", "job")
    run("train", *small(), "evaluate=true")
    assert "Report: outputs/report/index.html" in run("report")
    assert {path.name for path in run.folder.iterdir()} == {"outputs"}


def test_what_is_printed_can_be_typed_where_there_is_no_checkout(run):
    shown = run("train", "--help")
    assert "llama-exp train model=tiny" in shown and ".py" not in shown.split("More:")[0].replace("python", "")
    refused = run("evaluate", *small(), "outputs=none", code=2)
    assert "Train it first: llama-exp train dataset=squad model=tiny" in refused and "python" not in refused


def test_what_is_printed_in_a_checkout_starts_the_checkout(command):
    refused = command("evaluate.py", *small(), "outputs=none", check=None).stderr
    assert "Train it first: python train.py dataset=squad model=tiny" in refused
    assert "python train.py model=tiny" in command("train.py", "--help").stdout


def test_an_extra_is_named_as_it_can_be_installed(run, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert install("ui") == "pip install -e '.[ui]'"
    monkeypatch.chdir(run.folder)
    assert install("ui") == "pip install 'llama_exp[ui]'"
