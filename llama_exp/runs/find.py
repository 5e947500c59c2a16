"""The run that a command means, and the command that would train it.

Commands that read a run (evaluate, chat, simulate, publish) name its dataset, model, LoRA, sample and seeds, as the
training command did. Other training keys (optimizer.lr, batch …) select a run where they are typed; the rest comes from
the run itself.
"""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_exp.config.command_line import FIRST_KEYS, command, folder_options, hydra_value, shell_quoted, with_override
from llama_exp.config.compose import (
    choices,
    dataset_target,
    default_config,
    explicit_keys,
    typed_arguments,
    typed_program,
)
from llama_exp.config.identity import RUN_KEYS, flat, identity
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.runs.adapter import damaged_adapter, incomplete_adapter
from llama_exp.runs.run import Run
from llama_exp.runs.stored import leaves, read_yaml
from llama_exp.runs.summary import read_summary
from llama_exp.sanitize import clean, reason

SHORT_NAMES = {key: name for name, key in FIRST_KEYS.items()}
SHOWN = 10  # runs listed in a message


def find_run(config: Config) -> Run:
    """The finished run that this config means: same dataset, model, LoRA, sample, seeds and typed training keys.

    The run named by exactly this config comes first; else the one run that agrees in all of these, whatever its
    other training keys were. With `trained_on` only runs of that dataset count, wherever their rows came from.
    Raises UserError where no run or several match, with the commands that tell them apart, and where its data are read
    by a class that this command does not offer.
    """
    run = _find_run(config)
    _check_class(run, config)
    return run


def _check_class(run: Run, config: Config) -> None:
    """The class that a run's config.yaml names is compared with the reader's own, and never imported."""
    name = run.config.dataset.name
    own = config.dataset._target_ if config.dataset.name == name else dataset_target(name)
    stored = leaves(read_yaml(run.folder / "config.yaml")).get("dataset._target_")
    if stored != own:
        raise UserError(
            f"{run.folder} was trained on data that {clean(stored or 'llama_exp itself', 100)} reads, and here "
            f"dataset={name} is read by {own or 'llama_exp itself'}. Name the folder whose dataset/{name}.yaml has "
            "that class: --config-dir FOLDER."
        )


def _find_run(config: Config) -> Run:
    dataset = config.trained_on or config.dataset.name
    if dataset not in (known := choices("dataset")):
        raise UserError(f"trained_on={dataset}: no such dataset; known: {', '.join(known)}.")
    exact = Run.of(config)
    if not config.trained_on and exact.is_finished:
        return Run.load(exact.folder)  # with the config it was trained by: `out=` names a folder and little else
    if config.out and not config.trained_on:  # that folder and no other
        raise UserError(_why_unfinished(exact))
    parent = Path(config.outputs) / dataset
    keys = _selecting_keys(config)
    matches = [run for run in finished_runs(parent) if _matches(config, keys, dataset, run)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"{len(matches)} runs match; add what tells them apart, or out=FOLDER:\n{_apart(matches)}")
    advice = f"Train it first: {training_command(config)}"
    if others := _other_runs(config, keys, parent):
        advice += f"\n{others}"
    if config.trained_on:
        raise UserError(f"No run below {parent.absolute()} matches. {advice}")
    raise UserError(f"{_why_untrained(exact)} {advice}")


def finished_runs(parent: Path) -> list[Run]:
    """The finished runs whose folders lie directly below `parent`, by name; not those whose config cannot be read."""
    runs = []
    for path in sorted(parent.glob("*/config.yaml")):
        with contextlib.suppress(UserError):
            runs.append(Run.load(path.parent))
    return [run for run in runs if run.is_finished]


def _why_unfinished(run: Run) -> str:
    """Why `out=` names no finished run, and what to type."""
    folder = run.folder
    if run.exists:
        stored = dataclasses.replace(Run.load(folder).config, out=run.config.out)
        return f"{_why_untrained(run)} To continue: {training_command(stored)}"
    what = "that folder holds no run" if folder.is_dir() else "there is no such folder"
    return (
        f"out={run.config.out}: {what} (looked at {folder.absolute()}). Name the folder of a finished run, or leave "
        "out=… away and name the keys that trained it: dataset=… sample=… lora.r=…"
    )


def _why_untrained(run: Run) -> str:
    """Why a run does not count as finished."""
    path = run.folder / "summary.json"
    part = ""
    try:
        summary = read_summary(run.folder)
        ended_well, part = summary.ended_well, f" ({summary.status})" * summary.is_part
    except FileNotFoundError:
        ended_well = False
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({reason(error)}): only it says whether training ended well."
    if ended_well:
        return incomplete_adapter(run.adapter)
    what = f": its run has not finished{part}" if run.exists else ""
    return f"No adapter at {run.adapter.absolute()}{what}."


def check_adapter(folder: Path) -> None:
    """Raise UserError where an adapter is not the one that its training saved, with the command that makes it again."""
    if problem := damaged_adapter(folder):
        again = "train it again"
        with contextlib.suppress(UserError):  # an adapter from elsewhere has no run
            run = Run.load(folder.parent)
            out = str(run.folder) if run.config.out else None
            again += f", which puts the damaged one aside: {training_command(dataclasses.replace(run.config, out=out))}"
        raise UserError(f"{problem} Copy {folder} again from where it was trained, or {again}")


def _apart(runs: list[Run]) -> str:
    """A line for each run: the keys in which they differ, and its folder."""
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    differ = [key for key in keys if len({str(run.values.get(key)) for run in runs}) > 1]
    return "\n".join(f"  {_options({key: run.values.get(key) for key in differ})}  out={run.folder}" for run in runs)


def _options(values: dict[str, Any]) -> str:
    """Values as the keys of a command."""
    return " ".join(shell_quoted(f"{SHORT_NAMES.get(key, key)}={hydra_value(value)}") for key, value in values.items())


def _other_runs(config: Config, keys: Iterable[str], parent: Path) -> str:
    """The command, as typed, that means the nearest finished run of a dataset; then a line for each, the nearest first:
    the keys in which it differs from the config. "" where there is none."""
    mine, others = flat(config), []
    for run in finished_runs(parent):
        differ = {key: run.values.get(key) for key in keys if run.values.get(key) != mine[key]}
        files = "model.label" in differ and "model.path" not in differ
        differ.pop("model.label", None)  # comes with the path
        if "model.name" in differ and not run.config.model.label:
            differ.pop("model.path", None)  # comes with the name
        others.append((files, differ, run))
    if not others:
        return ""
    others.sort(key=lambda other: (other[0], len(other[1]), [_distance(v, mine[k]) for k, v in other[1].items()]))
    lines = [
        f"  {_options(differ)}  ({run.folder.name}{', on other files in model.path' * files})"
        for files, differ, run in others[:SHOWN]
    ]
    more = [f"  and {len(others) - SHOWN} more"] if len(others) > SHOWN else []
    words, (files, differ, _) = typed_arguments(), others[0]
    for key, value in differ.items():
        words = with_override(words, SHORT_NAMES.get(key, key), value)
    nearest = [f"The nearest run: {' '.join([typed_program(), *map(shell_quoted, words)])}"]
    head = f"Finished runs on {parent.name}, the nearest first, and the keys in which they differ:"
    return "\n".join([*(nearest if words and not files else []), head, *lines, *more])


def _distance(value: Any, mine: Any) -> tuple:
    """Sorts values by how far they are from mine; those that are no numbers come last."""
    if isinstance(value, int | float) and isinstance(mine, int | float):
        return (0, abs(value - mine), str(value))
    return (1, 0, str(value))


def _matches(config: Config, keys: Iterable[str], dataset: str, run: Run) -> bool:
    """Whether a config means this run. A sample beyond what there is means all there is."""
    mine, theirs = flat(config), run.values
    for key in keys:
        if mine[key] != theirs.get(key):
            available = run.training_examples.get("available", 0)
            if key == "sample" and theirs[key] is None and mine[key] and mine[key] >= available:
                continue
            return False
    return theirs["dataset.name"] == dataset


def _selecting_keys(config: Config) -> list[str]:
    """The keys that say which run is meant: RUN_KEYS, and every other training key that somebody gave a value.

    With `trained_on`, the dataset's keys describe the evaluation instead.
    """
    trained = identity(config, everything=True)
    typed = {key for key in explicit_keys(config) if key in trained and not key.startswith("dataset.")}
    keys = [key for key in flat(config) if key in RUN_KEYS or key.split(".")[0] in RUN_KEYS or key in typed]
    return [key for key in keys if not (config.trained_on and key.startswith("dataset."))]


def training_command(config: Config) -> str:
    """The command that trains exactly this run; with `trained_on`, that dataset's default one."""
    values = identity(config, everything=True)
    if config.trained_on:
        defaults = identity(default_config({"dataset": config.trained_on, "model": config.model.name}), everything=True)
        data = {key: value for key, value in defaults.items() if key.startswith("dataset.")}
        values = {**values, **data, "dataset.source": config.dataset.source.value}
    folder = Path(config.out or Path(config.outputs, values["dataset.name"], "any"))
    location = folder_options(folder, values["dataset.name"], Path(config.outputs), config.out)
    return command("train", values, *location)
