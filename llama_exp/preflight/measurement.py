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
from llama_exp.formatting import format_memory
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.lora import causal_lm
from llama_exp.model.memory import MemoryPlan, available, memory_in_use, needs, peak_memory, reset_peak_memory
from llama_exp.records import Tokens
from llama_exp.training.module import FineTuningModule, neftune

STEPS = 3
SHORTER = "model.gradient_checkpointing=true (slower), or a smaller max_length"


@dataclass(frozen=True, slots=True)
class StepMeasurement:
    """What a micro-batch of `tokens` takes on one device: bytes and seconds as straight lines in its tokens.

    memory    at_rest + per_token_memory · tokens: base, adapter and optimizer; then what a step adds
    seconds   fixed_seconds + per_token_seconds · tokens: forward, backward and update
    forward_seconds   a token of validation
    memory_limit      what this process may use in all
    reply_seconds     the replies of validation_scores, at each validation
    """

    tokens: int
    at_rest: float
    per_token_memory: float
    fixed_seconds: float
    per_token_seconds: float
    forward_seconds: float
    memory_limit: float
    reply_seconds: float = 0.0

    def memory(self, tokens: int) -> float:
        return self.at_rest + self.per_token_memory * tokens


def longest_batch(tokens: Sequence[Tokens], size: int) -> Batch:
    return collate(sorted(tokens, key=lambda item: -len(item.input_ids))[:size])


def measure(model: torch.nn.Module, config: Config, tokens: Sequence[Tokens], size: int) -> StepMeasurement:
    """Time the longest micro-batch of `size` Examples. Raises UserError where it does not fit, with what would.

    One row goes first and predicts the rest: on a CPU the kernel would kill a process that takes too much.
    """
    device = next(model.parameters()).device
    optimizer = FineTuningModule(model, config.optimizer, STEPS, config.seed).configure_optimizers()["optimizer"]
    limit = available(device)
    one, whole = longest_batch(tokens, 1).to(device), longest_batch(tokens, size).to(device)
    few, many = one.input_ids.numel(), whole.input_ids.numel()
    try:
        time_step(model, one, optimizer, config)  # creates the optimizer's state; the GPU chooses its kernels
        rest, peak, short = _peak(device, lambda: time_step(model, one, optimizer, config))
    except torch.OutOfMemoryError:
        raise UserError(_does_not_fit("the longest Example alone needs more", limit, SHORTER)) from None
    # The model's shape counts too: a process that had memory before shows no growth when it uses it again.
    row = max(peak - rest, token_memory(model, config) * few)
    expected = rest + row * many / few
    problem = f"{size} of the longest Examples at once need about {format_memory(expected)}"
    refusal = UserError(_does_not_fit(problem, limit, smaller_batch(config, size, limit, rest, row)))
    if expected > limit and device.type == "cpu":
        raise refusal
    try:
        rest, peak, seconds = _peak(
            device, lambda: median(time_step(model, whole, optimizer, config) for _ in range(STEPS))
        )
        forward = _time_forward(model, whole) / many
    except torch.OutOfMemoryError:
        raise refusal from None
    each = (seconds - short) / (many - few) if many > few and seconds > short else seconds / many
    fixed = max(seconds - each * many, 0)
    return StepMeasurement(many, rest, max(peak - rest, 0) / many, fixed, each, forward, limit)


def time_replies(model: torch.nn.Module, config: Config, data) -> float:
    """Seconds of the replies of one validation; a model that has learnt to stop takes less."""
    from llama_exp.training.validation_scores import replies

    examples = data.held_out("validation", config.validation_scores)
    start = time.perf_counter()
    replies(config, data.tokenizer, model, examples)
    return time.perf_counter() - start


def token_memory(model: torch.nn.Module, config: Config) -> float:
    """Bytes that a training step keeps per token."""
    llama = causal_lm(model)
    need = needs(llama.config, config, llama.lm_head.weight.element_size())
    if llama.is_gradient_checkpointing:
        return need.inputs + need.again + need.gates
    return (need.whole if getattr(llama.model.layers[0], "saves_activations", False) else need.kept) + need.passing


def smaller_batch(config: Config, size: int, limit: float, rest: float, row: float) -> str:
    """What to type instead: the largest micro_batch that would fit, if there is one."""
    fitting = [n for n in range(1, size) if config.batch % n == 0 and rest + row * n < 0.9 * limit]
    return f"micro_batch={max(fitting)} (the same steps, in smaller parts)" if fitting else SHORTER


def _does_not_fit(problem: str, limit: float, advice: str) -> str:
    return f"Does not fit: {problem}; there are {format_memory(limit)}. Type {advice}."


def time_step(model: torch.nn.Module, batch: Batch, optimizer, config: Config) -> float:
    """Seconds of forward, backward and update, as in training."""
    start = _now(batch)
    with neftune(model, batch, config.optimizer.neftune):
        nll, _ = response_nll(model, batch)
    nll.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return _now(batch) - start


@torch.no_grad()
def _time_forward(model: torch.nn.Module, batch: Batch) -> float:
    start = _now(batch)
    response_nll(model, batch)
    return _now(batch) - start


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


def measurement_key(config: Config, device: torch.device, choice: MemoryPlan) -> tuple:
    """Cells with the same key take the same memory and time per token."""
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
        config.optimizer.fp8_backward,
        choice.micro_batch,
        config.validation_scores and repr((config.validation_scores, config.dataset, config.eval_batch)),
    )
