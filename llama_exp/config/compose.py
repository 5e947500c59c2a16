"""From conf/ and the command line to a typed, checked Config."""

import atexit
import copy
import dataclasses
import functools
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from llama_exp.config.checks import config_errors
from llama_exp.config.command_line import hydra_value
from llama_exp.config.identity import flat, model_label
from llama_exp.config.key_names import similar_keys
from llama_exp.config.schema import Config, ModelConfig
from llama_exp.config.trainer_keys import named_loggers
from llama_exp.errors import UserError
from llama_exp.programs import program

PACKAGE = Path(__file__).parent.parent
# A wheel holds conf/ inside the package; a checkout holds it beside the package.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def register() -> None:
    """Make the types known to Hydra under the name `schema`, which conf/config.yaml lists first."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)
    OmegaConf.register_new_resolver("program", program, replace=True)


def _sweep_folder(outputs: str, preflight: bool) -> str:
    """Where Hydra writes a sweep's own files. A pre-flight writes nothing into `outputs`."""
    return _temporary_folder() if preflight else str(Path(outputs, ".multirun"))


@functools.lru_cache
def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="llama_exp-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def resolve(cfg: DictConfig) -> Config:
    """Turn Hydra's DictConfig into a typed, checked Config. Several problems come in one message."""
    check_logger_files(cfg)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"No value for {', '.join(missing)}. Give it as {missing[0]}=VALUE.")
    if unread := list(_unread_keys(cfg, Config)):
        raise UserError("\n".join(_unread_key_message(key) for key in unread))
    config = limit_answer_length(cast(Config, OmegaConf.to_object(cfg)))
    config = dataclasses.replace(config, logger=named_loggers(config.logger))
    errors = list(config_errors(config))
    if errors:
        raise UserError("\n".join(errors))
    return dataclasses.replace(config, model=_named(config.model, config.dataset.name))


def check_logger_files(cfg: DictConfig) -> None:
    """Raise UserError where a file of the group logger lacks its first line: its keys are then no logger's."""
    target = cfg.logger.get("_target_")
    for path in (path for folder in config_dirs() for path in Path(folder, "logger").glob("*.yaml")) if target else ():
        text = path.read_text(encoding="utf-8", errors="replace")
        named = re.search(r"^_target_\s*:\s*['\"]?([\w.]+)", text, re.MULTILINE)
        if named and named[1] == target and not re.match(r"\s*#\s*@package\s+logger\.", text):
            raise UserError(
                f"{path}: its first line must be\n# @package logger.{path.stem}\nWithout it Hydra does not know which "
                "logger its keys belong to."
            )


def _named(model: ModelConfig, dataset: str) -> ModelConfig:
    """The model with a name of its own where it is not the one of the chosen file.

    The file's licence belongs to a copy of its model (a folder of that name), not to any other.
    """
    if model.name not in choices("model"):
        return model
    # With the dataset, as Run.of asks for it: one composition, of 0.1 s, serves both.
    of_dataset = {"dataset": dataset} if dataset in choices("dataset") else {}
    usual = default_config({**of_dataset, "model": model.name}).model
    if (model.path, model.revision) == (usual.path, usual.revision):
        return dataclasses.replace(model, label="")
    is_copy = Path(model.path).name.lower() == Path(usual.path).name.lower()
    licence = model.licence if is_copy or model.licence != usual.licence else "unknown"
    return dataclasses.replace(model, label=model_label(model), licence=licence)


def _unread_keys(cfg: DictConfig, kind: Any, prefix: str = "") -> Iterator[str]:
    """Keys that +key=value added and that no type has. trainer.*, logger.* and other open mappings are checked by their
    readers."""
    kinds = get_type_hints(kind)
    for name in map(str, cfg):
        if name not in kinds:
            yield f"{prefix}{name}"
        elif dataclasses.is_dataclass(kinds[name]):
            yield from _unread_keys(cfg[name], kinds[name], f"{prefix}{name}.")


def _unread_key_message(key: str) -> str:
    near = similar_keys(key, flat(default_config({})))
    return f"+{key}: nothing reads this key." + (
        f" Did you mean {', '.join(near)}?" if near else " --cfg job lists all."
    )


def limit_answer_length(config: Config) -> Config:
    """An answer may take at most half of `max_length`: a set of long answers then also runs on a model of short
    rows."""
    room = min(config.dataset.max_new_tokens, config.max_length // 2)
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, max_new_tokens=room))


def explicit_keys(config: Config) -> set[str]:
    """The keys that somebody gave a value: those that this command names, and those that are not the defaults.

    `dataset.max_new_tokens` follows max_length by itself, so only the command says whether it was set.
    """
    mine, usual = flat(config), flat(default_config({"dataset": config.dataset.name, "model": config.model.name}))
    differ = {key for key in mine if key != "dataset.max_new_tokens" and mine[key] != usual.get(key)}
    return differ | typed_keys()


def typed_keys() -> set[str]:
    """The keys that this command names; none outside of a command."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return {override.lstrip("+~").split("=")[0] for override in overrides}


def typed_arguments() -> list[str]:
    """The arguments of this command as they were typed, without its name; [] outside of a command."""
    arguments = sys.argv[1:] if HydraConfig.initialized() else []
    return list(itertools.dropwhile(_is_name, arguments))


def typed_program() -> str:
    """How this command was started: `python evaluate.py`, `llama-exp chat`."""
    name = " ".join(itertools.takewhile(_is_name, sys.argv[1:])) or Path(sys.argv[0]).stem
    return program(name) if name in ("train", "evaluate") else f"llama-exp {name}"


def _is_name(word: str) -> bool:
    return "=" not in word and not word.startswith("-")


def default_config(choices: dict[str, str]) -> Config:
    """Compose conf/ with the given group choices and no other override. Works inside and outside of a Hydra run."""
    overrides = tuple(f"{group}={choice}" for group, choice in choices.items())
    return copy.deepcopy(_defaults(overrides, config_dirs()))


def load_config(*overrides: str) -> Config:
    """A checked Config from conf/ and overrides as a command takes them.

    load_config("dataset=squad", "dataset.source=synthetic", "model=tiny", "sample=100")
    """
    return resolve(_composed(overrides, config_dirs()))


def config_dirs() -> tuple[str, ...]:
    """Folders beside conf/ that this command was given: --config-dir FOLDER. Hydra itself forgets them between runs."""
    return tuple(os.path.abspath(folder) for folder in typed_config_dirs())


def typed_config_dirs() -> list[str]:
    """The same as they were typed: a printed command must not hold a path of this machine that nobody typed."""
    found, arguments = [], sys.argv[1:]
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            found += [value] if equals else arguments[index + 1 : index + 2]
    return found


def choices(group: str) -> list[str]:
    """The files of a group, in conf/ and in the folders of --config-dir."""
    folders = [CONF, *map(Path, config_dirs())]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def dataset_target(name: str) -> str | None:
    """The data module that conf/ or a folder of --config-dir names for a dataset; None where neither does."""
    return default_config({"dataset": name}).dataset._target_ if name in choices("dataset") else None


@functools.lru_cache
def _defaults(overrides: tuple[str, ...], folders: tuple[str, ...]) -> Config:
    return limit_answer_length(cast(Config, OmegaConf.to_object(_composed(overrides, folders))))


def _composed(overrides: Sequence[str], folders: Sequence[str]) -> DictConfig:
    """conf/ with overrides. A Hydra that runs already, ours or that of an application around us, stays as it is."""
    register()
    searchpath = f"hydra.searchpath={hydra_value([f'file://{folder}' for folder in folders])}"
    running, version = GlobalHydra.instance().hydra, VersionBase.instance().getbase()
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [*overrides, searchpath])
    finally:
        GlobalHydra.instance().hydra = running
        VersionBase.instance().version_base = version
