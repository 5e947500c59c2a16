"""Simulate conversations: one per opening, resumed where an earlier command stopped, then scored and written."""

import dataclasses
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.data.dialogue import SIDES
from llama_exp.evaluation.request import dataset_for
from llama_exp.evaluation.sampling import check_sampling
from llama_exp.formatting import plural
from llama_exp.model import hardware
from llama_exp.runs.files import json_line, write_jsonl
from llama_exp.runs.run import Outcome, Run
from llama_exp.simulation import conversations
from llama_exp.simulation.conversations import Conversation
from llama_exp.simulation.results import compared, said, write_results

if TYPE_CHECKING:
    from llama_exp.simulation.command import SimulateOptions


def simulate(config: Config, options: "SimulateOptions") -> Outcome:
    """Hold the conversations, or go on with them, and say what came of them."""
    from llama_exp.chat.session import find
    from llama_exp.simulation.page import write_page
    from llama_exp.simulation.speakers import cast, openings

    check_sampling(options.temperature, options.top_p)
    tuned, trained = find(config)
    named, systems = (
        {side: getattr(options, side) for side in SIDES},
        {side: getattr(options, f"{side}_system") for side in SIDES},
    )
    parts = [cast(config, tuned, trained, named, systems)]
    if options.against is not None:
        parts.append(cast(config, tuned, trained, named, systems, instead=options.against))
    for part in (part for one in parts for part in one.values() if part.script is None):
        hardware.check(_on(part.config, config))
    beginnings = openings(_unlearnt(config, trained) if tuned else config, options.opening, options.conversations)
    home = tuned or Run.of(config).folder
    held = []
    for one in parts:
        folder = home / "simulation" / folder_name(config, options, one, beginnings)
        found = hold(folder, config, options, one, beginnings)
        results = write_results(folder, config, options, one, found)
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


def folder_name(config: Config, options: "SimulateOptions", parts: dict, beginnings: list) -> str:
    """`tuned-tuned-20-3fa4c1`: who talks, how often, and a digest of all that decides what is said."""
    asked = {key: value for key, value in asdict(options).items() if key not in ("client", "agent", "against")}
    who = {side: [str(part.run), part.named, part.system, part.script] for side, part in parts.items()}
    begun = [[opening.id, opening.text] for opening in beginnings]
    about = {key: value for key, value in flat(config).items() if key in ("eval_batch", "model.path", "max_length")}
    text = json.dumps([asked, who, begun, about], sort_keys=True)
    heads = [Path(part.named.removeprefix("script:")).stem[:40] for part in parts.values()]
    return "-".join([*heads, str(len(beginnings)), hashlib.sha256(text.encode()).hexdigest()[:6]])


def hold(folder: Path, config: Config, options: "SimulateOptions", parts: dict, beginnings: list) -> list[Conversation]:
    """All conversations, in the openings' order; those that are on disk are not held again.

    `eval_batch`, else 32, talk at a time, from opening to end, and are written when all of them are over: what a random draw gives
    depends on who shares the batch, so a batch that a kill broke off is held again as a whole, with the same outcome.
    """
    path = folder / "conversations.jsonl"
    wanted = {opening.id for opening in beginnings}
    done = {found.id: found for found in conversations.read(path) if found.id in wanted}
    at_once = config.eval_batch or conversations.AT_ONCE
    batches = [beginnings[start : start + at_once] for start in range(0, len(beginnings), at_once)]
    left = [batch for batch in batches if any(opening.id not in done for opening in batch)]
    for opening in (opening for batch in left for opening in batch):
        done.pop(opening.id, None)
    write_jsonl(path, done.values())
    if left:
        speakers = " and ".join(f"{side} {part.named}" for side, part in parts.items())
        count = sum(len(batch) for batch in left)
        print(
            f"{speakers}: {plural(count, 'conversation')} of up to {options.turns} turns, {min(at_once, count)} at a time.",
            flush=True,
        )
        from llama_exp.simulation.simulator import Stage

        if done:
            print(f"  continuing: {len(done)} of {len(beginnings)} are held", flush=True)
        with Stage(config, options, parts) as stage, open(path, "a", encoding="utf-8") as file:
            for batch in left:
                for conversation in map(conversations.scored, stage.talk(batch)):
                    done[conversation.id] = conversation
                    file.write(json_line(conversation))
                file.flush()
                end = "\n" if len(done) == len(beginnings) else ""
                print(f"\r  held {len(done)}/{len(beginnings)}", end=end, flush=True)
    return [done[opening.id] for opening in beginnings]
