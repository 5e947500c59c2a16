"""Chat through its command, on one small run that learnt to speak."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("prompt", ['Where\'s my "order", please?', "a=b, c=d!", "two\nlines {x} ${y} [1]"])
def test_any_prompt_survives_the_command_line(speaker, prompt, command):
    words, _ = speaker
    piped = subprocess.run(
        [sys.executable, "-m", "llama_exp", "chat", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        input=json.dumps({"prompt": prompt}) + "\n",
        env=os.environ,
    )
    assert piped.returncode == 0, piped.stderr
    [answer] = [json.loads(line) for line in piped.stdout.splitlines() if line.startswith("{")]
    done = command("llama-exp", "chat", *words, f"prompt={prompt}")
    assert answer["reply"] and answer["reply"].split()[:3] == done.stdout.split()[:3], "greedy: the same both ways"


def test_an_untrained_run_names_the_command_that_trains_it(speaker, command):
    words, _ = speaker
    done = command("llama-exp", "chat", *words, "lora.r=5", "prompt=hello", check=None)
    assert done.returncode == 2
    assert "python train.py dataset=tweetsumm" in done.stderr and "dataset.task=turns" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["promt=Hi", 'promt=Where\'s my "order", {please}?'])
def test_a_mistyped_word_of_the_command_is_told_from_the_keys_of_conf(word, command):
    done = command("llama-exp", "chat", "model=tiny", word, check=None)
    assert (done.returncode, done.stderr) == (2, "No key 'promt'. Did you mean prompt?\n")


def test_a_folder_that_holds_no_run_is_said_and_another_run_never_answers_for_it(speaker, command, tmp_path):
    words, outputs = speaker
    [run] = outputs.glob("tweetsumm/tiny-16-r2*")
    part, words = tmp_path / "part", [*words, "prompt=x"]  # words that find the run without out=
    for folder, said in (
        (tmp_path / "nosuch", f"out={tmp_path}/nosuch: there is no such folder"),
        (tmp_path, f"out={tmp_path}: that folder holds no run"),
        (shutil.copytree(run, part, ignore=shutil.ignore_patterns("config.yaml")), f"{part} has no config.yaml"),
    ):
        done = command("llama-exp", "chat", *words, f"out={folder}", check=None)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "train.py" not in done.stderr, "nothing was said of what to train"
    (part / "adapter/adapter_model.safetensors").unlink()
    shutil.copy(run / "config.yaml", part)
    done = command("llama-exp", "chat", f"out={part}", check=None)
    again = "To continue: python train.py dataset=tweetsumm model=tiny sample=16 lora.r=2 dataset.max_new_tokens=24"
    assert again in done.stderr and f"out={part}" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "typed", "times"),
    [
        (["prompt=Who?"], "", 1),
        ([], '{"prompt": "Who?"}\n"Where?"\n', 1),
        ([], '{"question": "Who?", "context": "Ann."}\n', 0),
        (["prompt=Who?", "raw=true"], "", 0),
    ],
)
def test_a_message_without_the_fields_of_the_template_is_answered_with_one_note(words, typed, times):
    untuned = ["dataset=squad", "dataset.source=synthetic", "model=tiny", "lora.r=0", "max_new_tokens=4"]
    start = [sys.executable, "-m", "llama_exp", "chat", *untuned, *words]
    done = subprocess.run(start, cwd=ROOT, input=typed, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("trained with a template of 2 fields") == times, done.stderr
    assert done.stderr.count("{question}") == times


def test_the_nearest_runs_come_first_and_the_nearest_with_its_whole_command(speaker, command, tmp_path):
    words, outputs = speaker
    [run] = (outputs / "tweetsumm").iterdir()
    for sample in (100, 20, 30, 300):
        shutil.copytree(run, copy := tmp_path / "outputs/tweetsumm" / f"of-{sample}")
        stored = (copy / "config.yaml").read_text()
        (copy / "config.yaml").write_text(stored.replace("\nsample: 16\n", f"\nsample: {sample}\n"))
    typed = [word for word in words if not word.startswith(("outputs=", "sample="))]
    typed += [f"outputs={tmp_path}/outputs", "seed=3", "sample=31", "prompt=Hi you"]
    done = command("llama-exp", "chat", *typed, check=None)
    [nearest] = [line for line in done.stderr.splitlines() if line.startswith("The nearest run: llama-exp chat ")]
    assert [line.split("(")[1] for line in done.stderr.splitlines()[-4:]] == ["of-30)", "of-20)", "of-100)", "of-300)"]
    again = shlex.split(nearest.removeprefix("The nearest run: llama-exp chat "))
    assert set(typed) - set(again) == {"seed=3", "sample=31"} and set(again) - set(typed) == {"seed=0", "sample=30"}


def test_words_that_fit_no_run_are_answered_with_those_of_the_runs_that_are_there(speaker, command):
    words, _ = speaker
    done = command("llama-exp", "chat", *words, "sample=7", "seed=3", check=None)
    assert "Train it first" in done.stderr
    [line] = done.stderr.splitlines()[-1:]
    assert line.startswith("  sample=16 seed=0  (tiny-16-r2-"), done.stderr
    assert (
        command("llama-exp", "chat", *words, "sample=7", "seed=3", "sample=16", "seed=0", "prompt=Hi").returncode == 0
    )
    done = command(
        "evaluate.py",
        "model=tiny",
        "dataset=squad",
        "dataset.source=synthetic",
        "trained_on=tweetsumm",
        "lora.r=4",
        words[-1],
        check=None,
    )
    assert f"No run below {words[-1].partition('=')[2]}/tweetsumm matches." in done.stderr
    assert done.stderr.splitlines()[-1].startswith("  lora.r=2 sample=16  (tiny-16-r2-"), done.stderr


def test_a_pipeline_from_a_runs_folder_says_what_the_command_says(speaker, command):
    import llama_exp.chat

    words, outputs = speaker
    [run] = outputs.glob("tweetsumm/tiny-16-r2*")
    pipe = llama_exp.chat.pipeline(run)
    told = pipe("Where is my parcel?")[0]["generated_text"]
    assert told.strip() == command("llama-exp", "chat", *words, "prompt=Where is my parcel?").stdout.strip()
    chat = [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": told},
        {"role": "user", "content": "And when?"},
    ]
    assert isinstance(pipe(chat)[0]["generated_text"], str) and pipe.tokenizer.bos_token_id == 1
    assert len(pipe(["One?", "Two?"], batch_size=2, max_new_tokens=5)) == 2
