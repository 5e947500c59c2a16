"""What a step keeps in memory: everything, or only each layer's input; and how many Examples go through at once.

The losses and gradients are the same either way. What is kept of a token is known from the model's shape
(llama_exp/model/kernels/decoder_layer.py), so the choice is made before the first step instead of after an
out-of-memory error.
"""

import contextlib
import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from llama_exp.config.schema import Config, Quantisation, Targets
from llama_exp.errors import UserError
from llama_exp.model.kernels.decoder_layer import MLP_TOKENS
from llama_exp.model.kernels.elementwise import liger
from llama_exp.model.kernels.forward import CHUNK
from llama_exp.processes import is_sharded, wanted_processes

GIB = 2**30
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a weight: 4 bits, a byte for 64 of them, a number for 256 of those
USABLE_SHARE = 0.92  # of the memory there is: the allocator's gaps, and what other libraries take
MIN_TOKENS_PER_PASS = (
    1024  # tokens; with fewer at a time, dequantising the weights for each pass costs more than recomputing
)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a step runs.

    recompute          gradient checkpointing
    micro_batch        Examples a forward pass
    cache_weights      keep the dequantised weights in memory
    save_activations   save those of norms and gates, too
    """

    recompute: bool
    micro_batch: int
    cache_weights: bool
    save_activations: bool
    why: str


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a training step needs.

    A token, saved from the forward to the backward pass:
    whole         all activations
    kept          all but those of norms and gates
    inputs        layers' inputs alone (gradient checkpointing)

    A token, while one layer's backward pass runs:
    passing       where its activations were saved
    again         where they are recomputed
    gates         of the tokens whose gate and up are recomputed at once
    output        beside the logits: the last norm
    last          beside the logits: a last layer that is not recomputed, because few tokens have labels

    Once:
    learning      adapters, their gradients and the optimizer's moments
    logits        of one chunk
    weights       being dequantised, and with fp8_backward in 8 bits
    dequantised   all of W in 16 bits, where it is kept; infinite for a base in shares
    in_8_bits     and, with fp8_backward, in 8 bits beside it
    """

    whole: float
    kept: float
    inputs: float
    passing: float
    again: float
    gates: float
    output: float
    last: float
    learning: float
    logits: float
    weights: float
    dequantised: float
    in_8_bits: float

    def keeping(self, tokens: int, norms: bool = False) -> float:
        """For so many tokens at once where nothing is computed again, but for norms and gates (kept too: `norms`)."""
        stored = self.whole if norms else self.kept
        output = self.logits + tokens * self.output
        return self.learning + tokens * stored + max(output, self.weights + tokens * self.passing)

    def recomputing(self, tokens: int) -> float:
        """For so many tokens at once where only layers' inputs are kept."""
        layer = self.weights + tokens * self.again + min(tokens, MLP_TOKENS) * self.gates
        output = self.logits + tokens * (self.output + self.last)
        return self.learning + tokens * self.inputs + max(output, layer)


def needs(shape, config: Config, size: int, fused: bool | None = None) -> Needs:
    """`shape`: transformers' LlamaConfig; `size`: bytes of an activation; `fused`: with Liger (None: as installed)."""
    fused = bool(liger()) if fused is None else fused
    d, f, layers = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    shapes = linear_shapes(shape)
    heads = shapes[0][1]
    # input, queries, attention's result, middle; keys and values, repeated for every head
    first = (4 * d + 2 * heads) * size
    gates = 3 * f * size + (0 if fused else 14 * f)  # product, its gradient, and what Liger does without
    norms = 4 * d * size + (0 if fused else 16 * d)  # and in float32
    tuned = shapes[:4] if config.lora.targets is Targets.attention else shapes
    # the gathered layer, and all shares as they came
    a_layer = sum(a * b for a, b in shapes)  # weights
    gathered = 2 * NF4_BYTES * a_layer if is_sharded(config.trainer) else 0
    again = 2 * f * size + gates
    fp8 = int(config.optimizer.fp8_backward)  # bytes of a weight
    return Needs(
        whole=layers * (first + 2 * f * size + (2 * d + f) * size),
        kept=layers * (first + 2 * f * size),
        inputs=layers * d * size,
        passing=gates + norms,
        again=first + norms + (again if config.lora.dropout else 0),
        gates=0 if config.lora.dropout else again,
        output=16 * d,
        last=first + (2 if config.lora.dropout else 1) * f * size,
        learning=layers * config.lora.r * sum(a + b for a, b in tuned) * 16,  # weight, gradient, two moments in float32
        logits=CHUNK * shape.vocab_size * 10,
        # gate and up, and as much in the making; in 8 bits gate, up and down, held while a layer is recomputed
        weights=2 * 2 * f * d * size + 3 * f * d * fp8 + gathered,
        dequantised=math.inf if gathered else layers * a_layer * size,
        in_8_bits=layers * a_layer * fp8,
    )


def base_bytes(shape, size: int, shares: int = 1) -> float:
    """Bytes that a base in NF4 takes on one GPU, from its config alone: its share of the decoder layers, and the
    embeddings and output layer whole. `size`: bytes of a number that is not in 4 bits."""
    d, layers = shape.hidden_size, shape.num_hidden_layers
    weights = layers * sum(a * b for a, b in linear_shapes(shape))
    return weights * NF4_BYTES / shares + 2 * shape.vocab_size * d * size + (2 * layers + 1) * d * size


def linear_shapes(shape) -> list[tuple[int, int]]:
    """(in, out) of the linear layers of one block: q, k, v, o, gate, up, down."""
    d, f = shape.hidden_size, shape.intermediate_size
    head = getattr(shape, "head_dim", None) or d // shape.num_attention_heads
    kv, heads = head * shape.num_key_value_heads, head * shape.num_attention_heads
    return [(d, heads), (d, kv), (d, kv), (heads, d), (d, f), (d, f), (f, d)]


def shares(config: Config) -> int:
    """Among how many GPUs the base is divided."""
    return wanted_processes(config.trainer) if is_sharded(config.trainer) else 1


def memory_limit(config: Config, device: torch.device) -> float:
    """Bytes that a process may take on its device: `memory=`, or what is free there."""
    return config.memory * GIB if config.memory else available(device) * USABLE_SHARE


def check_fits(shape, config: Config, limit: float, size: int) -> None:
    """Raise UserError, before anything is loaded, for a base in NF4 that cannot be trained in `limit` bytes a GPU."""
    if config.model.quantisation is not Quantisation.nf4:
        return
    beside = needs(shape, config, size).recomputing(0)
    base = base_bytes(shape, size, shares(config))
    if base + beside <= limit:
        return
    enough = next((n for n in range(2, 65) if base_bytes(shape, size, n) + beside <= limit), None)
    hint = f"Type trainer=fsdp trainer.devices={enough}, or take" if enough else "Type a smaller lora.r, or take"
    raise UserError(
        f"Does not fit: model={config.model.name} has {base / GIB:.1f} GiB a GPU in NF4 and needs {beside / GIB:.1f} "
        f"beside it before the first token; there are {limit / GIB:.1f}. {hint} a smaller model."
    )


def predict(shape, config: Config, plan, limit: float, size: int) -> tuple[MemoryPlan, float]:
    """(how steps would run, bytes at the peak on each GPU), from the shape alone: nothing is loaded."""
    need, base = needs(shape, config, size), base_bytes(shape, size, shares(config))
    world = wanted_processes(config.trainer)
    chosen = fit(need, limit - base, plan, config, -(-config.batch // world), world, limit)
    tokens = plan.tokens_of(plan.heaviest(chosen.micro_batch, world))
    step = need.recomputing(tokens) if chosen.recompute else need.keeping(tokens, chosen.save_activations)
    return chosen, base + step


def choose(base: nn.Module, config: Config, plan) -> MemoryPlan:
    """The fastest way that fits the device. What the config says (micro_batch, gradient_checkpointing) is obeyed."""
    device = next(base.parameters()).device
    world = wanted_processes(config.trainer)
    share = -(-config.batch // world)
    requested = config.model.gradient_checkpointing
    if device.type != "cuda":
        return MemoryPlan(bool(requested), min(config.micro_batch or share, share), False, False, "")
    need = needs(base.config, config, next(base.parameters()).element_size())
    whole = memory_limit(config, device)
    return fit(need, whole - memory_in_use(device), plan, config, share, world, whole)


def fit(need: Needs, room: float, plan, config: Config, share: int, world: int, whole: float) -> MemoryPlan:
    """`choose`, from the numbers alone: `room` bytes beside the base."""
    requested = config.model.gradient_checkpointing
    sizes = [config.micro_batch] if config.micro_batch else _micro_batch_sizes(share)
    mean = sum(plan.lengths) / len(plan.lengths)
    heaviest = functools.cache(lambda size: plan.tokens_of(plan.heaviest(size, world)))
    limit = f"{whole / GIB:.1f} GiB"
    if requested is not True:
        for size in sizes:
            small = size < share and size * mean < MIN_TOKENS_PER_PASS and requested is None and not config.micro_batch
            if need.keeping(heaviest(size)) <= room and not small:
                weights = 1.25 * need.dequantised + need.in_8_bits
                cache_weights = room - need.keeping(heaviest(size)) > weights
                save_activations = cache_weights and room - need.keeping(heaviest(size), norms=True) > weights
                also = ", dequantised weights held" * cache_weights + ", norms and gates kept" * save_activations
                return MemoryPlan(
                    False,
                    size,
                    cache_weights,
                    save_activations,
                    f"{size} Examples at once, nothing recomputed{also} ({limit})",
                )
    if requested is not False:
        for size in sizes:
            if need.recomputing(heaviest(size)) <= room:
                return MemoryPlan(
                    True, size, False, False, f"{size} Examples at once, activations recomputed ({limit})"
                )
    recompute = requested is not False
    least = heaviest(sizes[-1])
    wanted = (need.recomputing(least) if recompute else need.keeping(least)) + whole - room
    return MemoryPlan(
        recompute,
        sizes[-1],
        False,
        False,
        f"{sizes[-1]} Examples at once; that may need {wanted / GIB:.1f} GiB of {limit}",
    )


def most_careful(plans: Sequence[MemoryPlan]) -> MemoryPlan:
    """Of the plans of all processes, whose GPUs may have more and less free, the one that fits each of them."""
    return max(
        plans, key=lambda plan: (plan.recompute, -plan.micro_batch, not plan.cache_weights, not plan.save_activations)
    )


def _micro_batch_sizes(share: int) -> list[int]:
    """How many Examples go at once where a step is cut into 1, 2, 3 … parts, largest first."""
    return sorted({-(-share // parts) for parts in range(1, share + 1)}, reverse=True)


def can_cache_weights(base: nn.Module) -> bool:
    """Whether the dequantised weights take less than half of what the device has free."""
    states = [p.quant_state for p in base.parameters() if getattr(p, "quant_state", None) is not None]
    weights = sum(state.shape.numel() * state.dtype.itemsize for state in states)
    device = next(base.parameters()).device
    return 2 * weights < available(device) * USABLE_SHARE - memory_in_use(device)


def cache_tokens(base: nn.Module) -> float:
    """Places of a key-value cache that answering may fill: half of what is free on a GPU, 32,000 elsewhere."""
    weight = next(base.parameters())
    if weight.device.type != "cuda":
        return 32_000
    shape = base.config
    head = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    each = 2 * shape.num_hidden_layers * head * shape.num_key_value_heads * weight.element_size()
    free = available(weight.device) * USABLE_SHARE - memory_in_use(weight.device)
    return max(2048.0, free / 2 / each)


def reset_peak_memory(device: torch.device) -> None:
    """Reset `peak_memory`: each cell of a sweep, and each evaluation, has its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:  # not Linux: the whole process's
            file.write("5")


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak since `reset_peak_memory`: the GPU allocator's, or the process's resident set on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def available(device: torch.device) -> float:
    """Bytes that this process may take in all: what is free, and what it holds."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return min(psutil.virtual_memory().available, free_in_cgroup()) + memory_in_use(device)


def free_in_cgroup(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes left under the container's own limit (cgroup 2, then 1), which the machine's free memory does not show."""
    for names in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        try:
            limit, used, stat = ((root / name).read_text(encoding="ascii") for name in names)
            cached = next(int(line.split()[1]) for line in stat.splitlines() if "inactive_file" in line.split()[0])
            return int(limit) - int(used) + cached  # files that were read lately give way
        except (OSError, ValueError, StopIteration):  # no such cgroup, or "max": no limit
            continue
    return math.inf
