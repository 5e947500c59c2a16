"""summary.json: what a run did, whether it finished or broke."""

import contextlib
import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from llama_exp.config.identity import identity
from llama_exp.config.schema import Config
from llama_exp.formatting import plural
from llama_exp.model import hardware
from llama_exp.model.base import real_size
from llama_exp.model.lora import causal_lm, save_lora, scale, trainable_parameters
from llama_exp.model.memory import peak_memory
from llama_exp.overlap import audit
from llama_exp.report import loss_page
from llama_exp.runs import run
from llama_exp.runs.provenance import provenance
from llama_exp.training.callbacks import Curves
from llama_exp.training.energy import Energy


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fit ended: "finished" or "stopped early"; and when this process began it."""

    status: str
    started: str


def leave_behind(
    folder: Path, config: Config, trainer: L.Trainer, data, started: str, status: str, reason: str
) -> None:
    """What a broken fit came to: how far, why it ended, and its curves. Never hides the error that broke it."""
    if not trainer.is_global_zero:
        return
    with contextlib.suppress(Exception):
        run.write_summary(folder, came_to(folder, config, trainer, data, started, status, reason[:2000]))
    ended = f"{status.capitalize()} after step {trainer.global_step:,} of {data.plan.total_steps:,}: {reason}"
    draw_losses(folder, ended, say=False)


def draw_losses(folder: Path, ended: str, say: bool = True) -> None:
    """losses.png and losses.html. A picture that cannot be drawn is said; it never costs a run."""
    try:
        words = loss_page.write(folder, ended)
        if words and say:
            print(f"{words} See {folder}/losses.html", flush=True)
    except Exception as error:
        print(f"The loss curves could not be drawn ({error}); metrics.csv holds them.", flush=True)


def energy(trainer: L.Trainer) -> float | None:
    return next(callback for callback in trainer.callbacks if isinstance(callback, Energy)).spent


def summarise(
    folder: Path, config: Config, trainer: L.Trainer, module, data, outcome: Outcome, clock: run.Clock
) -> str:
    """Save the adapter, then summary.json; the checkpoints go. Returns one line of what came of it."""
    curves = next(c for c in trainer.callbacks if isinstance(c, Curves))
    if not trainer.is_global_zero:
        return outcome.status
    with clock("save"):
        save_lora(module.model, folder / "adapter")
    seconds = {**clock.seconds, "train": round(curves.seconds + clock.seconds["train"], 3)}
    plan, step = data.plan, trainer.global_step
    device = next(module.model.parameters()).device
    rows = run.read_metrics(folder)
    losses, validation = loss_page.points(rows, "loss"), loss_page.points(rows, "validation_loss")
    speed = plan.seen(step, plan.lengths) / max(curves.training_seconds, 1e-9)
    parameters = sum(real_size(p) for p in module.model.parameters())
    flops = 4 * (parameters - causal_lm(module.model).model.embed_tokens.weight.numel())  # a look-up is no product
    run.write_summary(
        folder,
        {
            **came_to(folder, config, trainer, data, outcome.started, outcome.status, None),
            "content": data.content,
            "lora": {
                "r": config.lora.r,
                "alpha": config.lora.alpha,
                "scaling": config.lora.scaling.value,
                "scale": scale(config.lora),
                "targets": config.lora.targets.value,
            },
            "trainable_parameters": trainable_parameters(module.model),
            "parameters": parameters,
            "epochs": step / plan.steps_per_epoch,
            "label_tokens": plan.seen(step, plan.labels),
            "tokens_per_second": speed,
            "flops_per_token": flops,  # forward, and backward to the inputs only: the base is frozen
            "mfu": hardware.utilisation(flops * speed / trainer.world_size, device),
            "seconds": seconds,
            "peak_memory_bytes": peak_memory(device),
            "loss": {
                "train": losses[-1][1] if losses else None,
                "validation": validation[-1][1] if validation else None,
                "best_validation": min((loss for _, loss in validation), default=None),
            },
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "precision": str(trainer.precision),
            "quantisation": config.model.quantisation.value,
            "micro_batch": data.micro_batch,
            "gradient_checkpointing": causal_lm(module.model).is_gradient_checkpointing,
        },
    )
    run.discard_checkpoints(folder)
    said = f"{outcome.status}: {plural(step, 'step')} in {seconds['train']:.0f} s, loss {losses[-1][1]:.3f}"
    if validation:
        measured, held_out = validation[-1]
        said += f", validation loss {held_out:.3f}" + (f" at step {measured:,.0f}" if measured != step else "")
    print(f"{folder}: {said}", flush=True)
    draw_losses(folder, f"{said[:1].upper()}{said[1:]}.")
    return said


def came_to(
    folder: Path, config: Config, trainer: L.Trainer, data, started: str, status: str, reason: str | None
) -> dict[str, Any]:
    """What summary.json says of any fit, whether it ended well or broke."""
    step, plan = trainer.global_step, data.plan
    return {
        "run": f"{folder.parent.name}/{folder.name}",
        "status": status,
        "reason": reason,
        "identity": identity(config),
        "counts": counts(data),
        "audit": audit.summary(folder),
        "steps": step,
        "planned_steps": plan.total_steps,
        "tokens": plan.seen(step, plan.lengths),
        "energy_joules": energy(trainer),
        "world_size": trainer.world_size,
        **provenance(),
        "started": started,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def counts(data) -> dict[str, Any]:
    """What became of the rows: read, cleaned, dropped, sampled, encoded."""
    sample = data.counts["sample"]
    encoded = data.counts["encoded"]
    train = {"asked": sample["asked"], "available": sample["available"], "sampled": sample["used"], **encoded["train"]}
    return {
        **{key: value for key, value in data.counts.items() if key not in ("sample", "encoded")},
        "train": train,
        **{split: value for split, value in encoded.items() if split != "train"},
    }
