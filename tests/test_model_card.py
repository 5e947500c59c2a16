"""What a published model's page says of loading it works as it stands there, and answers as the run does."""

import re
import subprocess
import sys

import torch

from llama_exp.config.compose import default_config
from llama_exp.model.base import BaseLoader
from llama_exp.model.lora import load_lora
from llama_exp.model.tokenizer import load_tokenizer
from tests.conftest import ROOT

MESSAGE = 'Where is my "parcel"?'


# The merged weights are rounded to 16 bits and computed in them; the run computed in 32. That moved logits of up to 23
# by at most 0.33, on a CPU with AVX2, which is enough to change a reply where two tokens are 0.04 apart. Without the
# adapter they move by 4.8 and more, with a prompt that lacks its BOS by 1.6 and more.
ROUNDING = 0.04  # of the largest logit


def card_lines(speaker, command, kind: str) -> tuple[str, str]:
    """(the card, its Python lines with the repository replaced by the folder, and `message` set)."""
    words, outputs = speaker
    merged = f"merged={str(kind == 'merged').lower()}"
    command("llama-exp", "publish", *words, "dry_run=true", "check=4", "agreement=0", merged)
    [folder] = outputs.glob(f"tweetsumm/tiny-16-r2*/hub/{kind}")
    card = (folder / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    repo = re.search(r'"(OWNER/[^"]+)"', lines).group(1)
    return card, f"message = {MESSAGE!r}\n" + lines.replace(repo, str(folder))


def run_program(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_lines_that_load_an_adapter_give_the_runs_own_answer(speaker, command):
    words, _ = speaker
    card, program = card_lines(speaker, command, "adapter")
    asked = command("llama-exp", "chat", *words, f"prompt={MESSAGE}")
    assert run_program(program).split() == asked.stdout.split() != []
    assert "`message` is what a person says to the model." in card and "customer service" in program, (
        "turns have no template"
    )


def test_the_lines_that_load_a_merged_model_give_the_runs_logits_within_rounding(speaker, command, tmp_path):
    """Along the run's own answer: after one token that differs, greedy texts can no longer be compared."""
    words, outputs = speaker
    card, program = card_lines(speaker, command, "merged")
    [adapter] = outputs.glob("tweetsumm/tiny-16-r2*/adapter")
    base = default_config({"model": "tiny"}).model
    run = load_lora(BaseLoader().load(base, torch.device("cpu")), adapter).eval()
    assert run_program(f"{program}\ntorch.save(ids, {str(tmp_path / 'ids.pt')!r})").split()
    prompt = torch.load(tmp_path / "ids.pt", weights_only=True)
    with torch.inference_mode():
        whole = run.generate(input_ids=torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
        wanted = run(input_ids=whole).logits[0, len(prompt) - 1 : -1].float()
    asked = command("llama-exp", "chat", *words, f"prompt={MESSAGE}")
    tokenizer = load_tokenizer(base)
    reply = tokenizer.decode(whole[0, len(prompt) :], skip_special_tokens=True)
    assert reply.split() == asked.stdout.split() != [], "the card's prompt is the run's"
    program = program[: program.index("out = model.generate")] + (
        f"ids = {whole[0].tolist()}\n"
        f"logits = model(torch.tensor([ids])).logits[0, {len(prompt) - 1}:-1].detach().float()\n"
        f"torch.save(logits, {str(tmp_path / 'logits.pt')!r})"
    )
    run_program(program)
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert (logits - wanted).abs().max() < ROUNDING * wanted.abs().max()
    assert "`message` is what a person says to the model." in card and "customer service" in program
