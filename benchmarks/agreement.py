"""Does a step go as PEFT's would, within bfloat16's noise? python benchmarks/agreement.py CHECKPOINT [key=value …]

    squad=FILE.parquet   real SQuAD rows, answers as labels (else random tokens, all of them labels)
    examples=16 steps=20 lr=2e-4 device=cuda   (device=cpu with llama_exp/tiny shows how it works)
    fp8=true             ours with optimizer.fp8_backward

The same start and rows three times: transformers' and PEFT's own modules in float32 (the reference), the same in
bfloat16, and ours in bfloat16. How far PEFT in bfloat16 strays from the reference is the noise of that precision.

gradients  of the first step, with an adapter that does something: ‖g - reference‖ / ‖reference‖, all A and all B.
           Nothing is amplified here, so ours may stray half as far again as PEFT, with fp8=true twice as far, and no
           further: exit code 1.
losses     of `steps` steps: the mean distance from the reference, in nats. Steps amplify noise: Adam's first ones take
           the sign of each gradient, however small it is.
"""

import json
import statistics
import sys

import torch
from step import squad_tokens
from torch.nn import functional as F

from llama_exp.config.schema import LoraConfig, ModelConfig, Scaling, Targets
from llama_exp.data.packing import collate
from llama_exp.model.base import load_base
from llama_exp.model.kernels.decoder_layer import keep_in_memory
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.lora import attach_lora, detach_lora
from llama_exp.model.tokenizer import load_tokenizer
from llama_exp.records import Tokens

ALLOWED = {False: 1.5, True: 2.0}  # with products in 8 bits?


def peft_nll(model, rows, device) -> torch.Tensor:
    """The losses of all label tokens by transformers' and PEFT's own modules, one row at a time."""
    found = []
    for row in rows:
        ids, labels = torch.tensor([row.input_ids], device=device), torch.tensor(row.labels, device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0]
        nll = F.cross_entropy(logits[:-1].float(), labels[1:], reduction="none", ignore_index=-100)
        found.append(nll[labels[1:] != -100])
    return torch.cat(found)


def backward(model, rows, device, dtype, ours: bool) -> float:
    """Gradients of the mean loss of a step's label tokens, and that loss."""
    count, total = sum(row.label_tokens for row in rows), 0.0
    for part in [rows] if ours else [[row] for row in rows]:  # PEFT's in parts, so that float32 fits
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32 and not ours):
            nll = response_nll(model, collate(part).to(device))[0] if ours else peft_nll(model, part, device)
        loss = nll.float().sum() / count
        loss.backward()
        total += float(loss.detach())
    return total


def measured(config: ModelConfig, device, dtype, rounds, lr: float, ours: bool, fp8: bool):
    """({"A": …, "B": …}: the first step's gradients, one vector each; the loss of each step)."""
    lora = LoraConfig(r=16, alpha=16, scaling=Scaling.fixed_alpha, ratio=2.0, dropout=0.0, targets=Targets.all)
    base = load_base(config, device, dtype)
    model = attach_lora(base, lora, 0)
    tuned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rises = [p for name, p in tuned.items() if "lora_B" in name]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in rises:
            p.copy_(0.01 * torch.randn(p.shape, generator=generator))
    with keep_in_memory(base, False, False, fp8):
        backward(model, rounds[0], device, dtype, ours)
    gradients = {
        kind: torch.cat([p.grad.flatten() for name, p in tuned.items() if f"lora_{kind}" in name]).cpu()
        for kind in "AB"
    }
    with torch.no_grad():
        for p in rises:
            p.zero_()
    model.zero_grad()
    optimizer, losses = torch.optim.AdamW(tuned.values(), lr), []
    with keep_in_memory(base, ours and device.type == "cuda", ours, fp8):
        for rows in rounds:
            losses.append(backward(model, rows, device, dtype, ours))
            optimizer.step()
            optimizer.zero_grad()
    detach_lora(model)
    return gradients, losses


def main(checkpoint: str, words: dict[str, str]) -> int:
    config = ModelConfig(name="llama", path=checkpoint)
    device = torch.device(words.get("device", "cuda"))
    count, steps, lr = int(words.get("examples", 16)), int(words.get("steps", 20)), float(words.get("lr", 2e-4))
    if path := words.get("squad"):
        items = squad_tokens(path, load_tokenizer(config), count * steps)
    else:
        ids = torch.randint(3, 1000, (count * steps, 128), generator=torch.Generator().manual_seed(0)).tolist()
        items = [Tokens(str(n), row, [-100, *row[1:]]) for n, row in enumerate(ids)]
    fp8 = words.get("fp8") == "true"
    rounds = [items[start : start + count] for start in range(0, len(items), count)][:steps]
    exact, curve = measured(config, device, torch.float32, rounds, lr, ours=False, fp8=False)
    told = {"what": "agreement", **words, "steps": len(rounds), "loss": [round(curve[0], 5), round(curve[-1], 5)]}
    for name in ("peft", "ours"):
        gradients, losses = measured(config, device, torch.bfloat16, rounds, lr, name == "ours", fp8 and name == "ours")
        astray = {kind: float((gradients[kind] - exact[kind]).norm() / exact[kind].norm()) for kind in "AB"}
        apart = [round(mine - theirs, 4) for mine, theirs in zip(losses, curve, strict=True)]
        told[name] = {
            "gradients": {kind: float(f"{value:.3g}") for kind, value in astray.items()},
            "losses": float(f"{statistics.mean(map(abs, apart)):.3g}"),
            "each": apart,
        }
    agrees = all(told["ours"]["gradients"][kind] <= ALLOWED[fp8] * told["peft"]["gradients"][kind] for kind in "AB")
    print(
        json.dumps(
            {
                **told,
                "agrees": agrees,
                "torch": torch.__version__,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            }
        ),
        flush=True,
    )
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])))
