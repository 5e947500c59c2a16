"""Pretrain the tiny Llama from scratch: `python -m llama_exp.tiny.pretrain OUT [--minutes N]`, one GPU.

    prose (invented, endless) -> BPE tokenizer of 2,048 pieces -> rows of 512 ids -> a Llama of under 4 M parameters

A plain language model: next-token loss over every token, no question, no prompt, no chat markup in its text.
"""

import argparse
import collections
import csv
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from llama_exp.config.checksums import sha256
from llama_exp.data.synthetic import prose

PIECES = 2048
LENGTH = 512  # ids a row
ROWS = 128  # rows a step: 65,536 tokens
DOCUMENTS = 2_000  # a shard of text, made by one worker from one seed

# No piece crosses these borders, so "Brandor" has the same ids before a full stop, before a comma and at a text's end.
WORDS = r"▁?\p{L}+|\p{N}|▁?[^\p{L}\p{N}▁]+|▁"


def train_tokenizer(documents: int = 20_000) -> Tokenizer:
    """A Llama-2-style tokenizer: SentencePiece's dummy prefix and ▁, bytes for what it does not know, single digits."""
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    alphabet = [chr(i) for i in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=special + bytes_, initial_alphabet=alphabet)
    pieces.train_from_iterator(marked_lines(documents), trainer)
    learned = json.loads(pieces.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]

    tokenizer = Tokenizer(models.BPE(learned["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def marked_lines(documents: int) -> Iterator[str]:
    """Line breaks stay out of the alphabet: they are written as the byte <0x0A>, as Llama 2 does."""
    for document in prose(documents, seed=-1):
        yield from ("▁" + document).replace(" ", "▁").split("\n")


def shard(job: tuple[int, str]) -> np.ndarray:
    """(rows, LENGTH) ids of one seed's documents, each between <s> and </s>, cut where the row ends."""
    seed, path = job
    tokenizer = Tokenizer.from_file(path)
    texts = list(prose(DOCUMENTS, seed))
    ids = [i for one in tokenizer.encode_batch(texts, add_special_tokens=False) for i in (1, *one.ids, 2)]
    rows = len(ids) // LENGTH
    return np.array(ids[: rows * LENGTH], dtype=np.int16).reshape(rows, LENGTH)


def batches(pool, workers: int, tokenizer_path: Path, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches (ROWS, LENGTH) int64, in an order fixed by `seed`, made by workers while the model trains."""
    jobs = ((seed * 1_000_000 + i, str(tokenizer_path)) for i in itertools.count())
    waiting = collections.deque(pool.apply_async(shard, (next(jobs),)) for _ in range(3 * workers))
    rest = np.empty((0, LENGTH), dtype=np.int16)
    while True:
        rest = np.concatenate([rest, waiting.popleft().get()])
        waiting.append(pool.apply_async(shard, (next(jobs),)))
        while len(rest) >= ROWS:
            yield torch.from_numpy(rest[:ROWS].astype(np.int64))
            rest = rest[ROWS:]


def build(width: int, layers: int, inner: int) -> LlamaForCausalLM:
    """Width and inner width are multiples of 64, so an NF4 block never spans two rows."""
    config = LlamaConfig(
        vocab_size=PIECES,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def pretrain(
    out: Path, *, minutes: float, steps: int, seed: int, rate: float, shape: tuple[int, int, int], workers: int
) -> None:
    """Train until `steps`, or until `minutes` are over: the learning rate falls to 0 by whichever comes first."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    tokenizer = train_tokenizer()
    tokenizer.save(str(out / "tokenizer.json"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pool = multiprocessing.get_context("spawn").Pool(workers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    model = build(*shape).to(device)
    optimizer = torch.optim.AdamW(decayed(model), rate, betas=(0.9, 0.95), fused=device.type == "cuda")
    forward = torch.compile(model) if device.type == "cuda" else model
    curve, log_from = [], time.time()
    done, step = 0.0, 0
    for step, ids in enumerate(batches(pool, workers, out / "tokenizer.json", seed), 1):
        done = max(step / steps, (time.time() - started) / (60 * minutes))
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / 200) * (1 - done)
        ids = ids.to(device, non_blocking=True)
        loss = backward(forward, ids)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == 1:
            seconds = time.time() - log_from
            curve.append(
                (step, step * ROWS * LENGTH, round(loss.item(), 4), optimizer.param_groups[0]["lr"], round(seconds, 1))
            )
            print(*curve[-1], flush=True)
    pool.terminate()
    save(out, model, curve)
    facts = {
        "seed": seed,
        "steps": step - 1,
        "tokens": (step - 1) * ROWS * LENGTH,
        "rows": ROWS,
        "length": LENGTH,
        "learning_rate": rate,
        "shape": shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.time() - started),
        "last_losses": [row[2] for row in curve[-5:]],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        **versions(),
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(facts)


def decayed(model: LlamaForCausalLM) -> list[dict]:
    """Weight decay for matrices, none for norms."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]


def backward(forward, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast(ids.device.type, torch.bfloat16):
        loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach()


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("transformers", "tokenizers", "safetensors", "numpy")}


def save(out: Path, model: LlamaForCausalLM, curve: list[tuple]) -> None:
    """float16 weights (the embedding once: it is tied), configs, the loss curve and the checksums."""
    weights = {
        name: p.detach().half().cpu().contiguous() for name, p in model.named_parameters() if "lm_head" not in name
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures, model.config.dtype = ["LlamaForCausalLM"], "float16"
    model.config.to_json_file(out / "config.json")
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(fields, indent=2) + "\n")
    with (out / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "tokens", "loss", "learning_rate", "seconds"), *curve])
    write_sums(out)


def write_sums(out: Path) -> None:
    """SHA256SUMS in sha256sum's format, over every file that is loaded."""
    named = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    lines = [f"{sha256(out / name)}  {name}\n" for name in named]
    (out / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8, help="stop by then (default 8)")
    parser.add_argument("--steps", type=int, default=16_000, help="stop after so many steps (default 16,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 5, 512), metavar=("WIDTH", "LAYERS", "INNER"))
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that make text"
    )
    chosen = parser.parse_args()
    pretrain(
        chosen.out,
        minutes=chosen.minutes,
        steps=chosen.steps,
        seed=chosen.seed,
        rate=chosen.rate,
        shape=tuple(chosen.shape),
        workers=chosen.workers,
    )
