"""One reply after another, as in a chat: python benchmarks/chat.py [key=value …]

    checkpoint=tiny          a folder with a model; tiny is the package's own, on a CPU
    tokens=128 replies=8     new tokens of a reply at most, and replies, after one that is not counted
    rank=16                  of the adapter; 0 = none

    temperature=0.7          draw the tokens at random; 0 = greedy
    kept=false               dequantise the weights for each product
    graph=false              launch the kernels of each step one by one

Prints a line of JSON: new tokens a second of one stream, from the second token on and with the wait for the first
(medians of the replies, slowest and fastest), and that wait in milliseconds. Random weights will do: the output layer's
row for the end of a reply is set to 0, so that a reply hardly ever ends.
"""

import hashlib
import json
import statistics
import sys
import time

import torch

PROMPT = "Write down everything that you know about the history of the Roman Empire, from its beginning to its end."


def load(words: dict[str, str]) -> tuple:
    """(model, tokenizer, the prompt's ids)."""
    from llama_exp.config.compose import load_config
    from llama_exp.data.chat_format import chat_format
    from llama_exp.data.encoding import encode_prompts
    from llama_exp.model.load import load_model
    from llama_exp.model.lora import causal_lm
    from llama_exp.records import Example

    checkpoint = words.get("checkpoint", "tiny")
    named = ("model=tiny", "trainer=cpu") if checkpoint == "tiny" else ("model=custom", f"model.path={checkpoint}")
    model, tokenizer = load_model(load_config(*named, f"lora.r={words.get('rank', 16)}"))
    causal_lm(model).lm_head.weight.data[chat_format(tokenizer).end] = 0
    [ids], _ = encode_prompts([Example("prompt", PROMPT, "", (), "")], tokenizer, 256)
    return model, tokenizer, ids


def reply(model, tokenizer, ids, words: dict[str, str]) -> tuple[float, float, int, str]:
    """Seconds to the first token and in all, tokens, text."""
    from llama_exp.evaluation.generation import stream

    torch.manual_seed(0)
    began, first, pieces = time.perf_counter(), 0.0, []
    settings = {"max_new_tokens": int(words.get("tokens", 128)), "temperature": float(words.get("temperature", 0))}
    for piece in stream(model, tokenizer, ids, **settings):
        first = first or time.perf_counter() - began
        pieces.append(piece)
    return first, time.perf_counter() - began, pieces[-1].tokens, pieces[-1].text


def summary(found: list[tuple[float, float, int, str]]) -> dict:
    steady = [(count - 1) / (whole - first) for first, whole, count, _ in found if count > 1]
    return {
        "new_tokens": found[0][2],
        "tokens_per_second": round(statistics.median(steady), 1) if steady else None,
        "slowest": round(min(steady), 1) if steady else None,
        "fastest": round(max(steady), 1) if steady else None,
        "with_the_first": round(statistics.median(count / whole for _, whole, count, _ in found), 1),
        "first_token_ms": round(1000 * statistics.median(first for first, *_ in found), 1),
        "md5": hashlib.md5(found[0][3].encode()).hexdigest(),
        "equal_replies": len({text for *_, text in found}) == 1,
    }


def main(words: dict[str, str]) -> None:
    from llama_exp.model.kernels import decode_step
    from llama_exp.model.kernels.decoder_layer import keep_in_memory
    from llama_exp.model.lora import causal_lm

    if words.get("graph") == "false":
        decode_step.GRAPH_FROM = sys.maxsize
    model, tokenizer, ids = load(words)
    with keep_in_memory(causal_lm(model), words.get("kept") != "false"):
        reply(model, tokenizer, ids, words)  # what only the first reply pays for
        found = [reply(model, tokenizer, ids, words) for _ in range(int(words.get("replies", 8)))]
    result = {**words, **summary(found), "device": "CPU", "torch": torch.__version__}
    if next(model.parameters()).is_cuda:
        result["device"] = torch.cuda.get_device_name()
        result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(dict(word.split("=", 1) for word in sys.argv[1:]))
