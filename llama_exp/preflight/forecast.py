"""What a cell would learn, how long it would take and whether it fits, before anything is trained.

    python train.py dataset=squad sample=1000 preflight=true
    python train.py -m dataset=squad sample=100,1000 lora.r=8,64 preflight=true      a row a cell, and their sum

Nothing is written. A cell that does not fit ends the command (in a sweep: is a failed cell) and says what would fit.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.data.cache import DataCache
from llama_exp.errors import UserError
from llama_exp.formatting import format_count, format_duration, format_large, format_memory, format_money, plural
from llama_exp.overlap.audit import AuditCache, find_overlap, report_overlap
from llama_exp.preflight.inspection import say, show_data
from llama_exp.records import Tokens
from llama_exp.report import costs
from llama_exp.runs.run import Outcome, Run
from llama_exp.training.train import check

NEAR = 1.25  # cells whose longest micro-batches differ by less than this share their measurement

cells: list["Cell"] = []  # of this process: a sweep's, in order
_measured: dict[tuple, Any] = {}  # what a token costs, by all that decides it
_audits = AuditCache()
_prepared: dict[str, Any] = {}  # the last data modules
_data_cache = DataCache()  # what they share


@dataclass(frozen=True, slots=True)
class Cell:
    """The forecast of one cell. `how`: "measured", "derived", "already trained", "untuned" or why it is refused.

    `folder` is the one that training would write: that of all Examples where the sample asks for more than there are.
    """

    name: str
    folder: Path
    how: str
    examples: int | None = None
    steps: int | None = None
    tokens: int | None = None
    memory: float | None = None
    room: float | None = None
    seconds: float | None = None
    money: float | None = None

    def __str__(self) -> str:
        if self.seconds is None:
            return self.how
        parts = [
            plural(self.examples, "Example"),
            plural(self.steps, "step"),
            f"{format_large(self.tokens)} tokens",
            f"{format_memory(self.memory)} of {format_memory(self.room)}",
            f"about {format_duration(self.seconds)}",
        ]
        priced = [] if self.money is None else [format_money(self.money, costs.load().currency)]
        return ", ".join(parts + priced) + f" ({self.how})"


def preflight(config: Config) -> Outcome:
    """Forecast one cell and print it. Raises UserError for a cell that could not be trained."""
    check(config)
    folder = Run.of(config).folder
    try:
        cell = forecast(config, folder)
    except UserError as problem:
        cells.append(Cell(name(folder), folder, f"refused: {problem}".split("\n")[0]))
        raise
    cells.append(cell)
    say(f"{cell.folder}: {cell}", "bold")
    if config.evaluate and config.lora.r and len(cells) == 1:
        say("  Evaluation comes on top: it is not counted here.")
    return Outcome(str(cell), cell.folder)


def forecast(config: Config, folder: Path) -> Cell:
    if config.lora.r == 0:
        return Cell(name(folder), folder, "untuned: nothing to train")
    run = Run(config, folder)
    run.check_owner()
    if run.is_finished:
        return Cell(name(folder), folder, "already trained")
    data = prepared(config)
    if config.sample and config.sample >= len(data.available):
        say(f"sample={config.sample} is all {len(data.available)} Examples there are: the cell sample=null.")
        whole = dataclasses.replace(config, sample=None)
        return forecast(whole, Run.of(whole).folder)
    data.plan_steps(config.trainer.get("max_epochs"), config.trainer.get("max_steps"), config.max_tokens)
    return estimate(config, folder, data)


def prepared(config: Config):
    """The cell's data, read, encoded and shown once for all cells that differ in rank or training keys alone."""
    from llama_exp.data import DATASETS
    from llama_exp.model.tokenizer import load_tokenizer

    apart = ("lora.", "optimizer.", "trainer.", "logger.", "out", "preflight", "seed")
    key = repr([(k, v) for k, v in flat(config).items() if not k.startswith(apart)])
    if key not in _prepared:
        while len(_prepared) > 1:  # a sample beyond what there is takes two
            _prepared.pop(next(iter(_prepared)))
        tokenizer = load_tokenizer(config.model)
        data = DATASETS.of(config, tokenizer, _data_cache)
        data.setup()
        if not config.sample or config.sample < len(data.available):
            show_data(data, tokenizer, with_example=not _prepared)
            report_overlap(config, data, find_overlap(config, data, _audits))
        _prepared[key] = data
    _prepared[key].seed = config.seed
    return _prepared[key]


# -- what it would take ------------------------------------------------------------------------------------------------


def estimate(config: Config, folder: Path, data) -> Cell:
    """Measure, or derive from a cell that differs in nothing that a token costs; then add up the plan."""
    from llama_exp.model import memory
    from llama_exp.model.base import target_device
    from llama_exp.preflight.measurement import key_of

    plan, tokens = data.plan, data.encoded("train")
    device, world = target_device(config.trainer), memory.world_size(config)
    base = loaded(config, device)
    choice = memory.choose(base, config, plan)
    share = choice.micro_batch
    heaviest = plan.heaviest(share, world)
    most = plan.tokens_of(heaviest)
    key = key_of(config, device, choice)
    found, how = _measured.get(key), "derived"
    if not found or not found.tokens / NEAR <= most <= found.tokens * NEAR:
        found = _measured[key] = measured(config, base, [tokens[place] for place in heaviest], choice)
        how = "measured"
    needed = found.memory(most)
    if needed > found.room:
        raise UserError(
            f"Does not fit: a step would take about {format_memory(needed)}; there are "
            f"{format_memory(found.room)}. Type a smaller micro_batch."
        )
    micro_batches = plan.total_steps * plan.accumulation(share, world)
    seen = plan.seen(plan.total_steps, plan.lengths)
    seconds = (
        found.fixed * micro_batches + (found.each * seen + found.forward * validation_tokens(config, data)) / world
    )
    price = costs.load().price_per_gpu_hour
    cost = None if price is None or device.type != "cuda" else price * world * seconds / 3600
    return Cell(name(folder), folder, how, len(data.train), plan.total_steps, seen, needed, found.room, seconds, cost)


def loaded(config: Config, device):
    import torch

    from llama_exp.model.base import base_dtype, check_length, load_base

    try:
        base = load_base(config.model, device, base_dtype(config.trainer, device))
        check_length(base, config.max_length)
        return base
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"Does not fit: loading model={config.model.name} needs more memory than is free here."
        ) from error


def measured(config: Config, base, tokens: Sequence[Tokens], choice):
    from llama_exp.model.kernels.decoder_layer import keep_in_memory
    from llama_exp.model.lora import attach_lora, detach_lora
    from llama_exp.preflight.measurement import measure

    began = time.perf_counter()
    model = attach_lora(base, config.lora, config.seed, choice.recompute)
    try:
        with keep_in_memory(base, choice.cache_weights, choice.save_activations):
            found = measure(model, config, tokens, choice.micro_batch)
    finally:
        detach_lora(model)
    speed = found.tokens / (found.fixed + found.each * found.tokens)
    say(
        f"  measured in {format_duration(time.perf_counter() - began)}: {speed:,.0f} tokens/s on the "
        f"longest rows ({found.tokens:,} tokens at once)"
    )
    return found


def validation_tokens(config: Config, data) -> int:
    """Tokens of all validations of a run."""
    from llama_exp.training.trainer import validation_interval

    interval = validation_interval(config, data)
    if interval is None:
        return 0
    return data.plan.total_steps // interval * sum(len(item.input_ids) for item in data.encoded("validation"))


# -- how it is said ----------------------------------------------------------------------------------------------------


def sum_up() -> None:
    """A row a cell, and what all of them take, one after another."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and console.width < 150:
        console.width = 150
    prices = costs.load()
    common = set.intersection(*(set(cell.name.split()) for cell in cells)) if len(cells) > 1 else set()
    table = Table("cell", title=f"{plural(len(cells), 'cell')} before training", title_justify="left")
    for head in ("Examples", "steps", "tokens", "memory", "training", "cost"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("how")
    for cell in cells:
        counts = (format_count(cell.examples), format_count(cell.steps), format_large(cell.tokens))
        cost = "–" if cell.seconds is None else format_money(cell.money, prices.currency)
        title = " ".join(word for word in cell.name.split() if word not in common) or cell.name
        table.add_row(
            Text(title), *counts, format_memory(cell.memory), format_duration(cell.seconds), cost, Text(cell.how)
        )
    console.print(table)
    planned = [cell for cell in cells if cell.seconds is not None]
    if not cells:
        return say("No cell could be planned: the reason stands above.", "bold")
    said = "Nothing to train"
    if planned:
        said = f"{plural(len(planned), 'cell')} to train: about {format_duration(sum(c.seconds for c in planned))}"
        most = max(planned, key=lambda cell: cell.memory)
        said += f"; at most {format_memory(most.memory)} of {format_memory(most.room)}"
    if planned and all(cell.money is not None for cell in planned):
        said += f"; {format_money(sum(cell.money for cell in planned), prices.currency)}"
    refused = sum(cell.how.startswith("refused") for cell in cells)
    say(said + (f". {plural(refused, 'cell')} refused." if refused else "."), "bold")
    if any(cell.money is None for cell in planned):
        say("Cost is unknown: it takes a GPU, and its price per hour in conf/report.yaml (price_per_gpu_hour).")


def name(folder: Path) -> str:
    """The cell by the words that make it, as they were typed; else by its folder."""
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized() and HydraConfig.get().mode and HydraConfig.get().mode.name == "MULTIRUN":
        return " ".join(HydraConfig.get().overrides.task)
    return f"{folder.parent.name}/{folder.name}"
