"""The replies of a model to held-out Examples, written as they come so that a killed evaluation continues."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_exp.config.schema import Config
from llama_exp.records import Example, Prediction
from llama_exp.runs.files import json_line, read_predictions, write_json, write_jsonl

COST = ("seconds", "tokens", "peak_memory_bytes")


def reply_to_all(
    folder: Path, asked: Config, examples: Sequence[Example], model, tokenizer
) -> tuple[list[Prediction], dict]:
    """Reply to every Example that `predictions.jsonl` does not hold yet, and measure how likely its response is.

    Returns all Predictions in the Examples' order, and what they cost: {"seconds", "tokens", "peak_memory_bytes"}, all None
    where that is not known of those that an earlier process made.
    """
    from llama_exp.data.encoding import encode_prompts, with_responses
    from llama_exp.evaluation.generation import answers
    from llama_exp.model.memory import forget_peak, peak_memory

    started = time.perf_counter()
    device = next(model.parameters()).device
    forget_peak(device)
    path = folder / "predictions.jsonl"
    answered = {prediction.id: prediction for prediction in read_predictions(path)} if path.is_file() else {}
    wanted = {example.id: example for example in examples}
    answered = {
        key: replace(was, response=wanted[key].response, system=wanted[key].system, history=wanted[key].history)
        for key, was in answered.items()
        if key in wanted and answers_example(was, wanted[key])
    }
    write_jsonl(path, answered.values())  # without the line that a kill cut short
    before = cost_so_far(folder) if answered else dict.fromkeys(COST, 0)
    left = [example for example in examples if example.id not in answered]
    if answered and left:
        print(f"  continuing: {len(answered)} of {len(examples)} are answered", flush=True)
    limit = asked.max_length - asked.dataset.max_new_tokens
    prompts, shortened = encode_prompts(left, tokenizer, limit)
    measured = with_responses(left, prompts, tokenizer, asked.max_length)
    tokens = 0
    with open(path, "a", encoding="utf-8") as file:
        for replies in answers(
            model, tokenizer, prompts, measured, max_new_tokens=asked.dataset.max_new_tokens, batch=asked.eval_batch
        ):
            for reply in replies:
                example = left[reply.place]
                count = measured[reply.place].label_tokens if measured[reply.place] else 0
                answered[example.id] = Prediction(
                    example.id,
                    example.prompt,
                    example.references,
                    reply.text,
                    example.group,
                    reply.nll,
                    count,
                    reply.finished,
                    reply.place in shortened,
                    example.tags,
                    example.response,
                    example.system,
                    example.history,
                )
                tokens += len(prompts[reply.place]) + count + reply.tokens
                file.write(json_line(answered[example.id]))
            file.flush()
            write_json(
                folder / "cost.json", total_cost(before, time.perf_counter() - started, tokens, peak_memory(device))
            )
            end = "\n" if len(answered) == len(examples) else ""
            print(f"\r  answered {len(answered)}/{len(examples)}", end=end, flush=True)
    cost = total_cost(before, time.perf_counter() - started, tokens, peak_memory(device))
    predictions = [answered[example.id] for example in examples]
    write_jsonl(path, predictions)  # in their order: scored anew, they give the same interval to the last digit
    return predictions, cost


def answers_example(was: Prediction, example: Example) -> bool:
    """Whether a reply that is there is one to this Example. What a file of an earlier version lacks is not compared."""
    same = (was.prompt, was.references) == (example.prompt, example.references)
    before = (was.response, was.system, was.history) == (example.response, example.system, example.history)
    return same and (before or not was.told)


def cost_so_far(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return dict.fromkeys(COST)


def total_cost(before: dict[str, Any], seconds: float, tokens: int, peak: int) -> dict[str, Any]:
    """The cost of earlier processes and of this one; unknown where the former is."""
    if any(before.get(key) is None for key in COST):
        return dict.fromkeys(COST)
    now = (round(before["seconds"] + seconds, 3), before["tokens"] + tokens, max(before["peak_memory_bytes"], peak))
    return dict(zip(COST, now, strict=True))
