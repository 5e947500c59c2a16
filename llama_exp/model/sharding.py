"""A base that no single GPU holds (trainer=fsdp): NF4 weights in shares, one a process, put together layer by layer.

    layer     read from its files, quantised, cut into one share a process (PyTorch's fully_shard); then the next one
    forward   gather(layer): all shares -> compute -> release(layer)
    backward  the same, from the last layer to the first

Lightning cannot do it: its strategies shard a whole model, which must be in memory, and every parameter that learns
(Lightning-AI/pytorch-lightning#20855). Here adapters, embeddings, norms and the output layer are whole in every
process, so that checkpoints, resuming and the saved adapter are those of any other run; only the frozen weights of the
decoder layers are in shares, and nobody needs their gradients. Our own forward pass uses the adapters of all layers at
once (`prepare_adapters`), another reason to leave them whole.

bitsandbytes stores 4-bit weights as bytes, which PyTorch 2.11 does not cut, and libraries that cut them have trained in
silence with a loss of 0 or NaN (huggingface/accelerate#3983, axolotl-ai-cloud/axolotl#2992). Nor does bfloat16 carry
them: gathered on two H100 (PyTorch 2.11) they were not those that had been cut, most likely because copies on a GPU
take bfloat16 through float32, where what reads as not-a-number becomes another one. float32 came back unchanged there,
so they are stored in it (`bnb_4bit_quant_storage`), whatever the base computes in, and every gathered weight must be,
bit for bit, the one that was cut.
"""

from collections.abc import Mapping
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Params4bit
from torch import nn

from llama_exp.config.schema import ModelConfig
from llama_exp.errors import UserError
from llama_exp.model.checkpoint import read_checkpoint
from llama_exp.model.upload import stored

STORAGE = torch.float32
LINEAR = nn.Linear  # what transformers builds a decoder layer of


def load_sharded(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """This process's share of the base. No process holds more than one layer as it is stored, nor more than two in 4
    bits.

    Every process of the default group calls it. Raises UserError where gathered weights are not those that were cut.
    """
    from torch.distributed.device_mesh import init_device_mesh

    checkpoint = read_checkpoint(model)
    base = empty_base(checkpoint.config, dtype)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    with stored(checkpoint.weights, device) as weights:
        for number, decoder in enumerate(base.model.layers):
            fill(decoder, f"model.layers.{number}.", weights, device, dtype)
            for linear in linears(decoder):
                quantise(linear, device)
            shard(decoder, mesh)
        fill(base, "", weights, device, dtype)
    base.checksums = checkpoint.checksums(model.sha256)
    return base


def empty_base(config, dtype: torch.dtype) -> nn.Module:
    """The model that config.json describes, its weights without values; buffers have theirs."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    base.tie_weights()
    return base


def fill(module: nn.Module, prefix: str, weights: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
    """Read the parameters of a module that have no values yet, and move its buffers."""
    for name, parameter in list(module.named_parameters()):
        if parameter.is_meta and prefix + name in weights:
            owner, _, last = name.rpartition(".")
            value = weights[prefix + name][...].to(device=device, dtype=dtype)
            setattr(module.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))
    for part in module.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            part.register_buffer(name, buffer.to(device), persistent=name not in part._non_persistent_buffers_set)
    if hasattr(module, "tie_weights"):
        module.tie_weights()


def linears(decoder: nn.Module) -> list[nn.Linear]:
    return [module for module in decoder.modules() if isinstance(module, LINEAR)]


def quantise(linear: nn.Linear, device: torch.device) -> None:
    """W -> NF4 with double quantisation, as `read_base` has it, packed into a type that can be cut."""
    packed = Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, quant_storage=STORAGE
    ).to(device)
    linear.weight = nn.Parameter(packed.data, requires_grad=False)  # plain: a Params4bit does not survive the cut
    linear.weight.quant_state = linear.quant_state = packed.quant_state


def shard(decoder: nn.Module, mesh) -> None:
    """Cut a layer's packed weights, one share a process, and check that they can be put together again."""
    from torch.distributed.fsdp import fully_shard

    before = [dequantised(linear) for linear in linears(decoder)]
    for linear in linears(decoder):  # the scales, an eighth of a bit a weight at most, are cut with it
        linear.scales = nn.Parameter(as_storage(linear.quant_state.absmax), requires_grad=False)
    cut = {parameter for linear in linears(decoder) for parameter in (linear.weight, linear.scales)}
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()) - cut)
    for linear in linears(decoder):
        linear.weight.quant_state = linear.quant_state  # says how many weights it stands for, and the scales for none
        linear.scales.stands_for = 0
    decoder.unshard()
    for linear in linears(decoder):
        scales = linear.quant_state.absmax
        whole = linear.scales.data.view(scales.dtype)  # the same memory, filled at each gathering
        linear.quant_state.absmax = whole[: len(scales)]
        linear.weight.quant_state = linear.quant_state
    check_gathered(decoder, before)
    decoder.reshard()


def as_storage(scales: torch.Tensor) -> torch.Tensor:
    """Bytes in the type that is cut; the last number may be filled up."""
    return nn.functional.pad(scales, (0, -len(scales) % STORAGE.itemsize)).view(STORAGE)


def check_gathered(decoder: nn.Module, before: list[torch.Tensor]) -> None:
    """Raise UserError where the gathered weights do not dequantise, bit for bit, to what they were before the cut."""
    for linear, wanted in zip(linears(decoder), before, strict=True):
        if not torch.equal(dequantised(linear), wanted):
            raise UserError(
                "The shares of the base do not make its weights again: this version of PyTorch or bitsandbytes cannot "
                "carry trainer=fsdp. Type trainer=ddp with a model that fits one GPU."
            )


def dequantised(linear: nn.Linear) -> torch.Tensor:
    return dequantize_4bit(linear.weight.data, linear.weight.quant_state)


def shared_by() -> torch.distributed.ProcessGroup:
    """The processes that share: after one of them has died, the shares of the others are of no use to the next ones."""
    return torch.distributed.group.WORLD


def is_in_shares(decoder: nn.Module) -> bool:
    return hasattr(decoder, "unshard")


def gather(decoder: nn.Module) -> None:
    """Put the shares of a layer together, where it is in shares."""
    if is_in_shares(decoder):
        decoder.unshard()


def release(decoder: nn.Module) -> None:
    """Forget the shares of the others again."""
    if is_in_shares(decoder):
        decoder.reshard()
