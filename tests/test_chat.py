"""Chat through its command, on one small run that learnt to speak."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("prompt", ['Where\'s my "order", please?', "a=b, c=d!", "two\nlines {x} ${y} [1]"])
def test_any_prompt_survives_the_command_line(speaker, prompt, command):
    words, _ = speaker
    piped = subprocess.run([sys.executable, "-m", "llama_exp.chat", *words], cwd=ROOT, capture_output=True, text=True,
                           input=json.dumps({"prompt": prompt}) + "\n", env=os.environ)  # fmt: skip
    assert piped.returncode == 0, piped.stderr
    [answer] = [json.loads(line) for line in piped.stdout.splitlines() if line.startswith("{")]
    done = command("llama_exp.chat", *words, f"prompt={prompt}")
    assert answer["reply"] and answer["reply"].split()[:3] == done.stdout.split()[:3], "greedy: the same both ways"


def test_an_untrained_run_names_the_command_that_trains_it(speaker, command):
    words, _ = speaker
    done = command("llama_exp.chat", *words, "lora.r=5", "prompt=hello", check=None)
    assert done.returncode == 2
    assert "python train.py dataset=tweetsumm" in done.stderr and "dataset.task=turns" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipeline_from_a_runs_folder_says_what_the_command_says(speaker, command):
    import llama_exp.chat

    words, outputs = speaker
    [run] = outputs.glob("tweetsumm/tiny-16-r2*")
    pipe = llama_exp.chat.pipeline(run)
    told = pipe("Where is my parcel?")[0]["generated_text"]
    assert told.strip() == command("llama_exp.chat", *words, "prompt=Where is my parcel?").stdout.strip()
    chat = [{"role": "user", "content": "Where is my parcel?"}, {"role": "assistant", "content": told},
            {"role": "user", "content": "And when?"}]  # fmt: skip
    assert isinstance(pipe(chat)[0]["generated_text"], str) and pipe.tokenizer.bos_token_id == 1
    assert len(pipe(["One?", "Two?"], batch_size=2, max_new_tokens=5)) == 2
