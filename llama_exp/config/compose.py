"""From conf/ and the command line to a typed, checked Config."""

import atexit
import copy
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

from hydra import compose
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from llama_exp.config.checks import config_errors
from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.errors import UserError

PACKAGE = Path(__file__).parent.parent
# A wheel holds conf/ inside the package; a checkout holds it beside the package.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def register() -> None:
    """Make the types known to Hydra under the name `schema`, which conf/config.yaml lists first."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)


def _sweep_folder(outputs: str, preflight: bool) -> str:
    """Where Hydra keeps a sweep's own words. A pre-flight writes nothing into `outputs`."""
    return _temporary_folder() if preflight else str(Path(outputs, ".multirun"))


@functools.lru_cache
def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="llama_exp-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def resolve(cfg: DictConfig) -> Config:
    """Turn Hydra's DictConfig into a typed, checked Config. Several problems come in one message."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"No value for {', '.join(missing)}. Give it as {missing[0]}=VALUE.")
    config = limit_answer_length(OmegaConf.to_object(cfg))
    errors = list(config_errors(config))
    if errors:
        raise UserError("\n".join(errors))
    return config


def limit_answer_length(config: Config) -> Config:
    """An answer may take at most half of `max_length`: a set of long answers then also runs on a model of short rows."""
    room = min(config.dataset.max_new_tokens, config.max_length // 2)
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, max_new_tokens=room))


def explicit_keys(config: Config) -> set[str]:
    """The keys that somebody gave a value: those that this command names, and those that are not the defaults.

    `dataset.max_new_tokens` follows max_length by itself, so of it only the command tells.
    """
    from hydra.core.hydra_config import HydraConfig

    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    mine, usual = flat(config), flat(default_config({"dataset": config.dataset.name, "model": config.model.name}))
    differ = {key for key in mine if key != "dataset.max_new_tokens" and mine[key] != usual.get(key)}
    return differ | {word.lstrip("+~").split("=")[0] for word in words}


def default_config(choices: dict[str, str]) -> Config:
    """Compose conf/ with the given group choices and no other override. Works inside and outside of a Hydra run."""
    return copy.deepcopy(_composed(tuple(f"{group}={choice}" for group, choice in choices.items())))


@functools.lru_cache
def _composed(words: tuple[str, ...]) -> Config:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    overrides = list(words)
    register()
    if GlobalHydra.instance().is_initialized():
        return limit_answer_length(OmegaConf.to_object(compose("config", overrides)))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return limit_answer_length(OmegaConf.to_object(compose("config", overrides)))
