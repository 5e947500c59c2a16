"""What makes two runs the same: the keys that can change the weights, and the folder that they name."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

from llama_exp.config.checksums import folder_sha256
from llama_exp.config.schema import Config, ModelConfig

PACKAGED = {"llama_exp/tiny": Path(__file__).parent.parent / "tiny"}  # models inside this package

# Keys of a dataset that change neither its rows nor its prompts: a command's own values count, not those of its run.
DESCRIPTIVE = ("dataset.metrics", "dataset.licence", "dataset.label", "dataset.item")

# Keys that cannot change the weights that training leaves behind. Everything else is identity.
NOT_IDENTITY = {
    "bertscore",
    "logger",
    "micro_batch",
    "memory",
    "validations",
    "validation_sample",
    "validation_scores",
    "monitor",
    "checkpoint_every",
    "stop_signal",
    "stop_at",
    "preflight",
    "audit",
    "evaluate",
    "split",
    "eval_sample",
    "eval_seed",
    "eval_batch",
    "forgetting",
    "question",
    "within",
    "target",
    "budget",
    "dashboard",
    "trained_on",
    "predictions",
    "outputs",
    "out",
    "dataset._target_",  # the name stands for it
    *DESCRIPTIVE,
    "model.licence",
    "model.gradient_checkpointing",
    "model.needs_gpu",
    "model.sha256",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.num_nodes",
    "trainer.enable_progress_bar",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.max_time",
    "trainer.num_sanity_val_steps",
    "trainer.limit_val_batches",
    "trainer.log_every_n_steps",
    "trainer.enable_model_summary",
    "trainer.use_distributed_sampler",
}


# … but these do where validation decides when to stop, and which adapter is kept.
IDENTITY_WHERE_STOPPED = {
    "validations",
    "validation_sample",
    "validation_scores",
    "monitor",
    "eval_seed",
    "trainer.limit_val_batches",
}


# What a reader (evaluate, chat, hub …) must say to mean a run; it takes the rest from the run itself.
RUN_KEYS = (
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


def identity_leaves(leaves: dict[str, Any]) -> dict[str, Any]:
    """Those of a config's leaves that can change the weights."""
    left_out = NOT_IDENTITY - IDENTITY_WHERE_STOPPED if leaves.get("early_stopping") else NOT_IDENTITY
    return {k: v for k, v in leaves.items() if k not in left_out and k.split(".")[0] not in left_out}


def identity(config: Config, everything: bool = False) -> dict[str, Any]:
    """The leaves that decide the weights. Rank 0 trains nothing: only the model is left of it, unless `everything`."""
    leaves = identity_leaves(flat(config))
    if config.lora.r == 0 and not everything:
        shown = ("dataset.name", "model.", "lora.r")
        return {k: v for k, v in leaves.items() if k.startswith(shown)}
    return leaves


def run_folder(config: Config, defaults: Config) -> Path:
    """The cell's folder: `outputs/squad/tiny-1000-r8-seed0`, and whatever else differs from the defaults.

    `defaults` is the same choice of dataset and model without any override (see `default_config`).
    Dashes, not "=" or ",": a name can be typed back as an override.
    """
    if config.out:
        return Path(config.out)
    mine, theirs = flat(config), flat(defaults)
    head = [config.model.title]
    if config.lora.r:
        head += ["all" if config.sample is None else str(config.sample), f"r{config.lora.r}", f"seed{config.seed}"]
    else:
        head += ["r0"]
    named = {"dataset.name", "model.name", "model.label", "sample", "lora.r", "seed"}
    named |= {"model.path", "model.revision"} if config.model.label else set()
    keys = identity(config).keys() | (identity(defaults).keys() if config.lora.r else set())
    differ = sorted(k for k in keys if mine.get(k) != theirs.get(k) and k not in named)
    return Path(config.outputs, config.dataset.name, "-".join(head + [name_part(k, mine.get(k)) for k in differ]))


def sweep_id(overrides: Iterable[str]) -> str:
    """Eight digits that name a sweep: a hash of the options typed, in any order.

    How it is launched, what logs it and how far it goes (hydra.*, logger, dashboard, stop_at) do not count: the same
    grid on a cluster, or with another logger, is the same sweep.
    """
    counted = sorted({o for o in overrides if not re.match(r"[+~]*(hydra|logger|dashboard|stop_at)\b", o)})
    return hashlib.sha256("\n".join(counted).encode()).hexdigest()[:8]


def model_label(model: ModelConfig) -> str:
    """`my-llama-3fa2b1`: the last part of a model's folder or hub id, and a hash of its files (or of the hub id)."""
    folder = PACKAGED.get(model.path, Path(model.path))
    if folder.is_dir():
        name, digest = folder.resolve().name, folder_sha256(folder)
    else:
        name = model.path.rstrip("/").split("/")[-1]
        digest = hashlib.sha256(f"{model.path}@{model.revision}".encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._]+", "_", name).strip("._") or "model"
    return f"{name[:32]}-{digest[:6]}"


def name_part(key: str, value: Any) -> str:
    """`optimizer.lr`, 0.001 -> "lr0.001". A value that had to be altered or cut carries six digits of its hash."""
    section, _, leaf = key.rpartition(".")
    label = {"path": f"{section}_path", "name": section, "source": "", "revision": f"{section}_revision"}.get(
        leaf, leaf
    )
    if isinstance(value, list | dict):  # callbacks and the like: only a hash could be short
        return f"{label}_{hashlib.sha256(str(value).encode()).hexdigest()[:6]}"
    text = re.sub(r"[^A-Za-z0-9._]+", "_", str(Path(str(value)).name if leaf == "path" else value))[-24:]
    digest = "" if text == str(value) else "_" + hashlib.sha256(str(value).encode()).hexdigest()[:6]
    return f"{label}{text}{digest}"
