"""Three real steps on the longest rows: how much memory a cell takes, and how long its micro-batches.

The base and the adapter are the real ones; the gradients and the adapter are thrown away.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from llama_exp.batch import Batch
from llama_exp.config.schema import Config
from llama_exp.data.packing import collate
from llama_exp.errors import UserError
from llama_exp.formatting import format_memory as in_words
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.lora import causal_lm
from llama_exp.model.memory import Choice, available, memory_in_use, needs, peak_memory, reset_peak_memory
from llama_exp.records import Tokens
from llama_exp.training.module import FineTuningModule, neftune

STEPS = 3
SHORTER = "model.gradient_checkpointing=true (slower), or a smaller max_length"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a micro-batch of so many tokens takes on one device.

    memory    at_rest + per_token · tokens, in bytes: base, adapter and optimizer; then what a step adds
    seconds   fixed + each · tokens: forward, backward and update
    forward   seconds a token of validation
    room      bytes this process may take in all
    """

    tokens: int
    at_rest: float
    per_token: float
    fixed: float
    each: float
    forward: float
    room: float

    def memory(self, tokens: int) -> float:
        return self.at_rest + self.per_token * tokens


def longest(tokens: Sequence[Tokens], share: int) -> Batch:
    """The `share` longest Examples, as one micro-batch."""
    return collate(sorted(tokens, key=lambda item: -len(item.input_ids))[:share])


def measure(model: torch.nn.Module, config: Config, tokens: Sequence[Tokens], share: int) -> Measured:
    """Time the longest micro-batch of `share` Examples. Raises UserError where it does not fit, and says what would.

    One row goes first: what it takes foretells the whole, so that a CPU's kernel need not kill this process to say no.
    """
    device = next(model.parameters()).device
    optimizer = FineTuningModule(model, config.optimizer, STEPS, config.seed).configure_optimizers()["optimizer"]
    room = available(device)
    one, whole = longest(tokens, 1).to(device), longest(tokens, share).to(device)
    few, many = one.input_ids.numel(), whole.input_ids.numel()
    try:
        step(model, one, optimizer, config)  # makes the optimizer's state, and the GPU's choice of kernels
        rest, peak, short = _peak(device, lambda: step(model, one, optimizer, config))
    except torch.OutOfMemoryError:
        raise UserError(_too_much("the longest Example alone needs more", room, SHORTER)) from None
    # what the model's shape says counts too: a process that has had memory before shows no growth when it uses it again
    row = max(peak - rest, memory_of_a_token(model, config) * few)
    expected = rest + row * many / few
    refusal = UserError(
        _too_much(
            f"{share} of the longest Examples at once need about {in_words(expected)}",
            room,
            smaller(config, share, room, rest, row),
        )
    )
    if expected > room and device.type == "cpu":
        raise refusal
    try:
        rest, peak, seconds = _peak(device, lambda: median(step(model, whole, optimizer, config) for _ in range(STEPS)))
        forward = _forward(model, whole) / many
    except torch.OutOfMemoryError:
        raise refusal from None
    each = (seconds - short) / (many - few) if many > few and seconds > short else seconds / many
    return Measured(many, rest, max(peak - rest, 0) / many, max(seconds - each * many, 0), each, forward, room)


def memory_of_a_token(model: torch.nn.Module, config: Config) -> float:
    """Bytes that a training step keeps of a token."""
    llama = causal_lm(model)
    need = needs(llama.config, config, llama.lm_head.weight.element_size())
    if llama.is_gradient_checkpointing:
        return need.inputs + need.again + need.gates
    return (need.whole if getattr(llama.model.layers[0], "saves_activations", False) else need.kept) + need.passing


def smaller(config: Config, share: int, room: float, rest: float, row: float) -> str:
    """What to type instead: the largest micro_batch that would fit, if there is one."""
    fitting = [n for n in range(1, share) if config.batch % n == 0 and rest + row * n < 0.9 * room]
    return f"micro_batch={max(fitting)} (the same steps, in smaller parts)" if fitting else SHORTER


def _too_much(what: str, room: float, advice: str) -> str:
    return f"Does not fit: {what}; there are {in_words(room)}. Type {advice}."


def step(model: torch.nn.Module, batch: Batch, optimizer, config: Config) -> float:
    """Seconds of forward, backward and update, as in training."""
    began = _now(batch)
    with neftune(model, batch, config.optimizer.neftune):
        nll, _ = response_nll(model, batch)
    nll.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return _now(batch) - began


@torch.no_grad()
def _forward(model: torch.nn.Module, batch: Batch) -> float:
    began = _now(batch)
    response_nll(model, batch)
    return _now(batch) - began


def _now(batch: Batch) -> float:
    if batch.input_ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(device: torch.device, work) -> tuple[float, float, float]:
    """(bytes before, bytes at the peak, what `work` returned)."""
    before = memory_in_use(device)
    reset_peak_memory(device)
    result = work()
    return before, max(peak_memory(device), before), result


def key_of(config: Config, device: torch.device, choice: Choice) -> tuple:
    """Cells with the same key differ in nothing that a token costs."""
    model, lora = config.model, config.lora
    return (
        model.path,
        model.revision,
        model.quantisation,
        choice.recompute,
        choice.cache_weights,
        choice.save_activations,
        str(device),
        lora.r,
        lora.targets,
        lora.dropout > 0,
        config.optimizer.name,
        config.optimizer.neftune > 0,
        choice.micro_batch,
    )
