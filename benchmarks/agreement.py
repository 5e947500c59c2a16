"""Do 20 steps go as PEFT's would, within bfloat16's noise? python benchmarks/agreement.py CHECKPOINT [key=value …]

    squad=FILE.parquet   real SQuAD rows, answers as labels (else random tokens, all of them labels)
    examples=16 steps=20 lr=2e-4 device=cuda   (device=cpu with model=llama_exp/tiny shows how it works)

Three curves from the same start over the same rows: transformers' and PEFT's own modules in float32 (the reference), the
same in bfloat16, and ours in bfloat16. How far PEFT in bfloat16 strays from the reference is the noise of that precision;
ours may stray as far and half as far again. Prints one line of JSON, and exits with 1 where it strays further.
"""

import json
import sys

import torch
from step import squad_tokens
from torch.nn import functional as F

from llama_exp.config import LoraConfig, ModelConfig, Quantisation, Scaling, Targets
from llama_exp.data.packing import collate
from llama_exp.llama.forward import response_nll
from llama_exp.model import attach_lora, detach_lora, forget_base, load_base, load_tokenizer
from llama_exp.records import Tokens

ALLOWED = 1.5


def peft_nll(model, rows, device) -> torch.Tensor:
    """The losses of all label tokens by transformers' and PEFT's own modules, one row at a time."""
    found = []
    for row in rows:
        ids, labels = torch.tensor([row.input_ids], device=device), torch.tensor(row.labels, device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0]
        nll = F.cross_entropy(logits[:-1].float(), labels[1:], reduction="none", ignore_index=-100)
        found.append(nll[labels[1:] != -100])
    return torch.cat(found)


def curve(config: ModelConfig, device, dtype, rounds, lr: float, ours: bool) -> list[float]:
    """The mean loss of each step."""
    lora = LoraConfig(r=16, alpha=16, scaling=Scaling.fixed_alpha, ratio=2.0, dropout=0.0, targets=Targets.all)
    model = attach_lora(load_base(config, device, dtype), lora, 0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
    losses = []
    for rows in rounds:
        count, total = sum(row.label_tokens for row in rows), 0.0
        for part in [rows] if ours else [[row] for row in rows]:  # PEFT's in parts, so that float32 fits
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32 and not ours):
                nll = response_nll(model, collate(part).to(device))[0] if ours else peft_nll(model, part, device)
            loss = nll.float().sum() / count
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    detach_lora(model)
    return losses


def main(checkpoint: str, words: dict[str, str]) -> int:
    config = ModelConfig("llama", checkpoint, None, Quantisation.nf4, "", False, True)
    device = torch.device(words.get("device", "cuda"))
    count, steps, lr = int(words.get("examples", 16)), int(words.get("steps", 20)), float(words.get("lr", 2e-4))
    if path := words.get("squad"):
        items = squad_tokens(path, load_tokenizer(config), count * steps)
    else:
        ids = torch.randint(3, 1000, (count * steps, 128), generator=torch.Generator().manual_seed(0)).tolist()
        items = [Tokens(str(n), row, [-100, *row[1:]]) for n, row in enumerate(ids)]
    rounds = [items[start : start + count] for start in range(0, len(items), count)][:steps]
    reference = curve(config, device, torch.float32, rounds, lr, ours=False)
    forget_base()
    peft, mine = (curve(config, device, torch.bfloat16, rounds, lr, ours) for ours in (False, True))
    astray = {name: max(abs(a - b) / b for a, b in zip(one, reference, strict=True))
              for name, one in (("peft", peft), ("ours", mine))}  # fmt: skip
    agrees = astray["ours"] <= ALLOWED * astray["peft"]
    print(json.dumps({
        "what": "agreement", **words, "steps": len(rounds), "loss": [round(reference[0], 5), round(reference[-1], 5)],
        "furthest_from_float32": {name: float(f"{value:.3g}") for name, value in astray.items()}, "agrees": agrees,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__,
    }), flush=True)  # fmt: skip
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:])))
