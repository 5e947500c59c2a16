"""simulation.json and comparison.json: mean scores with intervals, and paired differences of two simulations."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.config.schema import Config
from llama_exp.formatting import plural
from llama_exp.runs.files import write_json
from llama_exp.runs.provenance import provenance
from llama_exp.simulation import conversations
from llama_exp.simulation.conversations import Conversation
from llama_exp.statistics.comparisons import holm, paired
from llama_exp.statistics.intervals import interval

if TYPE_CHECKING:
    from llama_exp.simulation.command import SimulateOptions


def write_results(
    folder: Path, config: Config, options: "SimulateOptions", parts: dict, found: list[Conversation]
) -> dict[str, Any]:
    """simulation.json: mean scores with intervals (conversations of one group are one cluster), endings, settings.

    A mean is over the conversations that have the score: `items` of its interval says how many.
    """
    groups = {conversation.id: conversation.group for conversation in found}
    scores, intervals = {}, {}
    for name in dict.fromkeys(name for conversation in found for name in conversation.scores):
        items = {c.id: c.scores[name] for c in found if name in c.scores}
        scores[name] = sum(items.values()) / len(items)
        bounds = (
            (0.0, 1.0) if name in conversations.SHARES else (0.0, float(options.turns)) if name == "turns" else None
        )
        found_here = interval(list(items.values()), [groups[key] for key in items], bounds=bounds)
        intervals[name] = asdict(found_here) | {"low": found_here.low and max(found_here.low, 0.0)}
    who = {
        side: {
            "named": part.named,
            "run": part.run and f"{part.run.parent.name}/{part.run.name}",
            "system": part.system,
            "model": None if part.script is not None else part.config.model.name,
        }
        for side, part in parts.items()
    }
    results = {
        "name": folder.name,
        "scores": scores,
        "intervals": intervals,
        "endings": conversations.endings(found),
        "conversations": len(found),
        "silent": conversations.silent(found),
        "groups": len(set(groups.values())),
        "parts": who,
        "words": asdict(options),
        "dataset": config.dataset.name,
        "source": config.dataset.source.value,
        "split": config.split.value,
        "eval_batch": config.eval_batch or conversations.AT_ONCE,
        "written": time.strftime("%Y-%m-%d"),
        **provenance(),
    }
    write_json(folder / "simulation.json", results)
    return results


def said(results: dict[str, Any]) -> str:
    """One line: how many, how they ended, the mean scores; of fewer conversations where a score is not defined in all."""
    from llama_exp.simulation.page import of_fewer

    count = results["conversations"]
    ends = [f"{ended} by {why}" for why, ended in results["endings"].items()]
    if results["silent"]:
        ends.append(f"{results['silent']} without a word from a model")
    means = (
        f"{name} {value:.3g}{of_fewer(results['intervals'][name]['items'], count)}"
        for name, value in results["scores"].items()
    )
    return f"{plural(count, 'conversation')} ({', '.join(ends)}); {', '.join(means)}"


def compared(one: tuple, other: tuple) -> str:
    """Paired differences over the same openings, Holm-adjusted over the scores; written, and as lines for a person.

    A pair is an opening whose two conversations both have the score.
    """
    from llama_exp.simulation.page import SAME, of_fewer, p_text, write_page

    folder, results, found = one
    _, results_too, found_too = other
    groups = {conversation.id: conversation.group for conversation in found}
    differences = {}
    for name in results["scores"]:
        pairs = [pair for pair in zip(found, found_too, strict=True) if all(name in c.scores for c in pair)]
        if pairs:
            differences[name] = paired(
                *({c.id: c.scores[name] for c in side} for side in zip(*pairs, strict=True)), groups
            )
    adjusted = dict(
        zip(differences, holm([1.0 if d.p_value is None else d.p_value for d in differences.values()]), strict=True)
    )
    told = {name: {**asdict(d), "p_adjusted": adjusted[name]} for name, d in differences.items()}
    both = {"first": results["name"], "second": results_too["name"], "differences": told}
    write_json(folder / "comparison.json", both)
    write_page(folder / "comparison.html", [(results, found), (results_too, found_too)], told)
    lines = [
        f"  {name}: "
        + (SAME if d.low == d.high == 0 else f"{d}, p {p_text(adjusted[name])}")
        + of_fewer(d.items, len(groups))
        for name, d in differences.items()
    ]
    return "\n".join(
        [
            f"{folder / 'comparison.html'}: {results['name']} minus {results_too['name']}, the same openings "
            f"(95 % intervals; p adjusted for {len(differences)} scores):",
            *lines,
        ]
    )
