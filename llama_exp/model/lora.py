"""LoRA adapters on the frozen base: attach, load, detach, save."""

import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from llama_exp.config.schema import LoraConfig, Scaling, Targets
from llama_exp.config.seeds import fold_seed
from llama_exp.errors import UserError
from llama_exp.model.checkpoint import check_same_files
from llama_exp.runs.files import read_json
from llama_exp.runs.find import check_adapter
from llama_exp.runs.summary import find_summary

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEARS = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
NOT_COMPUTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "alpha_pattern",
    "rank_pattern",
    "fan_in_fan_out",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "use_qalora",
    "megatron_config",  # PEFT would import the module that megatron_core names
    "auto_mapping",
)


def scale(lora: LoraConfig) -> float:
    """What B·A is multiplied with: the effective scale, recorded with every run."""
    return {
        Scaling.fixed_alpha: lora.alpha / lora.r,
        Scaling.constant: lora.ratio,
        Scaling.rank_stabilised: lora.alpha / lora.r**0.5,
    }[lora.scaling]


def target_names(lora: LoraConfig) -> list[str]:
    return LINEARS if lora.targets is Targets.all else ATTENTION


Draw: TypeAlias = Callable[[Sequence[tuple[int, int]], int], Iterable[torch.Tensor]]


def draw_first_weights(shapes: Sequence[tuple[int, int]], seed: int) -> Iterator[torch.Tensor]:
    """A of each adapter layer, as PEFT begins it: uniform within ±1/√in.

    Drawn on the CPU, so that a seed means the same start on every machine.
    """
    generator = torch.Generator().manual_seed(fold_seed(seed))
    for shape in shapes:
        yield nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def new_adapter(base: nn.Module, lora: LoraConfig) -> nn.Module:
    """PEFT's modules around the linear layers of `base`, without numbers, which PEFT would draw three times."""
    peft_config = PeftLora(
        r=lora.r,
        lora_alpha=scale(lora) * lora.r,
        lora_dropout=lora.dropout,
        target_modules=target_names(lora),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, peft_config, low_cpu_mem_usage=True)


def attach_lora(
    base: nn.Module,
    lora: LoraConfig,
    seed: int,
    recompute: bool = False,
    make: Callable[[nn.Module, LoraConfig], nn.Module] = new_adapter,
    draw: Draw = draw_first_weights,
) -> nn.Module:
    """Put a fresh adapter on the base, ready to train: y = W x + scale · B A x, with A random by `seed` and B = 0.

    `recompute`: gradient checkpointing, two fifths more arithmetic for a fraction of the activations' memory.
    `make`, `draw`: where PEFT's modules and A come from (SpareAdapter).

    W stays frozen in 4 bits; A (r, in) and B (out, r) are float32 and the only parameters that learn.
    What `prepare_model_for_kbit_training` does beyond freezing (upcasting norms and head) is left out: it costs memory
    and changes nothing that learns (huggingface/peft#3265).
    """
    embeddings = base.get_input_embeddings()
    hooks = dict(embeddings._forward_hooks)
    if recompute:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        model = make(base, lora)
        _initialise(model, seed, draw)
    except BaseException:  # a base that others go on with
        detach_lora_layers(base)
        raise
    finally:
        # PEFT makes the embeddings ask for a gradient where activations are recomputed, and leaves that to the next
        # cell; our recomputation needs none.
        embeddings._forward_hooks.clear()
        embeddings._forward_hooks.update(hooks)
    return model.train()  # Lightning leaves modes as they are: dropout must be on


def _initialise(model: nn.Module, seed: int, draw: Draw) -> None:
    """Begin every adapter layer with A as it is drawn, and B zero."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    [name] = layers[0].active_adapters
    pairs = [(layer.get_base_layer().weight.device, layer.lora_A[name], layer.lora_B[name]) for layer in layers]
    starts = draw([(a.out_features, a.in_features) for _, a, _ in pairs], seed)
    for start, (device, a, b) in zip(starts, pairs, strict=True):
        a.weight = nn.Parameter(start.to(device))
        b.weight = nn.Parameter(torch.zeros(b.out_features, b.in_features, device=device))


def load_lora(base: nn.Module, folder: Path, name: str = "default") -> nn.Module:
    """Put a trained adapter on the base, beside those already there; a UserError if the two do not fit."""
    folder = Path(folder)
    _check_files(base, folder)
    try:
        if hasattr(base, "peft_config"):
            base.load_adapter(str(folder), adapter_name=name, is_trainable=False)
            model = base
        else:
            model = PeftModel.from_pretrained(base, str(folder), adapter_name=name, is_trainable=False)
        _check_whole(model, folder, name)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        _take_off(base, name)
        if isinstance(error, UserError):
            raise
        detail = next((part.strip() for part in str(error).split("\n") if "size mismatch" in part), str(error)[:300])
        raise UserError(
            f"The adapter at {folder} does not fit the base model {base.config._name_or_path}: {detail}"
        ) from None
    return model


def _check_files(base: nn.Module, folder: Path) -> None:
    """Raise UserError for files that training did not save, another base, and what our forward pass leaves out."""
    check_adapter(folder)
    summary = find_summary(folder.parent)
    if summary and summary.base and (found := getattr(causal_lm(base), "checksums", {})):
        check_same_files(base.config._name_or_path, summary.base, found)
    if unknown := _unsupported_options(folder):
        raise UserError(f"The adapter at {folder} uses {', '.join(unknown)}, which would be computed wrongly here.")
    foreign = dict.fromkeys(part for name in _stored_names(folder) if (part := _foreign_module(name)))
    if foreign:
        raise UserError(
            f"The adapter at {folder} changes {', '.join(foreign)}, which would be computed without it here. "
            f"Known: {', '.join(LINEARS)}."
        )


def _stored_names(folder: Path) -> list[str]:
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="np") as weights:
            return list(weights.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}/adapter_model.safetensors is damaged or cut short ({error}).") from None


def _foreign_module(name: str) -> str:
    """The module that a weight of an adapter belongs to, where that is no linear layer of a block; else ""."""
    path = re.sub(r"(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.weight)$", "", name)
    return "" if re.search(rf"\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEARS)})$", path) else path.split(".")[-1]


def _check_whole(model: nn.Module, folder: Path, name: str) -> None:
    """Raise UserError where an adapter's file lacks weights of the model, or holds others: PEFT would only warn."""
    wanted = {
        key.replace(f".{name}.", ".")
        for key, _ in model.named_parameters()
        if re.search(rf"\.lora_[AB]\.{name}\.", key)
    }
    differ = sorted(wanted ^ set(_stored_names(folder)))
    if differ:
        raise UserError(
            f"The adapter at {folder} does not fit its adapter_config.json or the base model: {len(differ)} weights "
            f"are missing or left over, {differ[0]} among them."
        )


def _unsupported_options(folder: Path) -> list[str]:
    """What of PEFT's an adapter uses that ours never do."""
    path = folder / "adapter_config.json"
    try:
        found = read_json(path)
        wanted = [key for key in NOT_COMPUTED if found.get(key)]
    except (OSError, ValueError):
        raise UserError(f"{path} is damaged: wanted a JSON object.") from None
    wanted += ["bias"] if found.get("bias", "none") != "none" else []
    wanted += [f"peft_type={found['peft_type']}"] if found.get("peft_type", "LORA") != "LORA" else []
    start = found.get("init_lora_weights", True)  # some ways to begin change the base's weights when they are loaded
    return wanted + ([f"init_lora_weights={start}"] if start not in (True, False, "gaussian") else [])


def _take_off(model: nn.Module, name: str) -> None:
    """Undo a half-made attachment of one adapter, after it did not fit."""
    if getattr(model, "peft_config", None) and hasattr(model, "delete_adapter") and len(model.peft_config) > 1:
        model.delete_adapter(name)
    else:
        detach_lora_layers(model)


def detach_lora(model: nn.Module) -> nn.Module:
    """Take the adapter off again and return the base as it was."""
    if not hasattr(model, "peft_config"):
        return model
    base = causal_lm(model)
    detach_lora_layers(base)
    return base


def detach_lora_layers(base: nn.Module) -> None:
    """Put the linear layers back in the place of PEFT's around them, also after a half-made attachment."""
    for parent, name, layer in lora_layers(base):
        setattr(parent, name, layer.get_base_layer())
    if hasattr(base, "peft_config"):
        del base.peft_config  # else the next adapter is taken for a second one on the same model
    if base.is_gradient_checkpointing:
        base.gradient_checkpointing_disable()
    base.requires_grad_(False)
    base.eval()


def lora_layers(base: nn.Module) -> list[tuple[nn.Module, str, LoraLayer]]:
    """(parent, name of the linear layer in it, PEFT's layer around it) of what is attached."""
    children = ((parent, name, layer) for parent in base.modules() for name, layer in parent.named_children())
    return [found for found in children if isinstance(found[2], LoraLayer)]


def save_lora(model: nn.Module, folder: Path) -> None:
    """Write the adapter in PEFT's format, whole or not at all."""
    folder = Path(folder)
    aside = folder.with_name(f".{folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(str(aside), save_embedding_layers=False)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def trainable_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def causal_lm(model: nn.Module) -> nn.Module:
    """The LlamaForCausalLM inside, adapter layers in place, whether or not PEFT is wrapped around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
