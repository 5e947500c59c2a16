"""Class Run: one training of one cell, made once and passed to everything that works on it.

outputs/squad/tiny-300-r16-seed0/
    config.yaml     every value of the run
    sample.json     the ids of the training Examples, in the order of the sample
    audit.json      which held-out items overlap with training
    adapter/        the LoRA adapter in PEFT's format
    metrics.csv     a row per step: loss, learning rate, gradient norm, tokens/s; and validation losses
    summary.json    the outcome; written last, so its status tells a finished run from a broken one
    checkpoints/    while it trains
    eval/squad-test-300/  predictions.jsonl, scores.jsonl, results.json
"""

import contextlib
import dataclasses
import re
import shutil
import time
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llama_exp.config.compose import choices, dataset_target, default_config
from llama_exp.config.identity import flat, identity, run_folder
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.runs.adapter import damaged_adapter, incomplete_adapter
from llama_exp.runs.files import atomic_write, write_json
from llama_exp.runs.lock import LOCK, lock_folder
from llama_exp.runs.metrics import read_metrics
from llama_exp.runs.stored import read_yaml
from llama_exp.runs.summary import Summary, find_summary, write_summary
from llama_exp.sanitize import clean, reason

MADE_WITH_ADAPTER = ("eval", "simulation")


FAILED = "FAILED: "  # how the message of a failed cell begins
BUSY = "busy elsewhere"  # the message of a cell that another process works on


class Clock:
    """Seconds by phase: `with clock("train"): …`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.perf_counter() - start, 3)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command on one run ended: a line for people, and the folder."""

    message: str
    folder: Path

    @property
    def has_failed(self) -> bool:
        return self.message.startswith(FAILED)

    @property
    def is_busy(self) -> bool:
        return self.message == BUSY


@dataclass(frozen=True)
class Run:
    """A config and the folder that belongs to it alone.

    `Run.of(config)` names the folder by the config's identity, whether or not it exists yet; `Run.load(folder)` reads a
    run that is there. Whatever the files say is read when it is needed: another process may be training the run.
    """

    config: Config
    folder: Path
    clock: Clock = field(default_factory=Clock, compare=False, repr=False)

    @classmethod
    def of(cls, config: Config) -> "Run":
        defaults = default_config({"dataset": config.dataset.name, "model": config.model.name})
        return cls(config, run_folder(config, defaults))

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Raises UserError for a folder without a readable config.yaml."""
        return cls(read_config(Path(folder)), Path(folder))

    @classmethod
    def untuned(cls, config: Config) -> "Run":
        """Rank 0, which trains nothing: a place for the base model's evaluations, never inside a trained run's
        folder."""
        run = cls.of(config)
        if run.exists:
            raise UserError(
                f"{run.folder} holds a trained run, and lora.r=0 means the untuned model. Leave out=… away, or name "
                "another folder."
            )
        return run

    @property
    def name(self) -> str:
        """`squad/tiny-300-r16-seed0`: says what it is without a path of this machine."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def values(self) -> dict[str, Any]:
        """Every value of the config by its dotted key."""
        return flat(self.config)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The values that decide the weights."""
        return identity(self.config)

    @property
    def is_untuned(self) -> bool:
        return self.config.lora.r == 0

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def exists(self) -> bool:
        return (self.folder / "config.yaml").is_file()

    @property
    def summary(self) -> Summary | None:
        return find_summary(self.folder)

    @property
    def is_finished(self) -> bool:
        """Whether training ended well and the adapter is whole."""
        summary = self.summary
        return summary is not None and summary.ended_well and not incomplete_adapter(self.adapter)

    @property
    def training_examples(self) -> dict[str, Any]:
        """What became of the training rows: available, sampled, encoded …; empty where nothing was trained."""
        return self.summary.counts.get("train", {}) if self.summary else {}

    def metrics(self) -> list[dict[str, str]]:
        """The rows of metrics.csv, as text; [] where there is none."""
        return read_metrics(self.folder)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Only one process trains a run at a time; UserError where another one does."""
        return lock_folder(self.folder)

    def check_owner(self) -> None:
        """Raise UserError where the folder belongs to something else, naming the keys that differ."""
        if not self.exists:
            if self.folder.is_dir() and any(path.name != LOCK for path in self.folder.iterdir()):
                raise UserError(
                    f"{self.folder} holds files but no config.yaml: not a run's folder. Choose another: out=FOLDER."
                )
            return
        stored = Run.load(self.folder)
        keys = sorted(self.identity.keys() | stored.identity.keys())
        differ = [
            f"  {key}: {stored.values.get(key)} there, {self.values.get(key)} requested"
            for key in keys
            if stored.values.get(key) != self.values.get(key)
        ]
        if differ:
            raise UserError(
                f"{self.folder} holds a run with another config:\n"
                + "\n".join(differ)
                + "\nChoose another folder (out=FOLDER), or move this one elsewhere to keep it."
            )

    def write_config(self) -> None:
        try:
            with atomic_write(self.folder / "config.yaml") as file:
                yaml.safe_dump(_plain(dataclasses.asdict(self.config)), file, sort_keys=False, allow_unicode=True)
        except OSError as error:
            raise UserError(
                f"Cannot write to {self.folder}: {error.strerror or error}. Choose another place: outputs=FOLDER."
            ) from error

    def write_sample(self, ids: list[str]) -> None:
        write_json(self.folder / "sample.json", ids)

    def write_summary(self, summary: Summary) -> None:
        write_summary(self.folder, summary)

    def clear(self) -> None:
        """Remove the results of an earlier training that this one replaces."""
        for name in ("adapter", *MADE_WITH_ADAPTER):
            with contextlib.suppress(NotADirectoryError):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "summary.json").unlink(missing_ok=True)

    def put_aside_damaged_adapter(self) -> None:
        """Rename the adapter of a finished run that is not what training saved, and say so: the run trains again.

        What was made with the adapter while it was whole goes with it: take_back() returns it.
        """
        summary = self.summary
        if summary and summary.ended_well and self.adapter.exists() and (problem := damaged_adapter(self.adapter)):
            shutil.rmtree(self._aside, ignore_errors=True)
            self.adapter.rename(self._aside)
            for name in (*MADE_WITH_ADAPTER, "summary.json"):
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / name).rename(self._aside / name)
            print(f"{problem} Its folder is now {self._aside.name}, and the run trains again.", flush=True)

    def take_back(self) -> None:
        """Where training has just saved the same adapter again, byte for byte, its evaluations hold: return them."""
        before, now = find_summary(self._aside), self.summary
        if before and now and before.adapter and before.adapter == now.adapter:
            for name in MADE_WITH_ADAPTER:
                with contextlib.suppress(FileNotFoundError):
                    (self._aside / name).rename(self.folder / name)
            shutil.rmtree(self._aside, ignore_errors=True)
            print("The adapter is the same again, byte for byte: what was made with it is back.", flush=True)

    @property
    def _aside(self) -> Path:
        return self.folder / "adapter.broken"

    def discard_checkpoints(self) -> None:
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)


def read_config(folder: Path) -> Config:
    """The config of the run in a folder. A key that did not exist when the run was trained has today's default."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder} has no config.yaml, which records how a run was trained: not a run's folder, or copied in part. "
            "Copy that file too, or name another folder."
        )
    try:
        return _typed_config(read_yaml(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OmegaConfBaseException) as error:
        why = reason(error) if isinstance(error, OSError) else clean(str(error).split("\n")[0], 200)
        raise UserError(
            f"{path} cannot be read ({why or type(error).__name__}). Copy it again from where the run was trained, or "
            "train in another folder: out=FOLDER."
        ) from error


def _typed_config(stored: dict[str, Any]) -> Config:
    """A Config of stored values. They are data: nothing in them is computed, looked up or imported."""
    schema, stored = OmegaConf.structured(Config), _literal(stored)
    if newer := [key for key in schema if key not in stored]:
        name, model = str(stored["dataset"]["name"]), str(stored["model"]["name"])
        known = {"dataset": name if name in choices("dataset") else "squad", "model": model}
        defaults = OmegaConf.structured(default_config(known))
        stored = {key: defaults[key] for key in newer} | stored
    config = cast(Config, OmegaConf.to_object(OmegaConf.merge(schema, stored)))
    # Which code reads the data is named by the user's own configuration, never by a folder that somebody may have made.
    config.dataset._target_ = dataset_target(config.dataset.name)
    return config


def _plain(value: Any) -> Any:
    """A config as YAML holds it, enums by their names."""
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    return value.name if isinstance(value, Enum) else value


def _literal(value: Any) -> Any:
    """Values that OmegaConf takes as they are: `${…}` in them is text."""
    if isinstance(value, dict):
        return {key: _literal(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_literal(of) for of in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value
