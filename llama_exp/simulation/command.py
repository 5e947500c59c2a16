"""Let a client and an agent talk, by a run found by the words that trained it:

    python train.py dataset=tweetsumm dataset.task=turns sample=null lora.r=8              a model that can speak
    python -m llama_exp.simulation dataset=tweetsumm lora.r=8                              it talks with itself
    python -m llama_exp.simulation dataset=tweetsumm lora.r=8 client=script:lines.txt      with a fixed client
    python -m llama_exp.simulation dataset=tweetsumm lora.r=8 client=untuned against=untuned

Its own words, beside those of conf/ (dataset.task is `turns` unless another is typed; eval_batch, else 32, talk at a time):

    client=tuned         who speaks for the client: tuned, untuned, script:FILE (a turn a line) or another run's folder
    agent=tuned          the same for the agent
    against=             another run's folder, or untuned: it takes the place of the tuned one in a second simulation
                         over the same openings, and the two are compared
    conversations=20     how many
    opening=held_out     first messages of held-out conversations (split=, dataset.source=synthetic); client: it makes
                         them up; or a file, a message a line
    turns=12             the most in one conversation, the opening included
    temperature=0.7      0 = greedy; top_p=0.9
    sampling_seed=0      the same seed gives the same conversations, also after an interruption
    client_system=TEXT   another system prompt than that of training; agent_system=TEXT

Writes RUN/simulation/NAME/: conversations.jsonl, conversations.html, simulation.json; with against= comparison.json and
comparison.html too. A conversation ends on a closing, a repeat, silence, the end of a script or the turn limit, and says
which. Typed again, it goes on where it was. More: docs/chat.md.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_exp.cli import options
from llama_exp.cli.main import with_options
from llama_exp.config.compose import register
from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.data.dialogue import SIDES
from llama_exp.errors import UserError
from llama_exp.evaluation.request import dataset_for
from llama_exp.evaluation.sampling import check_sampling
from llama_exp.formatting import plural
from llama_exp.model import hardware
from llama_exp.runs.files import json_line, write_json, write_jsonl
from llama_exp.runs.provenance import provenance
from llama_exp.runs.run import Outcome, Run
from llama_exp.simulation import conversations
from llama_exp.simulation.conversations import Conversation
from llama_exp.statistics.comparisons import holm, paired
from llama_exp.statistics.intervals import interval

AT_ONCE = 32  # conversations, where eval_batch does not say: what a random draw gives depends on it

register()


@dataclass(frozen=True, slots=True)
class Words:
    """The words of this command that are not of conf/."""

    client: str = "tuned"
    agent: str = "tuned"
    against: str | None = None
    conversations: int = 20
    opening: str = "held_out"
    turns: int = 12
    temperature: float = 0.7
    top_p: float = 0.9
    sampling_seed: int = 0
    client_system: str | None = None
    agent_system: str | None = None


def split(words: Sequence[str]) -> tuple[Words, list[str]]:
    """This command's own words, checked; and the rest, which is Hydra's."""
    mine, rest = options.split(words, Words)
    if mine.conversations < 1 or mine.turns < 2:
        raise UserError(f"conversations={mine.conversations} turns={mine.turns}: wanted at least 1 and at least 2.")
    if mine.against is not None and "tuned" not in (mine.client, mine.agent):
        raise UserError("against=… takes the place of the tuned run, and neither client nor agent is tuned.")
    if "dataset=tweetsumm" in rest and not any(word.startswith("dataset.task=") for word in rest):
        rest.append("dataset.task=turns")
    return mine, rest


def simulate(config: Config, words: Words) -> dict[str, str]:
    """Hold the conversations, or go on with them, and say what came of them."""
    from llama_exp.chat.partner import find
    from llama_exp.simulation.cast import cast, openings
    from llama_exp.simulation.page import write_page

    check_sampling(words.temperature, words.top_p)
    tuned, trained = find(config)
    named, systems = (
        {side: getattr(words, side) for side in SIDES},
        {side: getattr(words, f"{side}_system") for side in SIDES},
    )
    parts = [cast(config, tuned, trained, named, systems)]
    if words.against is not None:
        parts.append(cast(config, tuned, trained, named, systems, instead=words.against))
    for part in (part for one in parts for part in one.values() if part.script is None):
        hardware.check(_on(part.config, config))
    beginnings = openings(_unlearnt(config, trained) if tuned else config, words.opening, words.conversations)
    home = tuned or Run.of(config).folder
    held = []
    for one in parts:
        folder = home / "simulation" / folder_name(config, words, one, beginnings)
        found = hold(folder, config, words, one, beginnings)
        results = write_results(folder, config, words, one, found)
        write_page(folder / "conversations.html", [(results, found)])
        print(f"{folder}: {said(results)}\n  To read: {folder}/conversations.html", flush=True)
        held.append((folder, results, found))
    told = said(held[0][1])
    if len(held) == 2:
        told = compared(held[0], held[1])
        print(told, flush=True)
    return Outcome(told, home)


def _unlearnt(config: Config, trained: Config) -> Config:
    """The config with the run's own split of its data: openings by another split may be what the run has learnt."""
    same_task = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, task=trained.dataset.task))
    data = dataset_for(same_task, trained)
    return dataclasses.replace(config, dataset=dataclasses.replace(data, task=config.dataset.task))


def _on(config: Config, asked: Config) -> Config:
    return dataclasses.replace(config, trainer=asked.trainer)


def folder_name(config: Config, words: Words, parts: dict, beginnings: list) -> str:
    """`tuned-tuned-20-3fa4c1`: who talks, how often, and a digest of all that decides what is said."""
    asked = {key: value for key, value in asdict(words).items() if key not in ("client", "agent", "against")}
    who = {side: [str(part.run), part.named, part.system, part.script] for side, part in parts.items()}
    begun = [[opening.id, opening.text] for opening in beginnings]
    about = {key: value for key, value in flat(config).items() if key in ("eval_batch", "model.path", "max_length")}
    text = json.dumps([asked, who, begun, about], sort_keys=True)
    heads = [Path(part.named.removeprefix("script:")).stem[:40] for part in parts.values()]
    return "-".join([*heads, str(len(beginnings)), hashlib.sha256(text.encode()).hexdigest()[:6]])


def hold(folder: Path, config: Config, words: Words, parts: dict, beginnings: list) -> list[Conversation]:
    """All conversations, in the openings' order; those that are on disk are not held again.

    `eval_batch`, else 32, talk at a time, from opening to end, and are written when all of them are over: what a random draw gives
    depends on who shares the batch, so a batch that a kill broke off is held again as a whole, with the same outcome.
    """
    path = folder / "conversations.jsonl"
    wanted = {opening.id for opening in beginnings}
    done = {found.id: found for found in conversations.read(path) if found.id in wanted}
    at_once = config.eval_batch or AT_ONCE
    batches = [beginnings[start : start + at_once] for start in range(0, len(beginnings), at_once)]
    left = [batch for batch in batches if any(opening.id not in done for opening in batch)]
    for opening in (opening for batch in left for opening in batch):
        done.pop(opening.id, None)
    write_jsonl(path, done.values())
    if left:
        speakers = " and ".join(f"{side} {part.named}" for side, part in parts.items())
        count = sum(len(batch) for batch in left)
        print(
            f"{speakers}: {plural(count, 'conversation')} of up to {words.turns} turns, {min(at_once, count)} at a time.",
            flush=True,
        )
        from llama_exp.simulation.talking import Stage

        if done:
            print(f"  continuing: {len(done)} of {len(beginnings)} are held", flush=True)
        with Stage(config, words, parts) as stage, open(path, "a", encoding="utf-8") as file:
            for batch in left:
                for conversation in map(conversations.scored, stage.talk(batch)):
                    done[conversation.id] = conversation
                    file.write(json_line(conversation))
                file.flush()
                end = "\n" if len(done) == len(beginnings) else ""
                print(f"\r  held {len(done)}/{len(beginnings)}", end=end, flush=True)
    return [done[opening.id] for opening in beginnings]


def write_results(folder: Path, config: Config, words: Words, parts: dict, found: list[Conversation]) -> dict[str, Any]:
    """simulation.json: mean scores with intervals (conversations of one group are one cluster), endings, settings.

    A mean is over the conversations that have the score: `items` of its interval says how many.
    """
    groups = {conversation.id: conversation.group for conversation in found}
    scores, intervals = {}, {}
    for name in dict.fromkeys(name for conversation in found for name in conversation.scores):
        items = {c.id: c.scores[name] for c in found if name in c.scores}
        scores[name] = sum(items.values()) / len(items)
        bounds = (0.0, 1.0) if name in conversations.SHARES else (0.0, float(words.turns)) if name == "turns" else None
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
        "words": asdict(words),
        "dataset": config.dataset.name,
        "source": config.dataset.source.value,
        "split": config.split.value,
        "eval_batch": config.eval_batch or AT_ONCE,
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


def main() -> None:
    with_options(__doc__, split, simulate)
