"""Answering with an adapter at Llama-2-7B's shape: python benchmarks/answering.py CHECKPOINT SQUAD [key=value …]

SQUAD is a folder of SQuAD's parquet files.

    questions=3000 new=8     SQuAD questions, and new tokens of each
    long=512 long_new=256    then so many of them with long replies; 0 = none
    rank=16

    graph=false              launch the kernels of each step one by one

Prints a line of JSON each: seconds, questions and new tokens a second, peak memory. Needs a GPU; random weights will
do: they hardly ever end a reply.
"""

import hashlib
import json
import sys
import time

import torch


def main(checkpoint: str, squad: str, words: dict[str, str]) -> None:
    from llama_exp.config.compose import load_config
    from llama_exp.data import DATASETS
    from llama_exp.data.encoding import encode_held_out
    from llama_exp.evaluation.generation import answers
    from llama_exp.model.kernels import decode_step
    from llama_exp.model.load import load_model

    rank, questions, new = int(words.get("rank", 16)), int(words.get("questions", 3000)), int(words.get("new", 8))
    data_keys = ("dataset=squad", f"dataset.path={squad}")
    config = load_config("model=custom", f"model.path={checkpoint}", *data_keys, f"lora.r={rank}", "trainer=gpu")
    model, tokenizer = load_model(config)
    data = DATASETS.of(config, tokenizer)
    data.setup()
    model.eval()
    if words.get("graph") == "false":
        decode_step.GRAPH_FROM = sys.maxsize

    def measure(count: int, length: int) -> None:
        examples = data.held_out("test", count)
        limits = config.max_length, config.dataset.max_new_tokens
        encoded = encode_held_out(examples, tokenizer, *limits, data.answers_in_context)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        began, replies = time.perf_counter(), []
        for some in answers(model, tokenizer, encoded.prompts, encoded.responses, max_new_tokens=length):
            replies += some
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        tokens = sum(reply.tokens for reply in replies)
        found = {
            "questions": len(examples),
            "new_tokens": tokens,
            "seconds": round(seconds, 2),
            "questions_per_second": round(len(examples) / seconds, 1),
            "new_tokens_per_second": round(tokens / seconds),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "nll": round(sum(reply.nll or 0.0 for reply in replies) / len(replies), 4),
            "replies": hashlib.md5(repr(sorted((r.index, r.text) for r in replies)).encode()).hexdigest(),
            "card": torch.cuda.get_device_name(),
        }
        print(json.dumps(found), flush=True)

    measure(64, new)  # what only the first batches pay for
    measure(questions, new)
    if long := int(words.get("long", 512)):
        measure(long, int(words.get("long_new", 256)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], dict(word.split("=", 1) for word in sys.argv[3:]))
