"""The whole simulation: openings, conversations (resumed where an earlier command stopped), results, pages,
comparison."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_exp.chat.session import find_run_or_untuned
from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.evaluation.request import dataset_for
from llama_exp.evaluation.sampling import check_sampling
from llama_exp.formatting import plural
from llama_exp.model import hardware
from llama_exp.runs.files import json_line, remove_leftovers, write_jsonl
from llama_exp.runs.run import Outcome, Run
from llama_exp.simulation.conversations import Conversation, read_conversations
from llama_exp.simulation.openings import Opening, load_openings
from llama_exp.simulation.page import write_page
from llama_exp.simulation.results import Simulation, compare, summarize, write_results
from llama_exp.simulation.scores import with_scores
from llama_exp.simulation.speakers import Speaker, choose_speakers

if TYPE_CHECKING:
    from llama_exp.simulation.command import SimulateOptions

BATCH = 32  # conversations, unless eval_batch says otherwise; random draws depend on it


def run_simulation(config: Config, options: "SimulateOptions") -> Outcome:
    """Simulate, or continue, the conversations; with against=… a second time, compared with the first."""
    check_sampling(options.temperature, options.top_p)
    run = find_run_or_untuned(config)
    line_ups = [choose_speakers(config, run, options)]
    if options.against is not None:
        line_ups.append(choose_speakers(config, run, options, replacement=options.against))
    for speaker in (speaker for speakers in line_ups for speaker in speakers.values()):
        if speaker.script is None:
            hardware.check(replace(speaker.config, trainer=config.trainer))
    data = config if run.is_untuned else with_split_of(run, config)
    openings = load_openings(data, options.opening, options.conversations)
    simulations = []
    remove_leftovers(run.folder / "simulation")
    for speakers in line_ups:
        folder = run.folder / "simulation" / folder_name(config, options, speakers, openings)
        conversations = simulate_conversations(folder, config, options, speakers, openings)
        results = write_results(folder, config, options, speakers, conversations, config.eval_batch or BATCH)
        simulations.append(Simulation(folder, results, conversations))
        write_page(folder / "conversations.html", simulations[-1:])
        print(f"{folder}: {summarize(results)}\n  To read: {folder}/conversations.html", flush=True)
    message = summarize(simulations[0].results)
    if len(simulations) == 2:
        message = compare(*simulations)
        print(message, flush=True)
    return Outcome(message, run.folder)


def with_split_of(run: Run, config: Config) -> Config:
    """The config with the run's own split of its data: another split could hold what the run was trained on."""
    same_task = replace(config, dataset=replace(config.dataset, task=run.config.dataset.task))
    dataset = dataset_for(same_task, run.config)
    return replace(config, dataset=replace(dataset, task=config.dataset.task))


def folder_name(
    config: Config, options: "SimulateOptions", speakers: dict[str, Speaker], openings: list[Opening]
) -> str:
    """`tuned-tuned-20-3fa4c1`: the speakers, the number of conversations, and a hash of all that decides their text."""
    settings = {key: value for key, value in asdict(options).items() if key not in ("client", "agent", "against")}
    who = {side: [str(one.run and one.run.folder), one.name, one.system, one.script] for side, one in speakers.items()}
    texts = [[opening.id, opening.text] for opening in openings]
    shared = {key: value for key, value in flat(config).items() if key in ("eval_batch", "model.path", "max_length")}
    digest = hashlib.sha256(json.dumps([settings, who, texts, shared], sort_keys=True).encode()).hexdigest()[:6]
    names = [Path(speaker.name.removeprefix("script:")).stem[:40] for speaker in speakers.values()]
    return "-".join([*names, str(len(openings)), digest])


def simulate_conversations(
    folder: Path, config: Config, options: "SimulateOptions", speakers: dict[str, Speaker], openings: list[Opening]
) -> list[Conversation]:
    """All conversations, in the openings' order; those on disk are not simulated again.

    A batch (`eval_batch`, else 32) is written when all its conversations are over. Random draws depend on who shares a
    batch, so a batch that a kill interrupted is simulated again as a whole, with the same outcome.
    """
    path, size = folder / "conversations.jsonl", config.eval_batch or BATCH
    ids = {opening.id for opening in openings}
    done = {one.id: with_scores(one) for one in read_conversations(path) if one.id in ids}
    batches = [openings[start : start + size] for start in range(0, len(openings), size)]
    remaining = [batch for batch in batches if any(opening.id not in done for opening in batch)]
    for opening in (opening for batch in remaining for opening in batch):
        done.pop(opening.id, None)
    write_jsonl(path, done.values())
    if remaining:
        names = " and ".join(f"{side} {speaker.name}" for side, speaker in speakers.items())
        count = sum(map(len, remaining))
        print(
            f"{names}: {plural(count, 'conversation')} of up to {options.turns} turns, {min(size, count)} at a time.",
            flush=True,
        )
        if done:
            print(f"  continuing: {len(done)} of {len(openings)} are done", flush=True)
        from llama_exp.simulation.simulator import load_simulator

        simulator = load_simulator(config, options, speakers)
        with open(path, "a", encoding="utf-8") as file:
            for batch in remaining:
                for conversation in map(with_scores, simulator.simulate(batch)):
                    done[conversation.id] = conversation
                    file.write(json_line(conversation))
                file.flush()
                end = "\n" if len(done) == len(openings) else ""
                print(f"\r  simulated {len(done)}/{len(openings)}", end=end, flush=True)
    return [done[opening.id] for opening in openings]
