"""The replies of a model to held-out Examples, written as they come so that a killed evaluation continues.

eval/squad-test-300/predictions.jsonl    a line per reply
eval/squad-test-300/cost.json            seconds, tokens and peak memory so far, of earlier processes too
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.console import Countdown
from llama_exp.data.encoding import HeldOutTokens, encode_held_out
from llama_exp.evaluation.request import EvaluationRequest
from llama_exp.records import Example, Prediction
from llama_exp.runs.files import json_line, read_json_or_nothing, read_predictions, write_json, write_jsonl
from llama_exp.sanitize import as_float, as_int

if TYPE_CHECKING:
    from llama_exp.evaluation.generation import Reply

COST = ("seconds", "tokens", "peak_memory_bytes")


def encode(request: EvaluationRequest, examples: list[Example], data) -> HeldOutTokens:
    """What is held out, encoded; the runs of a sweep, which answer the same, share it."""
    config = request.config
    settings = data.tokenizer, config.max_length, config.dataset.max_new_tokens, data.answers_in_context
    name = f"answers of {config.split.value}" if request.generate else "forgetting"
    return data.cache.encoded(name, settings, examples, lambda: encode_held_out(examples, *settings))


def reply_to_all(
    request: EvaluationRequest, examples: list[Example], data, model
) -> tuple[list[Prediction], dict[str, Any], int]:
    """Reply to every Example that `predictions.jsonl` does not hold yet, and measure how likely its response is.

    Returns all Predictions in the Examples' order; their cost {"seconds", "tokens", "peak_memory_bytes"}, all None
    where the cost of those that an earlier process made is not known; and how many answers were cut away with their
    context.
    """
    from llama_exp.evaluation.generation import answers
    from llama_exp.model.memory import peak_memory, reset_peak_memory

    config, path = request.config, request.folder / "predictions.jsonl"
    started = time.perf_counter()
    device = next(model.parameters()).device
    reset_peak_memory(device)
    answered = stored_predictions(path, examples)
    write_jsonl(path, answered.values())  # without the line that a kill cut short
    before = stored_cost(request.folder) if answered else dict.fromkeys(COST, 0)
    missing = [index for index, example in enumerate(examples) if example.id not in answered]
    if answered and missing:
        print(f"  continuing: {len(answered)} of {len(examples)} are answered", flush=True)
    encoded = encode(request, examples, data)
    prompts = [encoded.prompts[index] for index in missing]
    measured = [encoded.responses[index] for index in missing]
    tokens = 0

    def cost() -> dict[str, Any]:
        return total_cost(before, time.perf_counter() - started, tokens, peak_memory(device))

    new = config.dataset.max_new_tokens if request.generate else 0
    countdown = Countdown("answered", len(examples), len(answered))
    with countdown, open(path, "a", encoding="utf-8") as file:
        for replies in answers(model, data.tokenizer, prompts, measured, max_new_tokens=new, batch=config.eval_batch):
            for reply in replies:
                index, target = missing[reply.index], measured[reply.index]
                example, measured_tokens = examples[index], target.label_tokens if target else 0
                prediction = prediction_of(example, reply, measured_tokens, index in encoded.shortened)
                answered[example.id] = prediction
                tokens += len(prompts[reply.index]) + prediction.tokens + reply.tokens
                file.write(json_line(prediction))
            file.flush()
            write_json(request.folder / "cost.json", cost())
            countdown.add(len(replies))
    total = cost()
    predictions = [answered[example.id] for example in examples]
    write_jsonl(path, predictions)  # in a fixed order: scoring them again gives the same interval to the last digit
    return predictions, total, encoded.answers_lost


def prediction_of(example: Example, reply: "Reply", tokens: int, shortened: bool) -> Prediction:
    """tokens: how many the likelihood in `reply` runs over."""
    return Prediction(
        id=example.id,
        prompt=example.prompt,
        references=example.references,
        reply=reply.text,
        group=example.group,
        nll=reply.nll,
        tokens=tokens,
        finished=reply.finished,
        shortened=shortened,
        tags=example.tags,
        response=example.response,
        system=example.system,
        history=example.history,
    )


def stored_predictions(path: Path, examples: Sequence[Example]) -> dict[str, Prediction]:
    """{id: prediction} of an earlier process, for the Examples that have not changed since."""
    if not path.is_file():
        return {}
    by_id = {example.id: example for example in examples}
    stored = {prediction.id: prediction for prediction in read_predictions(path)}
    return {
        name: replace(prediction, response=by_id[name].response, system=by_id[name].system, history=by_id[name].history)
        for name, prediction in stored.items()
        if name in by_id and is_for(prediction, by_id[name])
    }


def is_for(prediction: Prediction, example: Example) -> bool:
    """Whether a stored reply answers this very Example. What a file of an earlier version lacks is not compared."""
    same = (prediction.prompt, prediction.references) == (example.prompt, example.references)
    context = (prediction.response, prediction.system, prediction.history)
    return same and (not prediction.has_context or context == (example.response, example.system, example.history))


def stored_cost(folder: Path) -> dict[str, Any]:
    """cost.json; None for what is not there, or no number."""
    stored = read_json_or_nothing(folder / "cost.json")
    return {key: (as_float if key == "seconds" else as_int)(stored.get(key)) for key in COST}


def total_cost(before: dict[str, Any], seconds: float, tokens: int, peak: int) -> dict[str, Any]:
    """The cost of earlier processes and of this one together; None where the former is not known."""
    if any(before.get(key) is None for key in COST):
        return dict.fromkeys(COST)
    total = (round(before["seconds"] + seconds, 3), before["tokens"] + tokens, max(before["peak_memory_bytes"], peak))
    return dict(zip(COST, total, strict=True))
