"""Two GPUs against one, in one call: python benchmarks/several_gpus.py [shapes=tiny] [parts=ddp,fsdp,large] …

    ddp      7B: the same run on one GPU and on two: losses, tokens a second, seconds before the first step
    fsdp     13B: losses of a base in two shares beside those of the whole one
    large    70B in two shares with memory=24: the peak of a GPU, tokens a second; and what one GPU so limited says
    shapes=tiny       the same on two CPU processes, in minutes
    folder=DIR        where checkpoints and runs go (13B: 26 GB; 70B: a sparse file of zeros, which takes no room
                      on a disk; in /dev/shm it does once it is read)
    examples=64 steps=8 length=1024 batch=8

Weights are random (one layer's, repeated; 70B's are zeros), rows are made by rule. Prints one line of JSON for each
command as it ends, and last all of them. Each GPU's peak is the first one's; their work is the same.
"""

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig

from llama_exp import tiny
from llama_exp.model.memory import linear_shapes

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
NAMES = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]


def shape_of(name: str, small: bool) -> LlamaConfig:
    shape = dict(SHAPES[name])
    if small:
        shape |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
    return LlamaConfig(
        **shape, vocab_size=4096 if small else 32000, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2
    )


def tensors(shape: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """{name: size} of one block without its prefix, and of what stands around the blocks with it."""
    d = shape.hidden_size
    block = {f"{name}.weight": (out, of) for name, (of, out) in zip(NAMES, linear_shapes(shape), strict=True)}
    return block | {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}


def make_checkpoint(folder: Path, shape: LlamaConfig, zeros: bool) -> None:
    """One file a block, all of them with the same numbers, or sparse."""
    if (folder / "model.safetensors.index.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shape.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny.PATH).save_pretrained(folder)
    block, d, vocabulary = tensors(shape), shape.hidden_size, shape.vocab_size
    around = {
        "model.embed_tokens.weight": (vocabulary, d),
        "lm_head.weight": (vocabulary, d),
        "model.norm.weight": (d,),
    }
    files = {"model-around.safetensors": around}
    for number in range(shape.num_hidden_layers):
        files[f"model-{number:03}.safetensors"] = {f"model.layers.{number}.{name}": of for name, of in block.items()}
    drawn: dict[tuple[int, ...], torch.Tensor] = {}
    for file, sizes in files.items():
        if zeros:
            write_sparse(folder / file, sizes)
        else:
            kinds = {name: (*size, name.split(".")[-2]) for name, size in sizes.items()}
            drawn |= {kind: draw(sizes[name]) for name, kind in kinds.items() if kind not in drawn}
            save_file({name: drawn[kind] for name, kind in kinds.items()}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, sizes in files.items() for name in sizes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def draw(size: tuple[int, ...]) -> torch.Tensor:
    return (
        torch.ones(size, dtype=torch.bfloat16) if len(size) == 1 else (torch.randn(size) / size[-1] ** 0.5).bfloat16()
    )


def write_sparse(path: Path, sizes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of bfloat16 zeros that are not stored."""
    header, at = {}, 0
    for name, size in sizes.items():
        end = at + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def train(what: str, folder: Path, checkpoint: Path, words: list[str], options: dict[str, str]) -> dict:
    """Run one command and read what it left: a row of the result."""
    outputs = folder / "runs" / what.replace(" ", "-")
    small = options.get("shapes") == "tiny"
    command = [
        *(sys.executable, "train.py", "model=tiny" if small else "model=llama2_7b", f"model.path={checkpoint}"),
        *("model.quantisation=nf4", "dataset=squad", "dataset.source=synthetic", "validations=1"),
        *(f"batch={options.get('batch', 8)}", f"sample={options.get('examples', 64)}"),
        *(f"max_length={options.get('length', 1024)}", f"trainer.max_steps={options.get('steps', 8)}"),
        *("validation_sample=8", f"outputs={outputs}", *words),
    ]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    row = {"what": what, "code": done.returncode, "wall_s": round(time.perf_counter() - began, 1)}
    summaries = list(outputs.glob("squad/*/summary.json"))
    if done.returncode or not summaries:
        return row | {"said": (done.stderr or done.stdout).strip()[-600:]}
    summary = json.loads(summaries[0].read_text())
    with (summaries[0].parent / "metrics.csv").open() as file:
        losses = [float(line["loss"]) for line in csv.DictReader(file) if line["loss"]]
    kept = {key: summary[key] for key in ("tokens_per_second", "world_size", "device", "micro_batch")}
    return (
        row
        | kept
        | {
            "losses": losses,
            "peak_gib": round(summary["peak_memory_bytes"] / 2**30, 2),
            "seconds": summary["seconds"],
            "before_training_s": round(row["wall_s"] - summary["seconds"]["train"], 1),
        }
    )


def main(options: dict[str, str]) -> list[dict]:
    small, folder = options.get("shapes") == "tiny", Path(options.get("folder", "/tmp/several_gpus"))
    parts = options.get("parts", "ddp,fsdp,large").split(",")
    ddp, fsdp = ["trainer=ddp"], ["trainer=fsdp"]
    limit = ["memory=24"] * (not small)
    commands = {
        "ddp": ("7b", [("ddp one", []), ("ddp two", ddp)]),
        "fsdp": ("13b", [("fsdp one", []), ("fsdp two", fsdp)]),
        "large": ("70b", [("large one", limit), ("large two", [*fsdp, *limit])]),
    }
    rows = []
    for part in parts:
        name, runs = commands[part]
        make_checkpoint(folder / name, shape_of(name, small), zeros=name == "70b")
        for what, words in runs:
            rows.append(train(what, folder, folder / name, words, options))
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({"what": "several_gpus", "torch": torch.__version__, "rows": rows}), flush=True)
    return rows


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
