"""The files of a base model, checked before they are loaded: whole, and nothing that our forward pass leaves out.

transformers loads what it can: a missing weight becomes random numbers, a surplus one is skipped, and an adapter that
lies in the folder is applied. Here the names and shapes in the files must be those that config.json describes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_exp.config.checksums import SMALL_FILES, fast_sha256, sha256
from llama_exp.config.schema import ModelConfig
from llama_exp.errors import UserError
from llama_exp.formatting import join_list
from llama_exp.model.tokenizer import find_file, from_pretrained, readable, resolve_path
from llama_exp.runs.files import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
ARCHITECTURES = ("llama", "mistral")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # frequencies that do not depend on the text at hand
DTYPES = ("F32", "F16", "BF16")
EMBEDDINGS, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
RECOMPUTED = re.compile(r"rotary_emb\.inv_freq$")  # stored by old checkpoints, computed from config.json


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """path: as the user gave it; config: transformers' LlamaConfig or MistralConfig; weights: the safetensors files."""

    path: str
    config: Any
    weights: tuple[Path, ...]
    small: tuple[Path, ...]

    def checksums(self, full: bool = False) -> dict[str, str]:
        """{file name: SHA-256}. Of weights the size, the header and a few blocks are hashed; `full`: every byte."""
        sums = {path.name: sha256(path) for path in self.small}
        return sums | {path.name: sha256(path) if full else f"fast:{fast_sha256(path)}" for path in self.weights}


def read_checkpoint(model: ModelConfig) -> Checkpoint:
    """Find a base's files (on the hub: fetch them) and check them. Raises UserError naming the file or the weights."""
    from transformers import AutoConfig

    path, revision = resolve_path(model.path), model.revision
    for name in ADAPTER_FILES:
        if find_file(path, name, revision):
            raise UserError(
                f"model.path={model.path} holds {name}: an adapter, which would be put on the base that lies beside "
                "it. Move it out of the folder, or name the folder of the base itself."
            )
    config = from_pretrained(AutoConfig, path, model.path, revision, {})
    if problem := unsupported(config):
        raise UserError(f"model.path={model.path} {problem}")
    with readable(model.path):
        weights = tuple(weight_files(path, model.path, revision))
        small = tuple(file for name in SMALL_FILES if (file := find_file(path, name, revision)))
    checkpoint = Checkpoint(model.path, config, weights, small)
    check_weights(checkpoint)
    return checkpoint


def read_shape(model: ModelConfig) -> Any:
    """transformers' config of a base, which says its shape; its weights need not be there."""
    from transformers import AutoConfig

    return from_pretrained(AutoConfig, resolve_path(model.path), model.path, model.revision, {})


def weight_files(path: str, model_path: str, revision: str | None) -> list[Path]:
    """The files that hold the weights, as transformers chooses them: one, else the shards that the index names."""
    if whole := find_file(path, WEIGHTS, revision):
        return [whole]
    index = find_file(path, INDEX, revision)
    if index is None:
        find_file(path, INDEX, revision, needed=True)  # what the hub answers is the better message
        raise UserError(
            f"model.path={model_path} has neither {WEIGHTS} nor {INDEX}. Wanted weights as safetensors, which can be "
            "read without running code; convert others with save_pretrained of transformers."
        )
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is damaged: wanted the names of the weights and their files.") from None
    files = {str(name): find_file(path, str(name), revision) for name in names}
    if missing := [name for name, file in files.items() if file is None]:
        raise UserError(
            f"model.path={model_path} lacks {join_list(missing)}, which {INDEX} names. Copy the folder again."
        )
    return [file for file in files.values() if file]


def unsupported(config) -> str:
    """What of a checkpoint's config our forward pass (llama_exp/model/kernels/) would leave out; "" for nothing."""
    if config.model_type not in ARCHITECTURES:
        return f"is a {config.model_type!r} model; wanted a Llama, or a Mistral with the layers of one."
    rope = getattr(config, "rope_parameters", None) or {}
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method", "an unknown method")
        return f"is quantised already ({method}); wanted weights of 16 or 32 bits: the original repository."
    if config.hidden_act != "silu":
        return f"has the activation {config.hidden_act!r} (hidden_act), which would be computed wrongly here."
    if rope.get("rope_type", "default") not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        return f"has rotary positions of type {rope['rope_type']!r}, which are not computed here. Known: {known}."
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "rotates a part of each head (partial_rotary_factor), which is not computed here."
    if getattr(config, "attention_dropout", 0.0):
        return (
            f"asks for attention_dropout={config.attention_dropout}, which is not applied here. "
            "Write 0.0 in its config.json; lora.dropout is the dropout of training."
        )
    return ""


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise UserError where names, shapes or types in the files are not those that config.json describes."""
    found = dict(stored_weights(checkpoint.weights))
    wanted = described_weights(checkpoint.config)
    if checkpoint.config.tie_word_embeddings and found.get(OUTPUT) == found.get(EMBEDDINGS):
        found.pop(OUTPUT, None)
        _check_tied(checkpoint)
    problems = [
        _listed("missing", wanted.keys() - found.keys()),
        _listed("surplus", found.keys() - wanted.keys()),
        _listed(
            "of another size",
            [
                f"{name} {list(found[name][0])} for {list(wanted[name])}"
                for name in wanted.keys() & found.keys()
                if found[name][0] != wanted[name]
            ],
        ),
        _listed("no plain numbers", [f"{name} ({dtype})" for name, (_, dtype) in found.items() if dtype not in DTYPES]),
    ]
    if any(problems):
        raise UserError(
            f"model.path={checkpoint.path}: the weights are not those that config.json describes; "
            f"{'; '.join(filter(None, problems))}. A base is loaded whole or not at all."
        )


def _check_tied(checkpoint: Checkpoint) -> None:
    """Raise UserError where config.json ties the output layer to the embeddings and the files hold another one."""
    import torch

    from llama_exp.model.upload import stored

    with stored(checkpoint.weights, torch.device("cpu")) as weights:
        same = OUTPUT not in weights or weights[OUTPUT][...].equal(weights[EMBEDDINGS][...])
    if not same:
        raise UserError(
            f"model.path={checkpoint.path}: config.json says tie_word_embeddings, and the files hold an {OUTPUT} that "
            "is not the embeddings. Write false there to use it."
        )


def _listed(what: str, names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}" if names else ""


def stored_weights(files: Iterable[Path]) -> Iterator[tuple[str, tuple[tuple[int, ...], str]]]:
    """(name, (shape, type)) of every weight, from the headers alone. UserError for a file that is cut short."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="np") as weights:
                for name in weights.keys():  # noqa: SIM118 (not a dict)
                    part = weights.get_slice(name)
                    if not RECOMPUTED.search(name):
                        yield name, (tuple(part.get_shape()), part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} is damaged or cut short ({error}). Copy or download it again.") from None


def described_weights(config) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the model that config.json describes; of tied weights, the embeddings alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop(OUTPUT, None)
    return shapes


def check_same_files(path: str, stored: dict[str, str], found: dict[str, str]) -> None:
    """Raise UserError where a run's base is not the one it was trained on."""
    if differ := [name for name in stored.keys() | found.keys() if stored.get(name) != found.get(name)]:
        raise UserError(
            f"model.path={path} is not the base that this run was trained on: {join_list(sorted(differ))} changed. "
            "Put the files of then back, or train again in another folder: outputs=FOLDER."
        )
