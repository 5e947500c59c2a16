"""What an evaluation asks: a run's own config with the data that the command names, and the folder that is named by it.

A reader types little (`evaluate.py dataset=squad sample=1000`), and the run knows the rest: here the two are laid over each
other, so that no run is tested on what it has learnt and no two evaluations share a folder.
"""

import dataclasses
from pathlib import Path
from typing import Any

from llama_exp.config.compose import default_config, explicit_keys, limit_answer_length
from llama_exp.config.identity import flat, identity, name_part
from llama_exp.config.schema import Config, DatasetConfig
from llama_exp.errors import UserError

NOT_TRAINED = ("dataset.metrics", "dataset.licence")  # always as the command has them
# Keys of the dataset that decide which items are in training and which are held out.
SPLITTING = ("subset", "revision", "rows", "validation", "test", "split_seed", "task", "cleaning")


def as_asked(config: Config, trained: Config) -> Config:
    """The run's own config, with the data and the size of the evaluation that were asked for."""
    return limit_answer_length(
        dataclasses.replace(
            trained,
            dataset=data_of(config, trained),
            split=config.split,
            eval_sample=config.eval_sample,
            eval_seed=config.eval_seed,
            eval_batch=config.eval_batch,
            trainer=config.trainer,
            bertscore=config.bertscore,
        )
    )


def data_of(config: Config, trained: Config) -> DatasetConfig:
    """The data as the run was trained on it, worded as this command says.

    A reader finds a run without repeating how its data were split, and another split would test it on what it has learnt:
    such keys come from the run, and saying another value is a UserError. Other data (another dataset, or by trained_on= or
    out= another source of the same one) are taken as the command has them.
    """
    mine, theirs = config.dataset, trained.dataset
    if mine.name != theirs.name:
        return mine
    said = explicit_keys(config)
    elsewhere = [key for key in ("source", "path", "hub") if getattr(mine, key) != getattr(theirs, key)]
    if elsewhere and (config.trained_on or any(f"dataset.{key}" in said for key in elsewhere)):
        print(
            f"  other data than the run's (dataset.{', dataset.'.join(elsewhere)}): it may have learnt from these items.",
            flush=True,
        )
        return mine
    taken, refused = {}, []
    for key in (field.name for field in dataclasses.fields(mine) if f"dataset.{field.name}" not in NOT_TRAINED):
        if getattr(mine, key) == getattr(theirs, key):
            continue
        if not any(word == f"dataset.{key}" or word.startswith(f"dataset.{key}.") for word in said):
            taken[key] = getattr(theirs, key)
        elif key in SPLITTING:
            refused.append(f"  dataset.{key}: {getattr(theirs, key)} in training, {getattr(mine, key)} asked for")
    if refused:
        raise UserError(
            "This would test the run on items that it may have learnt from:\n"
            + "\n".join(refused)
            + "\nLeave these keys out: an evaluation takes them from its run."
        )
    if taken:
        as_text = ", ".join(f"dataset.{key}={getattr(value, 'value', value)}" for key, value in taken.items())
        print(f"  As in training: {as_text}.", flush=True)
    return dataclasses.replace(mine, **taken)


def folder_name(asked: Config, trained: Config) -> str:
    """`squad-test-300`, and whatever of the data differs from what the run was trained on (rank 0: from the defaults)."""
    usual = trained
    if asked.lora.r == 0 or asked.dataset.name != trained.dataset.name:
        usual = default_config({"dataset": asked.dataset.name, "model": asked.model.name})
    words = [asked.dataset.name, asked.split.value, str(asked.eval_sample or "all")]
    words += [f"eval_seed{asked.eval_seed}"] if asked.eval_seed else []
    mine, theirs = flat(asked), flat(usual)
    shapes = [key for key in mine if key.startswith("dataset.") and key in identity(asked, everything=True)] + [
        "max_length"
    ]
    words += [name_part(key, mine[key]) for key in sorted(shapes) if mine[key] != theirs.get(key)]
    return "-".join(words)


def asked_for(asked: Config) -> dict[str, Any]:
    """What decides the replies to an evaluation, beside the adapter: the base, the items and how they are asked."""
    said = ("max_length", "split", "eval_sample", "eval_seed")
    return {
        key: value
        for key, value in flat(asked).items()
        if (key.startswith("dataset.") and key not in NOT_TRAINED)
        or key in said
        or (key.startswith("model.") and key in identity(asked))
    }


def check_same(folder: Path, results: dict[str, Any], asked: Config) -> None:
    """Stop where results.json is of another evaluation: the folder's name leaves out what the YAML says.

    Keys that did not exist when it was made are not compared; a cleaning rule that is not named is off.
    """
    mine, stored = asked_for(asked), results.get("evaluation", {})
    rules = {key: False for key in mine.keys() | stored.keys() if key.startswith("dataset.cleaning.")} if stored else {}
    base = {key: value for key, value in results.get("identity", {}).items() if key.startswith("model.")}
    mine, theirs = rules | mine, rules | base | stored
    differ = [
        f"  {key}: {theirs[key]} there, {mine[key]} asked for"
        for key in mine
        if key in theirs and theirs[key] != mine[key]
    ]
    if differ:
        raise UserError(
            f"{folder} holds an evaluation that was asked otherwise:\n"
            + "\n".join(differ)
            + "\nDelete that folder to evaluate anew, or move it elsewhere to keep it."
        )
