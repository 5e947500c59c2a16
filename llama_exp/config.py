"""The types of conf/, and how a cell of an experiment is named and found.

Values live in conf/*.yaml, types live here: dataclasses without defaults, so that a typo, a wrong type and a missing key
each print one readable line before anything heavy is imported. The rest of the code holds `Config`, never a DictConfig.

A *cell* is one fine-tuned adapter. Its identity is every key that can change its weights; its folder is named by that
identity, so evaluation finds training without timestamps and a repeated command finds its own earlier work.
"""

import atexit
import copy
import dataclasses
import functools
import hashlib
import math
import re
import shutil
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from llama_exp.errors import UserError

CONF = Path(__file__).parent.parent / "conf"


class Source(Enum):
    hub = "hub"  # the Hugging Face hub, or `dataset.path` where that is given
    synthetic = "synthetic"  # rows made by rule in the same raw schema


class Quantisation(Enum):
    nf4 = "nf4"  # bitsandbytes NF4 with double quantisation
    nf4_dequantised = "nf4_dequantised"  # the same values, held in the compute type: faster on CPU, more memory
    none = "none"  # the checkpoint's own 16 or 32 bits


class Scaling(Enum):
    """What the product B·A is multiplied with."""

    fixed_alpha = "fixed_alpha"  # alpha / r, alpha the same at every rank
    constant = "constant"  # `ratio` at every rank (alpha grows with r)
    rank_stabilised = "rank_stabilised"  # alpha / sqrt(r)


class Targets(Enum):
    all = "all"  # every linear layer of every block
    attention = "attention"  # q, k, v and o


class Split(Enum):
    validation = "validation"
    test = "test"


class Schedule(Enum):
    cosine = "cosine"
    constant = "constant"


class OptimizerName(Enum):
    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    paged_adamw_8bit = "paged_adamw_8bit"


@dataclass
class DatasetConfig:
    name: str
    task: str  # what a record becomes: "summary", "turns", "answer" …
    hub: str  # repository on the Hugging Face hub
    subset: str | None
    revision: str | None
    path: str | None  # a folder or file to read instead of the hub
    source: Source
    rows: (
        int  # synthetic only: raw rows of train; validation and test get a tenth each, at least 400 (fewer if rows is)
    )
    licence: str
    template: str  # the user's message; {fields} are the dataset's
    system: str  # system prompt; "" = none
    validation: float  # share of train's Examples carved out, by group, where the source has no validation split
    test: float  # the same for test
    split_seed: int  # no sweep moves it
    max_new_tokens: int  # the longest reply, and the room kept for the answer when a prompt is shortened
    metrics: list[str]
    cleaning: dict[str, bool]  # rule name -> on


@dataclass
class ModelConfig:
    name: str
    path: str  # a local folder or a hub repository
    revision: str | None
    quantisation: Quantisation
    licence: str
    gradient_checkpointing: bool | None  # null = where the memory asks for it
    needs_gpu: bool  # stop early, with advice, where there is none


@dataclass
class LoraConfig:
    r: int  # 0 = the untuned model
    alpha: float
    scaling: Scaling
    ratio: float  # only for scaling=constant
    dropout: float
    targets: Targets


@dataclass
class OptimizerConfig:
    name: OptimizerName
    lr: float
    weight_decay: float
    betas: list[float]
    schedule: Schedule
    warmup: float  # share of all steps
    neftune: float  # noise alpha; 0 = off


@dataclass
class BertScoreConfig:
    model: str  # auto, minilm, a hub repository or a folder (llama_exp/metrics/bertscore.py)
    layer: int | None  # null = the one that bert-score recommends
    rescale: bool  # by bert-score's baseline, where it has one for the model
    language: str  # of the baseline
    batch: int  # texts the encoder reads at a time


@dataclass
class Config:
    dataset: DatasetConfig
    model: ModelConfig
    lora: LoraConfig
    optimizer: OptimizerConfig
    trainer: dict[str, Any]  # passed through: Trainer(**trainer)
    logger: dict[str, Any]  # {} or one `_target_` with its arguments

    sample: int | None  # training Examples; null = all
    seed: int  # initialisation, order, dropout
    data_seed: int  # which Examples a sample holds
    max_length: int  # tokens of prompt and response together
    batch: int  # Examples a step
    micro_batch: int | None  # Examples a forward pass; null = as many as the memory holds
    memory: float | None  # GiB of the GPU
    max_tokens: int | None  # budget in tokens seen; null = trainer.max_epochs or trainer.max_steps rules
    validations: int | None  # how often validation loss is measured during a run; null = what it may cost decides
    validation_sample: int | None  # Examples it is measured on; null = all
    early_stopping: int | None  # stop after so many validations without a better loss; null = never
    checkpoint_every: int | None  # optimizer steps between checkpoints; null = one a minute

    preflight: bool  # train.py: show what would be learnt, how long it takes and whether it fits; train nothing
    audit: bool  # look for held-out items in the training set before training
    evaluate: bool  # train.py: evaluate right after training, with the base already in memory
    split: Split
    eval_sample: int | None
    eval_seed: int  # no sweep moves it
    eval_batch: int | None  # prompts a generation batch; null = as many as the memory holds
    bertscore: BertScoreConfig  # read where dataset.metrics names it
    trained_on: str | None  # evaluate an adapter trained on this dataset
    predictions: str | None  # score this file instead of a model

    outputs: str
    out: str | None  # the cell's folder; null = named by its identity


# Keys that cannot change the weights that training leaves behind. Everything else is identity.
NOT_IDENTITY = {
    "bertscore",
    "logger",
    "micro_batch",
    "memory",
    "validations",
    "validation_sample",
    "checkpoint_every",
    "preflight",
    "audit",
    "evaluate",
    "split",
    "eval_sample",
    "eval_seed",
    "eval_batch",
    "trained_on",
    "predictions",
    "outputs",
    "out",
    "dataset.metrics",
    "dataset.licence",
    "model.licence",
    "model.gradient_checkpointing",
    "model.needs_gpu",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.num_nodes",
    "trainer.enable_progress_bar",
    "trainer.profiler",
    "trainer.log_every_n_steps",
    "trainer.enable_model_summary",
    "trainer.use_distributed_sampler",
}
# … but these do where validation decides when to stop, and which adapter is kept.
IDENTITY_WHERE_STOPPED = {"validations", "validation_sample", "eval_seed"}
# What a reader (evaluate, chat, hub …) must say to mean a run; it takes the rest from the run itself.
SPOKEN = (
    "dataset.name",
    "dataset.task",
    "dataset.source",
    "dataset.path",
    "model.name",
    "model.path",
    "lora",
    "sample",
    "data_seed",
    "seed",
)


def register() -> None:
    """Make the types known to Hydra under the name `schema`, which conf/config.yaml lists first."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("sweep_folder", _sweep_folder, replace=True)


def _sweep_folder(outputs: str, preflight: bool) -> str:
    """Where Hydra keeps a sweep's own words. A pre-flight writes nothing into `outputs`."""
    return _passing_folder() if preflight else str(Path(outputs, ".multirun"))


@functools.lru_cache
def _passing_folder() -> str:
    folder = tempfile.mkdtemp(prefix="llama_exp-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def resolve(cfg: DictConfig) -> Config:
    """Turn Hydra's DictConfig into a typed, checked Config. Several problems come in one message."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"No value for {', '.join(missing)}. Give it as {missing[0]}=VALUE.")
    config = settled(OmegaConf.to_object(cfg))
    problems = list(_problems(config))
    if problems:
        raise UserError("\n".join(problems))
    return config


def settled(config: Config) -> Config:
    """An answer may take at most half of `max_length`: a set of long answers then also runs on a model of short rows."""
    room = min(config.dataset.max_new_tokens, config.max_length // 2)
    return dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, max_new_tokens=room))


def _problems(c: Config):
    positive = {
        "batch": c.batch,
        "max_length": c.max_length,
        "eval_batch": c.eval_batch,
        "sample": c.sample,
        "micro_batch": c.micro_batch,
        "eval_sample": c.eval_sample,
        "memory": c.memory,
        "max_tokens": c.max_tokens,
        "checkpoint_every": c.checkpoint_every,
        "dataset.max_new_tokens": c.dataset.max_new_tokens,
        "dataset.rows": c.dataset.rows,
        "early_stopping": c.early_stopping,
        "validation_sample": c.validation_sample,
        "bertscore.batch": c.bertscore.batch,
        "bertscore.layer": c.bertscore.layer,
    }
    for key, value in positive.items():
        if value is not None and value < 1:
            yield f"{key}={value}: wanted a whole number of at least 1."
    for key, value in {
        "seed": c.seed,
        "data_seed": c.data_seed,
        "lora.r": c.lora.r,
        "validations": c.validations or 0,
    }.items():
        if value < 0:
            yield f"{key}={value}: wanted 0 or more."
    if c.dataset.path and c.dataset.source is Source.synthetic:
        yield f"dataset.path={c.dataset.path} is not read where dataset.source=synthetic makes the rows. Leave one of them out."
    if c.micro_batch and c.batch % c.micro_batch:
        yield f"micro_batch={c.micro_batch} does not divide batch={c.batch}: a step is exactly `batch` Examples."
    if c.max_length - c.dataset.max_new_tokens < 32:
        yield (
            f"max_length={c.max_length} leaves fewer than 32 tokens for the prompt beside "
            f"dataset.max_new_tokens={c.dataset.max_new_tokens}. Raise the one or lower the other."
        )
    for key, share in {"dataset.validation": c.dataset.validation, "dataset.test": c.dataset.test}.items():
        if not 0 <= share < 0.5:
            yield f"{key}={share}: wanted a share from 0 to below 0.5."
    for key, value in {"optimizer.lr": c.optimizer.lr, "lora.alpha": c.lora.alpha, "lora.ratio": c.lora.ratio}.items():
        if not 0 < value < math.inf:
            yield f"{key}={value}: wanted a number above 0."
    for key, value in {
        "optimizer.weight_decay": c.optimizer.weight_decay,
        "optimizer.neftune": c.optimizer.neftune,
    }.items():
        if not 0 <= value < math.inf:
            yield f"{key}={value}: wanted 0 or more."
    if not 0 <= c.lora.dropout < 1:
        yield f"lora.dropout={c.lora.dropout}: wanted a share from 0 to below 1."
    if not 0 <= c.optimizer.warmup <= 1:
        yield f"optimizer.warmup={c.optimizer.warmup}: wanted a share of all steps, from 0 to 1."
    if len(c.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in c.optimizer.betas):
        yield f"optimizer.betas={c.optimizer.betas}: wanted two numbers from 0 to below 1, like [0.9, 0.999]."
    if c.early_stopping and c.validations == 0:
        yield f"early_stopping={c.early_stopping} counts validations, and validations=0 makes none."
    budgets = {f"trainer.{key}": c.trainer.get(key) for key in ("max_epochs", "max_steps")}
    strange = {key: value for key, value in budgets.items() if not isinstance(value, int | None)}
    for key, value in strange.items():
        yield f"{key}={value}: wanted a whole number; null or -1 for no such budget."
    if not strange and not any((budget or -1) > 0 for budget in [c.max_tokens, *budgets.values()]):
        yield "No budget: give trainer.max_epochs, trainer.max_steps or max_tokens."


def flat(config: Config) -> dict[str, Any]:
    """{"lora.r": 8, "dataset.source": "synthetic", …}: every leaf by its dotted key, in plain types."""

    def walk(value, key):
        if dataclasses.is_dataclass(value):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(inner, f"{key}.{name}" if key else str(name))
        else:
            yield key, value.value if isinstance(value, Enum) else value

    return dict(walk(config, ""))


def deciding(leaves: dict[str, Any]) -> dict[str, Any]:
    """Those of a config's leaves that can change the weights."""
    left_out = NOT_IDENTITY - IDENTITY_WHERE_STOPPED if leaves.get("early_stopping") else NOT_IDENTITY
    return {k: v for k, v in leaves.items() if k not in left_out and k.split(".")[0] not in left_out}


def typed(config: Config) -> set[str]:
    """The keys that somebody gave a value: those that this command names, and those that are not the defaults.

    `dataset.max_new_tokens` follows max_length by itself, so of it only the command tells.
    """
    from hydra.core.hydra_config import HydraConfig

    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    mine, usual = flat(config), flat(default_config({"dataset": config.dataset.name, "model": config.model.name}))
    differ = {key for key in mine if key != "dataset.max_new_tokens" and mine[key] != usual.get(key)}
    return differ | {word.lstrip("+~").split("=")[0] for word in words}


def identity(config: Config, everything: bool = False) -> dict[str, Any]:
    """The leaves that decide the weights. Rank 0 trains nothing: only the model is left of it, unless `everything`."""
    leaves = deciding(flat(config))
    if config.lora.r == 0 and not everything:
        kept = ("dataset.name", "model.", "lora.r")
        return {k: v for k, v in leaves.items() if k.startswith(kept)}
    return leaves


def run_folder(config: Config, defaults: Config) -> Path:
    """The cell's folder: `outputs/squad/tiny-1000-r8-seed0`, and whatever else differs from the defaults.

    `defaults` is the same choice of dataset and model without any override (see `default_config`).
    Dashes, not "=" or ",": a name can be typed back as an override.
    """
    if config.out:
        return Path(config.out)
    mine, theirs = flat(config), flat(defaults)
    head = [config.model.name]
    if config.lora.r:
        head += ["all" if config.sample is None else str(config.sample), f"r{config.lora.r}", f"seed{config.seed}"]
    else:
        head += ["r0"]
    said = {"dataset.name", "model.name", "sample", "lora.r", "seed"}
    keys = identity(config).keys() | (identity(defaults).keys() if config.lora.r else set())
    differ = sorted(k for k in keys if mine.get(k) != theirs.get(k) and k not in said)
    return Path(config.outputs, config.dataset.name, "-".join(head + [spoken(k, mine.get(k)) for k in differ]))


def spoken(key: str, value: Any) -> str:
    """`optimizer.lr`, 0.001 -> "lr0.001". A value that had to be altered or cut carries six digits of its hash."""
    section, _, leaf = key.rpartition(".")
    word = {"path": f"{section}_path", "name": section, "source": "", "revision": f"{section}_revision"}.get(leaf, leaf)
    text = re.sub(r"[^A-Za-z0-9._]+", "_", str(Path(str(value)).name if leaf == "path" else value))[-24:]
    digest = "" if text == str(value) else "_" + hashlib.sha256(str(value).encode()).hexdigest()[:6]
    return f"{word}{text}{digest}"


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
        return settled(OmegaConf.to_object(compose("config", overrides)))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return settled(OmegaConf.to_object(compose("config", overrides)))
