"""One evaluation of one cell: the replies, the scores and what its folder holds. `evaluate.py` is the recipe that uses it.

eval/squad-test-300/predictions.jsonl    a line a reply, written as they come: a killed evaluation continues
eval/squad-test-300/cost.json            what the answers have cost so far, those before a kill included
eval/squad-test-300/scores.jsonl         every item's scores, for tables and comparisons
eval/squad-test-300/results.json         scores, config, cost; written last and whole
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_exp.config.identity import flat, identity
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.metrics import measure
from llama_exp.overlap import audit
from llama_exp.records import Example, Prediction
from llama_exp.report.words import number
from llama_exp.runs.files import json_line, read_predictions, write_json, write_jsonl
from llama_exp.runs.run import run as runs
from llama_exp.runs.scores import SCORES, write_scores
from llama_exp.statistics import Interval, interval, ratio_interval, statistic_interval
from llama_exp.statistics.words import plus_minus

NO_ANSWER = "\ufffd"  # of an id that is not in a predictions file: unlike "", it matches no reference, not even one of signs alone
COST = ("seconds", "tokens", "peak_memory_bytes")


def done(folder: Path) -> dict[str, Any] | None:
    """This evaluation's results; None where there are none. Damaged ones are made again, from the replies that are there."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        print(f"  {path} is damaged: scored anew.", flush=True)
        return None
    return results if isinstance(results, dict) else None


def answer(folder: Path, asked: Config, examples: Sequence[Example], model, tokenizer) -> tuple[list[Prediction], dict]:
    """Reply to every Example that `predictions.jsonl` does not hold yet, and measure how likely its response is.

    Returns all Predictions in the Examples' order, and what they cost: {"seconds", "tokens", "peak_memory_bytes"}, all None
    where that is not known of those that an earlier process made.
    """
    from llama_exp.data.encoding import encode_prompts, with_responses
    from llama_exp.generation import answers
    from llama_exp.model.base.memory import forget_peak, peak_memory

    started = time.perf_counter()
    device = next(model.parameters()).device
    forget_peak(device)
    path = folder / "predictions.jsonl"
    answered = {prediction.id: prediction for prediction in read_predictions(path)} if path.is_file() else {}
    wanted = {example.id: example for example in examples}
    answered = {
        key: replace(was, response=wanted[key].response, system=wanted[key].system, history=wanted[key].history)
        for key, was in answered.items()
        if key in wanted and answers_it(was, wanted[key])
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
            write_json(folder / "cost.json", total(before, time.perf_counter() - started, tokens, peak_memory(device)))
            end = "\n" if len(answered) == len(examples) else ""
            print(f"\r  answered {len(answered)}/{len(examples)}", end=end, flush=True)
    cost = total(before, time.perf_counter() - started, tokens, peak_memory(device))
    predictions = [answered[example.id] for example in examples]
    write_jsonl(path, predictions)  # in their order: scored anew, they give the same interval to the last digit
    return predictions, cost


def answers_it(was: Prediction, example: Example) -> bool:
    """Whether a reply that is there is one to this Example. What a file of an earlier version lacks is not compared."""
    same = (was.prompt, was.references) == (example.prompt, example.references)
    before = (was.response, was.system, was.history) == (example.response, example.system, example.history)
    return same and (before or not was.told)


def cost_so_far(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return dict.fromkeys(COST)


def total(before: dict[str, Any], seconds: float, tokens: int, peak: int) -> dict[str, Any]:
    """The cost of earlier processes and of this one; unknown where the former is."""
    if any(before.get(key) is None for key in COST):
        return dict.fromkeys(COST)
    now = (round(before["seconds"] + seconds, 3), before["tokens"] + tokens, max(before["peak_memory_bytes"], peak))
    return dict(zip(COST, now, strict=True))


def answers_lost(asked: Config, examples: Sequence[Example], predictions: Sequence[Prediction], tokenizer) -> int:
    """Of how many Examples the answer stood in a context that had to be cut, and stands there no longer."""
    from llama_exp.data import DATASETS
    from llama_exp.data.encoding import encode_all

    cut = [example for example, prediction in zip(examples, predictions, strict=True) if prediction.shortened]
    _, counts = encode_all(
        cut, tokenizer, asked.max_length, asked.dataset.max_new_tokens, DATASETS[asked.dataset.name].answers_in_context
    )
    return counts["answers_lost"]


@dataclass(frozen=True, slots=True)
class Scored:
    """{score: value}, {score: its 95 % interval, clustered by group}, {score: [value per item]}, {metric: its facts}."""

    values: dict[str, float]
    intervals: dict[str, Interval]
    items: dict[str, list[float]]
    facts: dict[str, dict[str, Any]]


def metric_settings(asked: Config) -> dict[str, Any]:
    """{metric: its part of the config}, for those that have one and are asked for."""
    return {name: part for name, part in {"bertscore": asked.bertscore}.items() if name in asked.dataset.metrics}


def score(predictions: Sequence[Prediction], asked: Config) -> Scored:
    """The metrics of the dataset in percent; loss in nats a token; perplexity."""
    if not predictions:
        raise UserError("Nothing to score: there is no held-out Example.")
    groups = [prediction.group for prediction in predictions]
    scored = Scored({}, {}, {}, {})
    for name in asked.dataset.metrics:
        found = measure(name, predictions, metric_settings(asked))
        for key, items in found.items.items():
            scored.values[key] = sum(items) / len(items)
            scored.intervals[key] = interval(items, groups, bounds=found.bounds)
        for key, statistic in found.corpus.items():
            scored.values[key] = statistic(predictions)
            scored.intervals[key] = statistic_interval(statistic, predictions, groups, bounds=(0.0, 100.0))
        scored.items.update(found.items)
        if found.facts:
            scored.facts[name] = found.facts
    measured = [prediction for prediction in predictions if prediction.nll is not None]
    if measured:
        nll, tokens = [p.nll for p in measured], [p.tokens for p in measured]
        scored.values["loss"] = sum(nll) / sum(tokens)
        scored.values["perplexity"] = math.exp(min(scored.values["loss"], 700))
        groups = [prediction.group for prediction in measured]
        scored.intervals["loss"] = ratio_interval(nll, tokens, groups)
        scored.intervals["perplexity"] = ratio_interval(nll, tokens, groups, transform=math.exp)
    return scored


def write_results(
    folder: Path,
    asked: Config,
    trained: Config,
    run: Path,
    predictions: Sequence[Prediction],
    cost: dict,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score the predictions and write scores.jsonl, then results.json; returns the latter."""
    scored = score(predictions, asked)
    write_scores(folder, predictions, scored.items)
    summary = runs.read_summary(run) or {}
    of_train = summary.get("counts", {}).get("train", {})
    results = {
        "scores": scored.values,
        "intervals": {name: dataclasses.asdict(of) for name, of in scored.intervals.items()},
        "facts": scored.facts,
        "clean": clean_part(predictions, audit.clean_items(run, asked, trained, predictions), asked),
        **how_scored(asked),
        "items": len(predictions),
        "groups": len({prediction.group for prediction in predictions}),
        "empty_replies": sum(not prediction.reply.strip() for prediction in predictions),
        "unfinished": sum(not prediction.finished for prediction in predictions),
        "shortened": sum(prediction.shortened for prediction in predictions),
        "unmeasured": sum(prediction.nll is None for prediction in predictions),  # no response, or too long for its row
        "dataset": asked.dataset.name,
        "trained_on": trained.dataset.name if trained.lora.r else None,
        "split": asked.split.value,
        "model": trained.model.name,
        "r": trained.lora.r,
        "sample": trained.sample if trained.lora.r else None,
        "train_examples": of_train.get("sampled"),
        "examples_in_training": of_train.get("encoded"),  # less those whose response is empty or does not fit
        "seed": trained.seed,
        "data_seed": trained.data_seed,
        "run": f"{run.parent.name}/{run.name}",
        "identity": identity(trained),
        "evaluation": {
            key: value
            for key, value in flat(asked).items()
            if key.startswith(("dataset.", "eval_", "max_length", "split"))
        },
        "trainable_parameters": summary.get("trainable_parameters", 0),
        **cost,
        **(extra or {}),
        **runs.provenance(),
    }
    write_json(folder / "results.json", results)
    return results


def clean_part(
    predictions: Sequence[Prediction], clean: Sequence[Prediction] | None, asked: Config
) -> dict[str, Any] | None:
    """The scores on the items that nothing in training overlaps with; without scores where these are all items, or none.

    None where it is not known which they are.
    """
    if clean is None or not 0 < len(clean) < len(predictions):
        return None if clean is None else {"items": len(clean)}
    scored = score(clean, asked)
    intervals = {name: dataclasses.asdict(of) for name, of in scored.intervals.items()}
    return {"items": len(clean), "scores": scored.values, "intervals": intervals}


def how_scored(asked: Config) -> dict[str, Any]:
    """What decides the scores of given predictions; of bertscore.model=auto, what that comes to here."""
    from llama_exp.metrics.bertscore import MATCHING, choose

    settings = {name: dataclasses.asdict(part) for name, part in metric_settings(asked).items()}
    if found := settings.get("bertscore"):
        del found["batch"]
        found["model"], _ = choose(found["model"])
        found["matching"] = MATCHING
    return {"metrics": list(asked.dataset.metrics), "metric_settings": settings}


def up_to_date(folder: Path, results: dict[str, Any], asked: Config) -> bool:
    """Whether results.json and scores.jsonl hold what would be scored now."""
    wanted = how_scored(asked)
    return {key: results.get(key) for key in wanted} == wanted and (folder / SCORES).is_file()


def said(results: dict[str, Any]) -> str:
    """The scores in one line, each with its 95 % interval, percents first, then loss; why there is none, once.

    Also how many items the loss is of, where that is not all of them, and how many replies are empty.
    """
    named, why, items = [], [], results.get("items")
    for name, value in results["scores"].items():
        of = results.get("intervals", {}).get(name) or {}
        if name != "perplexity":
            sure = number(name, value) if of.get("low") is None else plus_minus(value, of["low"], of["high"])
            some = name == "loss" and results.get("unmeasured")
            named.append(f"{name} {sure}" + (f" on {items - some:,} of {items:,} items" if some else ""))
            why += [of["note"]] if of.get("low") is None and of.get("note") else []
    empty = results.get("empty_replies")
    return (
        ", ".join(named)
        + (f" (no interval: {why[0]})" if why else "")
        + (f"; {empty:,} of {items:,} replies are empty" if empty else "")
    )


def official_predictions(
    path: Path, examples: Sequence[Example], everything: Set[str]
) -> tuple[list[Prediction], dict[str, int]]:
    """A predictions file in the official format, {id: text}, as Predictions. `everything`: the ids that `examples` were drawn of.

    Counted are ids that are unknown, known but not drawn, and missing. As in the official script a missing answer scores 0.
    Raises UserError for a file of another shape.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"predictions={path}: cannot be read as JSON ({error}).") from None
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise UserError(f'predictions={path}: wanted one JSON object {{"id": "text"}}, as the official script does.')
    known = {example.id for example in examples}
    counts = {
        "unknown_ids": len(given.keys() - everything),
        "not_drawn": len(given.keys() & everything - known),
        "missing_ids": len(known - given.keys()),
    }
    if len(known & given.keys()) == 0:
        drawn = f" that were drawn; leave eval_sample out to score all {len(everything)}" if counts["not_drawn"] else ""
        raise UserError(
            f"predictions={path}: none of its {len(given)} ids is one of the {len(known)} held-out Examples{drawn}."
        )
    return [
        Prediction(e.id, e.prompt, e.references, given.get(e.id, NO_ANSWER), e.group, tags=e.tags) for e in examples
    ], counts
