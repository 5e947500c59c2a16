"""Steps, memory, time and cost of a cell, before anything is trained.

    python train.py dataset=squad sample=1000 preflight=true
    python train.py -m dataset=squad sample=100,1000 lora.r=8,64 preflight=true      a row per cell, and their sum

Nothing is written. A cell that does not fit ends the command (in a sweep: fails) with advice on what would fit.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.data import DATASETS
from llama_exp.errors import UserError
from llama_exp.evaluation.auto_metrics import with_metrics
from llama_exp.formatting import format_duration, format_large, format_memory, format_money, plural
from llama_exp.overlap.audit import find_overlap, report_overlap
from llama_exp.preflight.inspection import say, show_data
from llama_exp.processes import is_sharded, wanted_processes
from llama_exp.records import Tokens
from llama_exp.report import costs
from llama_exp.runs.run import Outcome, Run
from llama_exp.session import Session
from llama_exp.training.train import check

TOLERANCE = 1.25  # cells whose longest micro-batches differ by less than this factor share a measurement
NOT_DATA = ("lora.", "optimizer.", "trainer.", "logger.", "out", "preflight", "seed")  # keys that leave the data alone


@dataclass(frozen=True, slots=True)
class CellForecast:
    """status: "measured", "derived", "already trained", "untuned" or why the cell was refused; only the first two have
    numbers.

    folder   where training would write: that of sample=null where the sample asks for more Examples than there are
    memory   bytes that a step needs; `memory_limit` is what this process may use
    """

    name: str
    folder: Path | None
    status: str
    examples: int | None = None
    steps: int | None = None
    tokens: int | None = None
    memory: float | None = None
    memory_limit: float | None = None
    seconds: float | None = None
    cost: float | None = None

    def __str__(self) -> str:
        if self.seconds is None:
            return self.status
        parts = [
            plural(self.examples, "Example"),
            plural(self.steps, "step"),
            f"{format_large(self.tokens)} tokens",
            f"{format_memory(self.memory)} of {format_memory(self.memory_limit)}",
            f"about {format_duration(self.seconds)}",
        ]
        if self.cost is not None:
            parts.append(format_money(self.cost, costs.load().currency))
        return f"{', '.join(parts)} ({self.status})"


@dataclass(frozen=True, slots=True)
class PreflightOutcome(Outcome):
    """The outcome of a cell, with its numbers for the table of the sweep."""

    forecast: CellForecast


@dataclass
class Preflight:
    """What the cells of a sweep share: data modules, and measured steps by all that decides their cost."""

    data_modules: dict[str, Any] = field(default_factory=dict)
    measurements: dict[tuple, Any] = field(default_factory=dict)
    cells: int = 0


def preflight(config: Config, session: Session) -> PreflightOutcome:
    """Forecast one cell and print it. Raises UserError for a cell that could not be trained."""
    check(config)
    config = with_metrics(config, session)
    session.preflight = session.preflight or Preflight()
    session.preflight.cells += 1
    cell = forecast(config, session)
    say(f"{cell.folder}: {cell}", "bold")
    if config.evaluate and config.lora.r and session.preflight.cells == 1:
        say("  The time of the evaluation is not included.")
    return PreflightOutcome(str(cell), cell.folder, cell)


def forecast(config: Config, session: Session) -> CellForecast:
    run = Run.of(config)
    if run.is_untuned:
        return CellForecast(cell_name(run), run.folder, "untuned: nothing to train")
    run.check_owner()
    if run.is_finished:
        return CellForecast(cell_name(run), run.folder, "already trained")
    data = prepare_data(config, session)
    if config.sample and config.sample >= len(data.available):
        say(session.all_examples(config.sample, len(data.available)))
        return forecast(dataclasses.replace(config, sample=None), session)
    data.plan_steps(config.trainer.get("max_epochs"), config.trainer.get("max_steps"), config.max_tokens)
    return estimate(run, data, session)


def prepare_data(config: Config, session: Session):
    """The cell's data, read, encoded and shown once for all cells that differ in rank or training keys alone."""
    modules = session.preflight.data_modules
    key = repr([(name, value) for name, value in flat(config).items() if not name.startswith(NOT_DATA)])
    if key not in modules:
        while len(modules) > 1:  # a sample beyond what there is needs two
            modules.pop(next(iter(modules)))
        tokenizer = session.tokenizer(config.model)
        data = DATASETS.of(config, tokenizer, session.data)
        data.setup()
        if not config.sample or config.sample < len(data.available):
            show_data(data, tokenizer, with_example=not modules)
            report_overlap(config, data, find_overlap(config, data, session.audits))
        modules[key] = data
    modules[key].seed = config.seed
    return modules[key]


def estimate(run: Run, data, session: Session) -> CellForecast:
    """Measure the longest micro-batch, or take a similar cell's measurement; then add up the planned steps."""
    from llama_exp.model import memory
    from llama_exp.model.base import target_device
    from llama_exp.preflight.measurement import measurement_key

    config, plan, tokens = run.config, data.plan, data.encoded("train")
    device, world = target_device(config.trainer), wanted_processes(config.trainer)
    if is_sharded(config.trainer):
        return estimate_sharded(run, plan, device)
    base = load_base_or_refuse(config, device, session)
    choice = memory.choose(base, config, plan)
    longest = plan.heaviest(choice.micro_batch, world)
    most = plan.tokens_of(longest)
    key = measurement_key(config, device, choice)
    measurements = session.preflight.measurements
    step, status = measurements.get(key), "derived"
    if not step or not step.tokens / TOLERANCE <= most <= step.tokens * TOLERANCE:
        step = measurements[key] = measure_cell(config, base, data, [tokens[index] for index in longest], choice)
        status = "measured"
    needed = step.memory(most)
    if needed > step.memory_limit:
        raise UserError(
            f"Does not fit: a step needs about {format_memory(needed)}; there are {format_memory(step.memory_limit)}. "
            "Type a smaller micro_batch."
        )
    micro_batches = plan.total_steps * plan.accumulation(choice.micro_batch, world)
    trained = plan.seen(plan.total_steps, plan.lengths)
    validated = validations(config, data)
    in_tokens = step.per_token_seconds * trained + step.forward_seconds * validated * validation_tokens(data)
    seconds = step.fixed_seconds * micro_batches + (in_tokens + step.reply_seconds * validated) / world
    price = costs.load().price_per_gpu_hour
    return CellForecast(
        cell_name(run),
        run.folder,
        status,
        examples=len(data.train),
        steps=plan.total_steps,
        tokens=trained,
        memory=needed,
        memory_limit=step.memory_limit,
        seconds=seconds,
        cost=None if price is None or device.type != "cuda" else price * world * seconds / 3600,
    )


def estimate_sharded(run: Run, plan, device) -> CellForecast:
    """The forecast of trainer=fsdp, whose steps only all processes together could measure: memory, from the shape."""
    from llama_exp.model import memory
    from llama_exp.model.base import base_dtype
    from llama_exp.model.checkpoint import read_shape

    config, shape, size = run.config, read_shape(run.config.model), base_dtype(run.config.trainer, device).itemsize
    limit = memory.memory_limit(config, device)
    memory.check_fits(shape, config, limit, size)
    choice, needed = memory.predict(shape, config, plan, limit, size)
    if needed > limit:
        raise UserError(
            f"Does not fit: a step needs about {format_memory(needed)} a GPU; there are {format_memory(limit)}. "
            "Type a smaller max_length or lora.r, or more trainer.devices."
        )
    found = f"about {format_memory(needed)} of {format_memory(limit)} a GPU; the time of trainer=fsdp is not measured"
    say(f"  memory: {choice.why}")
    return CellForecast(cell_name(run), run.folder, found, steps=plan.total_steps, memory=needed, memory_limit=limit)


def load_base_or_refuse(config: Config, device, session: Session):
    import torch

    from llama_exp.model.base import base_dtype, check_gpu, check_length

    check_gpu(config, device)
    try:
        base = session.bases.load(config.model, device, base_dtype(config.trainer, device))
        check_length(base, config.max_length)
        return base
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"Does not fit: loading model={config.model.name} needs more memory than is free here."
        ) from error


def measure_cell(config: Config, base, data, tokens: Sequence[Tokens], choice):
    """Measure with a fresh adapter on the base, and take it off again."""
    from llama_exp.model.kernels.decoder_layer import keep_in_memory
    from llama_exp.model.lora import attach_lora, detach_lora
    from llama_exp.preflight.measurement import measure, time_replies

    start = time.perf_counter()
    model = attach_lora(base, config.lora, config.seed, choice.recompute)
    try:
        with keep_in_memory(base, choice.cache_weights, choice.save_activations, config.optimizer.fp8_backward):
            step = measure(model, config, tokens, choice.micro_batch)
        if config.validation_scores:
            step = dataclasses.replace(step, reply_seconds=time_replies(model, config, data))
    finally:
        detach_lora(model)
    speed = step.tokens / (step.fixed_seconds + step.per_token_seconds * step.tokens)
    say(
        f"  measured in {format_duration(time.perf_counter() - start)}: {speed:,.0f} tokens/s on the "
        f"longest rows ({step.tokens:,} tokens at once)"
        + (f"; validation_scores take {step.reply_seconds:.1f} s at each validation" if step.reply_seconds else "")
    )
    return step


def validations(config: Config, data) -> int:
    """How many a run makes."""
    from llama_exp.training.trainer import validation_interval

    interval = validation_interval(config, data)
    return data.plan.total_steps // interval if interval else 0


def validation_tokens(data) -> int:
    """Tokens of one validation."""
    return sum(len(item.input_ids) for item in data.encoded("validation"))


def cell_name(run: Run) -> str:
    """In a sweep the overrides that make the cell, as typed; else the run's name."""
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        return " ".join(HydraConfig.get().overrides.task)
    return run.name
