"""llama-exp: one table of commands, one grammar, help generated from the options."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass

import pytest

from llama_exp.cli.completion import completions
from llama_exp.cli.errors import mistyped
from llama_exp.cli.main import COMMANDS, CommandLine, overrides_first, overview
from llama_exp.cli.options import known_keys, options_help, parse_options
from llama_exp.config.options import REQUIRED, option
from llama_exp.errors import UserError
from tests.conftest import ROOT

WITH_OPTIONS = [name for name in COMMANDS if name not in ("train", "evaluate")]


@dataclass(frozen=True)
class Sample:
    folder: str = option(REQUIRED, "where", positional=True, shown="FOLDER")
    count: int | None = option(None, "how many", minimum=1, maximum=9)
    share: float = option(0.5, "how much")
    loud: bool = option(False, "whether")
    names: list[str] = option([], "which")
    targets: dict[str, float] = option({}, "what for")


def test_options_are_typed_and_the_rest_is_left_to_hydra():
    typed = ["here", "count=3", "share=1e-2", "loud=True", "names=a, b", "targets={squad/f1: 70}", "-m", "lora.r=8"]
    assert parse_options(Sample, typed) == (
        Sample("here", 3, 0.01, True, ["a", "b"], {"squad/f1": 70.0}),
        ["-m", "lora.r=8"],
    )
    assert parse_options(Sample, ["folder=a=b", "count=null"])[0] == Sample("a=b")


def test_all_that_is_wrong_with_the_options_comes_in_one_message():
    with pytest.raises(UserError) as caught:
        parse_options(Sample, ["count=0", "share=much", "loud=yes", "targets=70"])
    assert str(caught.value).splitlines() == [
        "count=0: wanted a number from 1 to 9.",
        "share=much: wanted a number.",
        "loud=yes: wanted true or false.",
        "targets=70: wanted names and values, such as '{squad/f1: 70}'.",
        "folder=FOLDER is missing: where.",
    ]


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_help_is_made_of_the_options_and_of_the_commands_docstring(name):
    command = CommandLine(name, [])
    text = command.help()
    assert f"llama-exp {name}" in text and command.function.__doc__.splitlines()[0] in text
    for field in dataclasses.fields(command.parameters["options"]):
        assert field.metadata["help"].split("\n")[0] in text


def test_the_page_of_commands_names_every_command_and_every_option():
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"llama-exp {name}" in page and COMMANDS[name].help.split(" (")[0] in page
        for key in known_keys(CommandLine(name, []).parameters.get("options")):
            assert f"`{key}=" in page or f"`{key}`" in page, (name, key)


def test_a_mistyped_command_or_option_names_the_near_one(command):
    for words, said in (
        (["evalute"], "No command 'evalute'. Did you mean llama-exp evaluate?"),
        (["study", "crate"], "No command 'study crate'. Did you mean llama-exp study create?"),
        (["report", "metrc=loss"], "No option 'metrc'. Did you mean metric?"),
        (["chat", "promt=Hi"], "No key 'promt'. Did you mean prompt?"),
    ):
        done = command("llama-exp", *words, check=None)
        assert (done.returncode, done.stderr.strip()) == (2, said)


def test_help_and_version_of_the_package(command):
    assert command("llama-exp").stdout == command("llama-exp", "--help").stdout == overview() + "\n"
    assert command("llama-exp", "--version").stdout.startswith("llama-exp 0.")
    assert "study create" in command("llama-exp", "study", "--help").stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("report", "report", ["outputs", "--metric", "loss"]),
        ("tables", "breakdown", []),
        ("chat", "chat", ["promt=x"]),
        ("simulation", "simulate", ["turns=1"]),
        ("hub", "publish", ["check=0"]),
        ("human.study", "study create", []),
        ("human.app", "study serve", []),
        ("human.report", "study report", []),
    ],
)
def test_an_old_name_prints_the_new_one_and_goes_on(old, new, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"llama_exp.{old}", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    first, *rest = done.stderr.splitlines()
    assert first == f"python -m llama_exp.{old} is now: llama-exp {new}"
    assert done.returncode == 2 and rest, "the command itself has answered"


def test_commands_keys_and_choices_are_completed():
    query = ["-sc", "query=bash"]
    assert completions("llama-exp ", query) == sorted({name.split()[0] for name in COMMANDS})
    assert completions("llama-exp stu", query) == ["study"]
    assert completions("llama-exp study ", query) == ["create", "report", "serve"]
    assert completions("llama-exp report pri", query) == ["price_per_gpu_hour="]
    assert completions("llama-exp chat dataset=gua", query) == ["dataset=guanaco"]
    assert completions("llama-exp chat prompt=Hi sam", query) == ["sampling_seed=", "sample="]


def test_help_version_and_completion_import_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom llama_exp.cli.main import COMMANDS, CommandLine\n"
        "from llama_exp.cli.completion import completions\n"
        "for name in COMMANDS: CommandLine(name, []).parameters\n"
        "completions('llama-exp train dataset=', ['-sc', 'query=bash'])\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'datasets', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


@pytest.mark.parametrize(
    "typed",
    [
        ["dataset=squad", "-m", "sample=1,2", "--config-dir", "a=b", "seed=1"],
        ["-m", "--config-dir", "a=b", "dataset=squad", "sample=1,2", "seed=1"],
    ],
)
def test_flags_may_stand_between_overrides(typed):
    ordered = overrides_first(typed)
    assert ordered == ["dataset=squad", "sample=1,2", "seed=1", "-m", "--config-dir", "a=b"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["--lr=3"], "optimizer.lr=3"), (["--rank", "4"], "lora.r=4"), (["--dataset"], "dataset=VALUE")],
)
def test_a_key_with_dashes_is_answered_without(typed, meant):
    assert mistyped(typed) == f"{typed[0].split('=')[0]}: keys are typed without dashes: {meant}"


def test_every_option_has_a_meaning():
    for name in WITH_OPTIONS:
        assert all(line.strip() for line in options_help(CommandLine(name, []).parameters["options"]).splitlines())
