"""What an evaluation asks: whose replies, to which Examples, and the folder that is named by it.

A command names little (`evaluate.py dataset=squad sample=1000`), and the run knows the rest: here the two are merged,
so that no run is tested on what it was trained on and no two evaluations share a folder.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_exp import metrics
from llama_exp.config.compose import default_config, explicit_keys, limit_answer_length
from llama_exp.config.identity import DESCRIPTIVE, flat, identity, name_part
from llama_exp.config.schema import Config, DatasetConfig
from llama_exp.errors import UserError
from llama_exp.runs.results import Results
from llama_exp.runs.run import Run

# Keys of the dataset that decide which items are in training and which are held out.
SPLITTING = ("subset", "revision", "rows", "validation", "test", "split_seed", "task", "cleaning")


@dataclass(frozen=True)
class EvaluationRequest:
    """run: whose replies; config: the run's own, with the data and the size of the evaluation that the command
    names; generate: False = only the likelihood of the responses is measured."""

    run: Run
    config: Config
    generate: bool = True

    @classmethod
    def of(cls, command: Config, run: Run) -> "EvaluationRequest":
        config = dataclasses.replace(
            run.config,
            dataset=dataset_for(command, run.config),
            split=command.split,
            eval_sample=command.eval_sample,
            eval_seed=command.eval_seed,
            eval_batch=command.eval_batch,
            trainer=command.trainer,
            bertscore=command.bertscore,
        )
        return cls(run, limit_answer_length(config))

    @cached_property
    def folder(self) -> Path:
        """`eval/squad-test-300`, and what of the data differs from the run's (rank 0: from the defaults)."""
        config, trained = self.config, self.run.config
        usual = trained
        if self.run.is_untuned or config.dataset.name != trained.dataset.name:
            usual = default_config({"dataset": config.dataset.name, "model": config.model.name})
        parts = [config.dataset.name, config.split.value, str(config.eval_sample or "all")]
        parts += [] if self.generate else ["loss"]
        parts += [f"eval_seed{config.eval_seed}"] if config.eval_seed else []
        mine, theirs = flat(config), flat(usual)
        decisive = identity(config, everything=True)
        keys = [key for key in mine if key.startswith("dataset.") and key in decisive] + ["max_length"]
        parts += [name_part(key, mine[key]) for key in sorted(keys) if mine[key] != theirs.get(key)]
        return self.run.folder / "eval" / "-".join(parts)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The values that decide the replies, beside the adapter: the base, the items and how they are asked."""
        own, decisive = ("max_length", "split", "eval_sample", "eval_seed"), identity(self.config)
        return {
            key: value
            for key, value in flat(self.config).items()
            if (key.startswith("dataset.") and key not in DESCRIPTIVE)
            or key in own
            or (key.startswith("model.") and key in decisive)
        }

    @property
    def label(self) -> str:
        """What loggers file its scores under: the split; what was forgotten, and data of another dataset, by name."""
        name, split = self.config.dataset.name, self.config.split.value
        if not self.generate:
            return f"forgetting/{name}"
        if self.run.is_untuned or name == self.run.config.dataset.name:
            return split
        return f"transfer/{name}" if split == "test" else f"transfer/{name}/{split}"

    def check_same(self, results: Results) -> None:
        """Raise UserError where the folder holds another evaluation: its name leaves out what the YAML files say.

        Keys that did not exist when it was made are not compared; a cleaning rule that is not named is off.
        """
        mine, stored = self.values, results.evaluation
        rules = (
            {key: False for key in mine.keys() | stored.keys() if key.startswith("dataset.cleaning.")} if stored else {}
        )
        base = {key: value for key, value in results.identity.items() if key.startswith("model.")}
        mine, theirs = rules | mine, rules | base | stored
        differ = [
            f"  {key}: {theirs[key]} there, {mine[key]} requested"
            for key in mine
            if key in theirs and theirs[key] != mine[key]
        ]
        if differ:
            raise UserError(
                f"{self.folder} holds an evaluation with other settings:\n"
                + "\n".join(differ)
                + "\nMove that folder elsewhere to keep its replies and scores, and the same command evaluates again."
            )


def metric_settings(config: Config) -> dict[str, Any]:
    """{metric: its part of the config}, for those that have one."""
    return metrics.settings_in(config, config.dataset.metrics)


def dataset_for(command: Config, trained: Config) -> DatasetConfig:
    """The dataset as the run was trained on it, with the keys that the command names.

    A command finds a run without repeating how its data were split, and another split would test it on what it was
    trained on: such keys come from the run, and giving another value is a UserError. Other data (another dataset, or by
    trained_on= or out= another source of the same one) are taken as the command has them.
    """
    mine, theirs = command.dataset, trained.dataset
    if mine.name != theirs.name:
        return mine
    explicit = explicit_keys(command)
    other = [key for key in ("source", "path", "hub") if getattr(mine, key) != getattr(theirs, key)]
    if other and (command.trained_on or any(f"dataset.{key}" in explicit for key in other)):
        keys = ", ".join(f"dataset.{key}" for key in other)
        print(f"  Other data than the run's ({keys}): it may have been trained on these items.", flush=True)
        return mine
    taken, refused = {}, []
    for key in (field.name for field in dataclasses.fields(mine) if f"dataset.{field.name}" not in DESCRIPTIVE):
        if getattr(mine, key) == getattr(theirs, key):
            continue
        if not any(name == f"dataset.{key}" or name.startswith(f"dataset.{key}.") for name in explicit):
            taken[key] = getattr(theirs, key)
        elif key in SPLITTING:
            refused.append(f"  dataset.{key}: {getattr(theirs, key)} in training, {getattr(mine, key)} requested")
    if refused:
        raise UserError(
            "This would test the run on items that it may have been trained on:\n"
            + "\n".join(refused)
            + "\nLeave these keys out: an evaluation takes them from its run."
        )
    if taken:
        as_text = ", ".join(f"dataset.{key}={getattr(value, 'value', value)}" for key, value in taken.items())
        print(f"  As in training: {as_text}.", flush=True)
    return dataclasses.replace(mine, **taken)
