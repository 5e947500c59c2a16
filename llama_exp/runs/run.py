"""A run's folder: claimed by the one config it belongs to, written to and read. `lookup` finds the run that words mean.

outputs/squad/tiny-300-r16-seed0/
    config.yaml     every value of the run
    sample.json     the ids of the training Examples, in the order of the sample
    adapter/        in PEFT's format
    metrics.csv     a row a step: loss, learning rate, gradient norm, tokens/s; and validation losses
    summary.json    what came of it; written last, so its status tells a finished run from a broken one
    checkpoints/    while it runs
    eval/squad-test-300/  predictions.jsonl, results.json
"""

import contextlib
import csv
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from llama_exp.config.compose import default_config
from llama_exp.config.identity import flat, identity, run_folder
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.runs.files import atomic_write, write_json
from llama_exp.runs.lock import LOCK

FINISHED = ("finished", "stopped early")


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


def folder_of(config: Config) -> Path:
    """Where a run of this config lies."""
    return run_folder(config, default_config({"dataset": config.dataset.name, "model": config.model.name}))


def check_owner(folder: Path, config: Config) -> None:
    """Stop where the folder belongs to something else, and say which keys differ from the config it holds."""
    held = read_config(folder)
    if held is None:
        if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
            raise UserError(f"{folder} holds files but no config.yaml: not a run's folder. Choose another: out=FOLDER.")
        return
    mine = flat(config)
    keys = sorted(identity(config).keys() | identity(load_config(folder)).keys())
    differ = [
        f"  {key}: {held.get(key)} there, {mine.get(key)} asked for" for key in keys if held.get(key) != mine.get(key)
    ]
    if differ:
        raise UserError(
            f"{folder} holds a run with another config:\n"
            + "\n".join(differ)
            + "\nChoose another folder (out=FOLDER) or delete it."
        )


def untuned_folder(config: Config) -> Path:
    """Where the untuned model's evaluations lie: never below an adapter's, whatever `out` says."""
    folder = folder_of(config)
    if read_config(folder) is not None:
        raise UserError(
            f"{folder} holds a trained run, and lora.r=0 means the untuned model. Leave out=… away, or name another folder."
        )
    return folder


def write_config(folder: Path, config: Config) -> None:
    try:
        with atomic_write(folder / "config.yaml") as file:
            file.write(OmegaConf.to_yaml(OmegaConf.structured(config)))
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. Choose another place: outputs=FOLDER."
        ) from error


def write_sample(folder: Path, ids: list[str]) -> None:
    write_json(folder / "sample.json", ids)


def read_config(folder: Path) -> dict[str, Any] | None:
    """The config.yaml of a run as {dotted key: value}; None where there is none."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        return None
    return flat(load_config(folder))


def load_config(folder: Path) -> Config:
    """The run's config. A key that did not exist yet when the run was made has today's default."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder} has no config.yaml, which says how a run was trained: not a run's folder, or one that was copied in part. "
            "Copy that file too, or name another folder."
        )
    try:
        return _stored_config(path)
    except Exception as error:  # whatever OmegaConf or YAML make of a damaged file
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} cannot be read ({said}). Delete {folder} and run again.") from error


def _stored_config(path: Path) -> Config:
    schema, stored = OmegaConf.structured(Config), OmegaConf.load(path)
    if newer := [key for key in schema if key not in stored]:
        usual = OmegaConf.structured(default_config({"dataset": stored.dataset.name, "model": stored.model.name}))
        stored = OmegaConf.merge({key: usual[key] for key in newer}, stored)
    return OmegaConf.to_object(OmegaConf.merge(schema, stored))


def read_summary(folder: Path) -> dict[str, Any] | None:
    path = Path(folder) / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return None  # written whole or not at all by us; whatever this is, the run is not finished


def finished(folder: Path) -> bool:
    summary = read_summary(folder)
    return bool(summary) and summary.get("status") in FINISHED and _whole(Path(folder) / "adapter")


def _whole(adapter: Path) -> bool:
    """Whether the adapter's weights are all there: a safetensors file says in its header how long it is.

    https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header with data_offsets, the data.
    """
    try:
        with open(adapter / "adapter_model.safetensors", "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            if not 0 < length <= size:
                return False
            tensors = json.loads(file.read(length))
        ends = [of["data_offsets"][1] for name, of in tensors.items() if name != "__metadata__"]
        return bool(ends) and 8 + length + max(ends) == size
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    write_json(folder / "summary.json", summary)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, as text; [] where there is none."""
    with (
        contextlib.suppress(FileNotFoundError),
        open(Path(folder) / "metrics.csv", newline="", encoding="utf-8") as file,
    ):
        return list(csv.DictReader(file))
    return []


def discard_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
