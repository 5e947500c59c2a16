"""Tokens a second of one training step at Llama-2-7B's shape: python benchmarks/step.py CHECKPOINT [key=value …]

    examples=8 length=2048   what a step holds: as many Examples of that length, every token a label
    squad=FILE.parquet       instead: steps of `examples` real SQuAD rows, answers as labels
    micro_batch=N recompute=true cache_weights=true save_activations=true fp8=true
                             as llama_exp/model/memory.py chooses by what the card has free
    steps=12 profile=true peft=true (the same through transformers' and PEFT's own modules)

Prints one line of JSON. Needs a GPU; random weights will do.
"""

import json
import statistics
import sys
import time

import torch


def main(checkpoint: str, words: dict[str, str]) -> None:
    from llama_exp.batch import Batch
    from llama_exp.config.schema import LoraConfig, ModelConfig, Scaling, Targets
    from llama_exp.data.packing import collate
    from llama_exp.model.base import load_base
    from llama_exp.model.kernels.decoder_layer import keep_in_memory
    from llama_exp.model.kernels.forward import response_nll
    from llama_exp.model.lora import attach_lora, detach_lora
    from llama_exp.model.tokenizer import load_tokenizer
    from llama_exp.records import Tokens

    examples, length, steps = int(words.get("examples", 8)), int(words.get("length", 2048)), int(words.get("steps", 12))
    config = ModelConfig(name="llama2_7b", path=checkpoint)
    device = torch.device("cuda", 0)
    began = time.perf_counter()
    base = load_base(config, device)
    load = time.perf_counter() - began
    lora = LoraConfig(r=16, alpha=16, scaling=Scaling.fixed_alpha, ratio=2.0, dropout=0.0, targets=Targets.all)
    recompute = words.get("recompute", "false") == "true"
    model = attach_lora(base, lora, 0, recompute)
    generator = torch.Generator().manual_seed(0)
    if path := words.get("squad"):
        items = squad_tokens(path, load_tokenizer(config), examples * 8)
    else:
        ids = torch.randint(3, 32000, (examples * 4, length), generator=generator).tolist()
        items = [Tokens(str(n), row, [-100, *row[1:]]) for n, row in enumerate(ids)]
    micro = int(words.get("micro_batch", examples))
    rounds = [items[i : i + examples] for i in range(0, len(items), examples)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 2e-4, fused=True)

    def loss_of(batch: Batch) -> torch.Tensor:
        if words.get("peft"):
            rows = len(batch.lengths)
            ids = batch.input_ids.view(rows, -1)
            return model(input_ids=ids, labels=ids, use_cache=False).loss * (ids.numel() - rows)
        return response_nll(model, batch)[0].sum()

    def step(chosen) -> float:
        torch.cuda.synchronize()
        began, total = time.perf_counter(), 0.0
        for start in range(0, len(chosen), micro):
            batch = collate(chosen[start : start + micro]).to(device)
            with torch.autocast("cuda", torch.bfloat16):
                loss = loss_of(batch)
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total) / sum(item.label_tokens for item in chosen))
        return time.perf_counter() - began

    losses: list[float] = []
    rest = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = (words.get(name) == "true" for name in ("cache_weights", "save_activations", "fp8"))
    with keep_in_memory(base, *kept):
        times = [step(rounds[n % len(rounds)]) for n in range(steps)]
        if words.get("profile"):
            profiled(lambda: step(rounds[0]))
    tokens = [sum(len(item.input_ids) for item in rounds[n % len(rounds)]) for n in range(steps)]
    speeds = [count / seconds for count, seconds in zip(tokens[4:], times[4:], strict=True)]
    parameters = 6.607e9
    speed = statistics.median(speeds)
    print(
        json.dumps(
            {
                "what": "step",
                **words,
                "tokens_a_step": round(statistics.mean(tokens)),
                "tokens_per_second": round(speed),
                "slowest": round(min(speeds)),
                "fastest": round(max(speeds)),
                "mfu_tflops": round(speed * 4 * parameters / 1e12),
                "first_step_s": round(times[0], 2),
                "load_s": round(load, 1),
                "at_rest_gib": round(rest / 2**30, 2),
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
                "loss": [round(x, 5) for x in losses[:3] + losses[-1:]],
                "device": torch.cuda.get_device_name(),
                "torch": torch.__version__,
            }
        ),
        flush=True,
    )
    detach_lora(model)


def profiled(work) -> None:
    """The kernels of one step, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
    for kernel in sorted(seen.key_averages(), key=lambda kernel: -kernel.self_device_time_total)[:32]:
        print(f"{kernel.self_device_time_total / 1e3:9.2f} ms {kernel.count:6d} x {kernel.key[:100]}")


def squad_tokens(path: str, tokenizer, count: int):
    """Real rows in a wording like that of conf/dataset/squad.yaml."""
    import pyarrow.parquet

    from llama_exp.data.encoding import encode_all
    from llama_exp.records import Example

    rows = pyarrow.parquet.read_table(path).slice(0, 20_000).to_pylist()[:: 20_000 // count][:count]
    examples = [
        Example(
            id=row["id"],
            prompt=f"Answer with a span of the context.\n\nContext: {row['context']}\n\nQuestion: {row['question']}",
            response=row["answers"]["text"][0],
            references=tuple(row["answers"]["text"]),
            group=row["title"],
        )
        for row in rows
    ]
    return encode_all(examples, tokenizer, 1024, 64)[0]


if __name__ == "__main__":
    main(sys.argv[1], dict(word.split("=", 1) for word in sys.argv[2:]))
