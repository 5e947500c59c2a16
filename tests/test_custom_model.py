"""model=custom model.path=…: any checkpoint with the layers of a Llama, under a name of its own."""

import shutil

import pytest

from llama_exp import load_config, tiny
from llama_exp.config.command_line import command as written_command
from llama_exp.config.compose import choices
from llama_exp.errors import UserError
from llama_exp.model import hardware
from llama_exp.runs.run import Run

from .conftest import small
from .test_checkpoint import reweighted


@pytest.fixture
def folder(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "My Llama!")
    return tmp_path / "My Llama!"


def model(path, *more, name="custom"):
    return load_config("dataset=squad", f"model={name}", f"model.path='{path}'", *more).model


def test_a_model_is_named_by_its_folder_and_its_files(folder, tmp_path):
    label = model(folder).label
    assert label.startswith("My_Llama-") and len(label) == len("My_Llama-") + 6
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    assert model(moved).label == label
    (folder / "README.md").write_text("changes nothing")
    assert model(folder).label == label
    reweighted(folder, lambda weights: {name: value * 1.01 for name, value in weights.items()})
    assert model(folder).label != label
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    assert model(moved).label != label


def test_on_the_hub_it_is_named_by_its_id():
    first, second, pinned = model("ann/llama"), model("bob/llama"), model("ann/llama", "model.revision=v1")
    assert first.label.startswith("llama-") and len({first.label, second.label, pinned.label}) == 3


@pytest.mark.parametrize("name", [name for name in choices("model") if name != "custom"])
def test_the_models_of_conf_keep_their_names_and_another_path_does_not_have_them(name, folder):
    config = load_config("dataset=squad", f"model={name}")
    assert (config.model.label, config.model.title) == ("", name)
    assert Run.of(config).folder.name == f"{name}-all-r16-seed0"
    other = load_config("dataset=squad", f"model={name}", f"model.path='{folder}'")
    assert other.model.title == model(folder).label
    assert Run.of(other).folder.name == f"{other.model.title}-all-r16-seed0"


def test_a_licence_belongs_to_the_model_of_the_file_and_to_its_copies(tmp_path):
    assert model("/models/Llama-2-7b-hf", name="llama2_7b").licence == "Llama 2 Community Licence"
    assert model("/models/other", name="llama2_7b").licence == "unknown"
    assert model("/models/other", "model.licence=Apache-2.0", name="llama2_7b").licence == "Apache-2.0"


def test_without_a_path_it_is_refused_and_commands_name_the_path(folder):
    with pytest.raises(UserError, match=r"model.path=FOLDER, or model.path=OWNER/NAME"):
        load_config("dataset=squad", "model=custom")
    run = Run.of(load_config("dataset=squad", "model=custom", f"model.path='{folder}'"))
    words = written_command("train.py", run.identity)
    assert "model=custom" in words and "model.path=" in words and "label" not in words


def test_a_large_model_or_one_on_the_hub_needs_a_gpu_and_a_small_one_does_not(folder, monkeypatch):
    config = load_config("dataset=squad", "model=custom", f"model.path='{folder}'", "trainer=cpu")
    hardware.check(config)
    monkeypatch.setattr(hardware, "LARGE", 1000)
    with pytest.raises(UserError, match="needs a GPU"):
        hardware.check(config)
    monkeypatch.undo()
    with pytest.raises(UserError, match="needs a GPU"):
        hardware.check(load_config("dataset=squad", "model=custom", "model.path=ann/llama", "trainer=cpu"))


def test_the_command_trains_evaluates_and_finds_the_run_of_a_model_folder(tmp_path, command):
    shutil.copytree(tiny.PATH, tmp_path / "mine", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    words = [*small(model="custom"), f"model.path={tmp_path}/mine", f"outputs={tmp_path}/o"]
    command("train.py", *words)
    [run] = (tmp_path / "o" / "squad").iterdir()
    assert run.name.startswith("mine-") and "model_path" not in run.name
    assert f"{run.name}/eval/" in command("evaluate.py", *words).stdout
    assert "already finished" in command("train.py", *words).stdout
    reweighted(tmp_path / "mine", lambda weights: {name: value * 1.01 for name, value in weights.items()})
    done = command("evaluate.py", *words, "eval_sample=3", check=None)
    assert done.returncode == 2 and f"({run.name}, on other files in model.path)" in done.stderr
