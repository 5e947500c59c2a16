"""summary.json: what a run did, whether it finished or broke."""

import contextlib
import datetime
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from llama_exp import metrics
from llama_exp.data.chat_format import chat_format
from llama_exp.model import hardware
from llama_exp.model.base import unpacked_size
from llama_exp.model.lora import causal_lm, save_lora, scale, trainable_parameters
from llama_exp.model.memory import peak_memory
from llama_exp.overlap import audit
from llama_exp.report.drawing import Page
from llama_exp.report.loss_note import points
from llama_exp.runs.adapter import adapter_checksums
from llama_exp.runs.provenance import provenance
from llama_exp.runs.run import Outcome, Run
from llama_exp.runs.summary import PART, Summary
from llama_exp.training import part
from llama_exp.training.callbacks import Curves
from llama_exp.training.ending import Submit, describe, draw_losses, page_of
from llama_exp.training.energy import Energy


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a fit ended, "finished", "stopped early" or "stopped at 25 %", and when this process began it.

    trained: whether it made any step.
    """

    status: str
    started: str
    trained: bool = True

    @property
    def is_part(self) -> bool:
        return self.status.startswith(PART)


def save_run(run: Run, trainer: L.Trainer, module, data, fitted: Fitted, draw: Submit) -> str:
    """Save the adapter, then summary.json, and delete the checkpoints. Returns the outcome in one line."""
    curves = next(callback for callback in trainer.callbacks if isinstance(callback, Curves))
    if not trainer.is_global_zero:
        return fitted.status
    with run.clock("save"):
        save_lora(module.model, run.adapter)
    seconds = {**run.clock.seconds, "train": round(curves.seconds + run.clock.seconds["train"], 3)}
    rows = run.metrics()
    losses, validation = points(rows, "loss"), points(rows, "validation_loss")
    loss = {
        "train": losses[-1][1] if losses else None,
        "validation": validation[-1][1] if validation else None,
        "best_validation": min((value for _, value in validation), default=None),
    }
    if run.config.early_stopping and run.config.monitor != "validation_loss":
        loss["kept_validation"] = kept_loss(rows, run.config.monitor)
    common = describe_fit(run, trainer, data, fitted.started, fitted.status, None)
    trained = describe_training(run, trainer, module, data, curves)
    summary = Summary(**common, **trained, loss=loss, seconds=seconds)
    run.write_summary(summary)
    run.take_back()
    run.discard_checkpoints()
    message, kept = describe(run.config, summary, rows)
    print(f"{run.folder}: {message}{kept}", flush=True)
    draw_losses(page_of(run, message), rows, draw)
    return message + kept


def kept_loss(rows: list[dict[str, str]], monitor: str) -> float | None:
    """The validation loss at the step of the best score: that of the adapter that early stopping kept."""
    lower = metrics.describe(monitor).lower_is_better
    scores = points(rows, monitor)
    step = (min if lower else max)(scores, key=lambda point: point[1])[0] if scores else None
    return dict(points(rows, "validation_loss")).get(step)


def save_part(run: Run, trainer: L.Trainer, data, fitted: Fitted, draw: Submit) -> Outcome:
    """Write the summary of a run that `stop_at` ended; its checkpoint stays."""
    save_broken_run(run, trainer, data, fitted.started, fitted.status, f"stop_at={run.config.stop_at:g}", draw)
    summary = run.summary
    if not trainer.is_global_zero or summary is None:
        return Outcome(fitted.status, run.folder)
    return part.outcome(run, summary, fitted.trained)


def save_broken_run(run: Run, trainer: L.Trainer, data, started: str, status: str, reason: str, draw: Submit) -> None:
    """Record how far a fit came and why it ended, and draw its curves. Never hides the error that broke it."""
    if not trainer.is_global_zero:
        return
    with contextlib.suppress(Exception):
        run.write_summary(Summary(**describe_fit(run, trainer, data, started, status, reason[:2000])))
    ended = f"{status.capitalize()} after step {trainer.global_step:,} of {data.plan.total_steps:,}: {reason}"
    draw_losses(Page(str(run.folder), ended), run.metrics(), draw, announce=False)


def describe_fit(run: Run, trainer: L.Trainer, data, started: str, status: str, reason: str | None) -> dict[str, Any]:
    """The part of a Summary that is known of any fit, whether it ended well or broke."""
    step, plan = trainer.global_step, data.plan
    return {
        "run": run.name,
        "status": status,
        "reason": reason,
        "identity": run.identity,
        "counts": counts(data),
        "audit": audit.summary(run.folder),
        "steps": step,
        "planned_steps": plan.total_steps,
        "tokens": plan.seen(step, plan.lengths),
        "energy_joules": next(callback for callback in trainer.callbacks if isinstance(callback, Energy)).spent,
        "world_size": trainer.world_size,
        **provenance(),
        "started": started,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe_training(run: Run, trainer: L.Trainer, module, data, curves: Curves) -> dict[str, Any]:
    """The part of a Summary that only a fit that ended well can tell."""
    config, plan, step = run.config, data.plan, trainer.global_step
    device = next(module.model.parameters()).device
    speed = plan.seen(step, plan.lengths) / max(curves.training_seconds, 1e-9)
    parameters = sum(unpacked_size(p) for p in module.model.parameters())
    # Forward, and backward to the inputs only: the base is frozen. Looking up an embedding is no matrix product.
    flops = 4 * (parameters - causal_lm(module.model).model.embed_tokens.weight.numel())
    return {
        "content": data.content,
        "adapter": adapter_checksums(run.adapter),
        "base": getattr(causal_lm(module.model), "checksums", {}),
        "chat_format": chat_format(data.tokenizer).describe(),
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
        "flops_per_token": flops,
        "mfu": hardware.utilisation(flops * speed / trainer.world_size, device),
        "peak_memory_bytes": peak_memory(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": str(trainer.precision),
        "quantisation": config.model.quantisation.value,
        "micro_batch": data.micro_batch,
        "gradient_checkpointing": causal_lm(module.model).is_gradient_checkpointing,
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
