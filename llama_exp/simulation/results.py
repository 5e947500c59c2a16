"""simulation.json: mean scores with intervals; comparison.json: paired differences of two simulations."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.config.schema import Config
from llama_exp.formatting import format_p_value, plural
from llama_exp.runs.files import write_json
from llama_exp.runs.provenance import provenance
from llama_exp.simulation.conversations import Conversation, count_endings, count_silent
from llama_exp.simulation.page import SAME, if_fewer, write_page
from llama_exp.simulation.scores import SHARES
from llama_exp.simulation.speakers import Speaker
from llama_exp.statistics.comparisons import Difference, holm, paired_difference
from llama_exp.statistics.intervals import mean_interval

if TYPE_CHECKING:
    from llama_exp.simulation.command import SimulateOptions


@dataclass(frozen=True, slots=True)
class Simulation:
    """One line-up of speakers over all openings. `results` is the content of simulation.json."""

    folder: Path
    results: dict[str, Any]
    conversations: list[Conversation]


def write_results(
    folder: Path,
    config: Config,
    options: "SimulateOptions",
    speakers: dict[str, Speaker],
    conversations: Sequence[Conversation],
    batch: int,
) -> dict[str, Any]:
    """Mean scores with 95 % intervals (conversations of one group are one cluster), endings and settings.

    A mean is over the conversations that have the score: `items` of its interval counts them.
    """
    scores, intervals = {}, {}
    for name in dict.fromkeys(name for one in conversations for name in one.scores):
        having = [one for one in conversations if name in one.scores]
        values = [one.scores[name] for one in having]
        scores[name] = sum(values) / len(values)
        bounds = (0.0, 1.0) if name in SHARES else (0.0, float(options.turns)) if name == "turns" else None
        found = mean_interval(values, [one.group for one in having], bounds=bounds)
        intervals[name] = asdict(found) | {"low": found.low and max(found.low, 0.0)}
    results = {
        "name": folder.name,
        "scores": scores,
        "intervals": intervals,
        "endings": count_endings(conversations),
        "conversations": len(conversations),
        "silent": count_silent(conversations),
        "groups": len({one.group for one in conversations}),
        "parts": {side: speaker.as_json() for side, speaker in speakers.items()},
        "words": asdict(options),
        "dataset": config.dataset.name,
        "source": config.dataset.source.value,
        "split": config.split.value,
        "eval_batch": batch,
        "written": time.strftime("%Y-%m-%d"),
        **provenance(),
    }
    write_json(folder / "simulation.json", results)
    return results


def summarize(results: dict[str, Any]) -> str:
    """One line: how many conversations, their endings, the mean scores; (n = …) where a score is undefined in some."""
    count = results["conversations"]
    endings = [f"{number} by {ending}" for ending, number in results["endings"].items()]
    if results["silent"]:
        endings.append(f"{results['silent']} without a word from a model")
    means = (
        f"{name} {value:.3g}{if_fewer(results['intervals'][name]['items'], count)}"
        for name, value in results["scores"].items()
    )
    return f"{plural(count, 'conversation')} ({', '.join(endings)}); {', '.join(means)}"


def compare(first: Simulation, second: Simulation) -> str:
    """Write comparison.json and comparison.html; return their lines for the terminal."""
    differences = paired_differences(first.conversations, second.conversations)
    p_values = [1.0 if found.p_value is None else found.p_value for found in differences.values()]
    adjusted = dict(zip(differences, holm(p_values), strict=True))
    stored = {name: {**asdict(found), "p_adjusted": adjusted[name]} for name, found in differences.items()}
    names = {"first": first.results["name"], "second": second.results["name"]}
    write_json(first.folder / "comparison.json", {**names, "differences": stored})
    page = first.folder / "comparison.html"
    write_page(page, [first, second], stored)
    lines = [
        f"{page}: {names['first']} minus {names['second']}, over the same openings "
        f"(95 % intervals; p adjusted for {len(differences)} scores):"
    ]
    for name, found in differences.items():
        value = SAME if found.low == found.high == 0 else f"{found}, {format_p_value(adjusted[name])}"
        lines.append(f"  {name}: {value}{if_fewer(found.items, len(first.conversations))}")
    return "\n".join(lines)


def paired_differences(first: list[Conversation], second: list[Conversation]) -> dict[str, Difference]:
    """{score: first minus second}, over the openings whose two conversations both have the score."""
    groups = {one.id: one.group for one in first}
    differences = {}
    for name in dict.fromkeys(name for one in first for name in one.scores):
        pairs = [pair for pair in zip(first, second, strict=True) if all(name in one.scores for one in pair)]
        if pairs:
            mine, theirs = ({one.id: one.scores[name] for one in side} for side in zip(*pairs, strict=True))
            differences[name] = paired_difference(mine, theirs, groups)
    return differences
