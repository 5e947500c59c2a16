"""The run that a reader's words mean, and the words that would train it.

Readers (evaluate, chat, simulation, hub) say dataset, model, LoRA, sample and seeds, as the training command did; the
training keys are the run's own.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from llama_exp.config import command_line
from llama_exp.config.compose import CONF, default_config
from llama_exp.config.identity import RUN_KEYS, flat, identity
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.runs import run as runs

SHOWN = 10  # runs in a message


def find(config: Config) -> Path:
    """The finished run that this config speaks of, by dataset, model, LoRA, sample and seeds.

    The run named by exactly this config comes first; else the one run that agrees in all that a reader says, whatever
    its training keys were. Several such runs are a UserError that says how to tell them apart. With `trained_on` only runs
    of that dataset count, wherever their rows came from.
    """
    dataset = config.trained_on or config.dataset.name
    if dataset not in (known := sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))):
        raise UserError(f"trained_on={dataset}: no such dataset; known: {', '.join(known)}.")
    own = runs.folder_of(config)
    if not config.trained_on and runs.finished(own):
        return own
    if config.out and not config.trained_on:  # that folder and no other
        raise UserError(_unfinished(config, own))
    near = [run for run in _runs(Path(config.outputs) / dataset) if _means(config, dataset, run)]
    if len(near) == 1:
        return near[0]
    if near:
        names = "\n".join(f"  out={run}" for run in near)
        raise UserError(f"{len(near)} runs answer to these words; add the keys they differ in, or choose one:\n{names}")
    told = f"Train it first: {training_command(config)}"
    if others := _others(config, dataset):
        told += f"\nFinished on {dataset}, and what to type for each in place of yours:\n{others}"
    if config.trained_on:
        raise UserError(f"No run below {Path(config.outputs, dataset).absolute()} answers to these words. {told}")
    raise UserError(f"No adapter at {(own / 'adapter').absolute()}. {told}")


def _unfinished(config: Config, folder: Path) -> str:
    """Why `out=` names no finished run, and what to type."""
    if folder.is_dir() and runs.read_config(folder) is not None:
        begun = dataclasses.replace(runs.load_config(folder), out=config.out)
        return (
            f"No adapter at {folder.absolute()}/adapter: its run has not finished. To go on: {training_command(begun)}"
        )
    what = "that folder holds no run" if folder.is_dir() else "there is no such folder"
    return (
        f"out={config.out}: {what} (looked at {folder.absolute()}). Name the folder of a finished run, or leave out=… away "
        "and say the words that trained it: dataset=… sample=… lora.r=…"
    )


def _others(config: Config, dataset: str) -> str:
    """The finished runs of a dataset, a line each: the spoken words in which they differ from the config."""
    mine, lines = flat(config), []
    for run in _runs(Path(config.outputs) / dataset):
        theirs = runs.read_config(run)
        differ = {key: theirs.get(key) for key in _said_of_a_run(config, mine) if theirs.get(key) != mine[key]}
        if "model.name" in differ:
            differ.pop("model.path", None)  # comes with the name
        names = {word: key for key, word in command_line.FIRST_KEYS.items()}
        words = [
            command_line.shell_quoted(f"{names.get(key, key)}={command_line.hydra_value(of)}")
            for key, of in differ.items()
        ]
        lines.append(f"  {' '.join(words)}  ({run.name})")
    shown = lines[:SHOWN]
    return "\n".join(shown + ([f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []))


def _runs(parent: Path) -> list[Path]:
    return sorted(path.parent for path in parent.glob("*/config.yaml") if runs.finished(path.parent))


def _means(config: Config, dataset: str, run: Path) -> bool:
    """Whether a run is one that the reader's words fit. A sample beyond what there is means all there is."""
    mine, theirs = flat(config), runs.read_config(run)
    for key in _said_of_a_run(config, mine):
        if mine[key] != theirs.get(key):
            everything = (runs.read_summary(run) or {}).get("counts", {}).get("train", {}).get("available", 0)
            if key == "sample" and theirs[key] is None and mine[key] and mine[key] >= everything:
                continue
            return False
    return theirs["dataset.name"] == dataset


def _said_of_a_run(config: Config, keys: Iterable[str]) -> list[str]:
    """The keys that say which run is meant; with `trained_on`, those of the dataset speak of what is asked."""
    spoken = [key for key in keys if key in RUN_KEYS or key.split(".")[0] in RUN_KEYS]
    return [key for key in spoken if not (config.trained_on and key.startswith("dataset."))]


def training_command(config: Config) -> str:
    """What to type to train the very run that this config speaks of; with `trained_on`, that dataset's usual one."""
    leaves = identity(config, everything=True)
    if config.trained_on:
        usual = identity(default_config({"dataset": config.trained_on, "model": config.model.name}), everything=True)
        data = {key: value for key, value in usual.items() if key.startswith("dataset.")}
        leaves = {**leaves, **data, "dataset.source": config.dataset.source.value}
    folder = Path(config.out or Path(config.outputs, leaves["dataset.name"], "any"))
    return command_line.command(
        "train.py",
        leaves,
        *command_line.folder_options(folder, leaves["dataset.name"], Path(config.outputs), config.out),
    )
