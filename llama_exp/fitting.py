"""One fit, from a configured Trainer to a saved adapter and its summary.json."""

import contextlib
import datetime
import hashlib
import os
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from llama_exp import cli
from llama_exp.callbacks import Checkpoints, Curves, KeepBest, WholeCheckpoints
from llama_exp.config.identity import flat, identity
from llama_exp.config.schema import Config
from llama_exp.energy import Energy
from llama_exp.errors import UserError
from llama_exp.model.base import hardware
from llama_exp.model.base.base import causal_lm, real_size
from llama_exp.model.base.lora import save_lora, scale, trainable_parameters
from llama_exp.model.base.memory import forget_peak, peak_memory
from llama_exp.overlap import audit
from llama_exp.progress import Progress
from llama_exp.report import loss_page
from llama_exp.report.words import plural
from llama_exp.runs.run import run

MANY, VALIDATING = 10, 0.25  # validation losses of a run, and the share of training time that they may add


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fit ended: "finished" or "stopped early"; and when this process began it."""

    status: str
    started: str


def build_trainer(config: Config, folder: Path, data, base: torch.nn.Module) -> L.Trainer:
    """`Trainer(**config.trainer)` with our callbacks, loggers and the plan's number of steps."""
    cli.hush()  # again: Lightning turned its loggers up when it was imported
    settings = dict(config.trainer)
    for ours in ("max_epochs", "max_steps"):  # the plan's rule, one for all cells, counts in steps
        settings.pop(ours, None)
    device = next(base.parameters()).device
    usual = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[
        next(base.parameters()).dtype
    ]
    settings.setdefault("precision", usual)
    if str(settings["precision"]).split("-")[0] != usual.split("-")[0]:
        raise UserError(f"trainer.precision={settings['precision']}: this device computes in {usual} or 32-true.")
    if device.type == "cpu":
        settings["accelerator"] = "cpu"
    if not sys.stderr.isatty():
        settings["enable_progress_bar"] = False
    plan = data.plan
    interval = validation_interval(config, data)
    curves = Curves(folder, plan, late=int(device.type == "cuda"))
    bar = [Progress(curves.last, plan.total_steps)] if settings.get("enable_progress_bar", True) else []
    trainer = L.Trainer(
        **settings,
        max_epochs=1,
        max_steps=plan.total_steps,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        limit_val_batches=1.0 if interval else 0,
        check_val_every_n_epoch=None,
        default_root_dir=folder,
        logger=build_loggers(config, folder),
        plugins=[WholeCheckpoints()],
        callbacks=[
            curves,
            KeepBest(config.early_stopping),
            Energy(),
            Checkpoints(folder, config.checkpoint_every, interval),
            *bar,
        ],
    )
    trainer.accumulate_grad_batches = plan.accumulation(data.micro_batch, trainer.world_size)
    trainer.val_check_interval = (interval or 1) * trainer.accumulate_grad_batches
    return trainer


def validation_interval(config: Config, data) -> int | None:
    """Optimizer steps from one validation loss to the next; None where there are none.

    Left open (`validations=null`), there are MANY, fewer (but two) where they would add more than VALIDATING to a training's
    time: with a frozen base a validated token costs half of one that is learnt. They are not fewer where they decide when
    to stop.
    """
    if not data.validation or config.validations == 0:
        return None
    many = config.validations or MANY
    if config.validations is None and not config.early_stopping:
        once = sum(len(tokens.input_ids) for tokens in data.encoded("validation"))
        learnt = data.plan.seen(data.plan.total_steps, data.plan.lengths)
        many = min(many, max(2, int(2 * VALIDATING * learnt / max(once, 1))))
    total = data.plan.total_steps
    # about so many, and the last one near the end
    return min(
        {max(1, total // many), -(-total // many)}, key=lambda steps: (abs(total // steps - many), total % steps)
    )


def build_loggers(config: Config, folder: Path) -> list:
    """The configured logger, or none. One that cannot start is said and left out: metrics.csv is the truth."""
    if not config.logger:
        return []
    from hydra.utils import instantiate

    extra: dict[str, Any] = {"save_dir": str(folder)}
    if config.logger["_target_"].endswith("WandbLogger"):
        name = f"{folder.parent.name}/{folder.name}"
        extra |= {
            "name": name,
            "id": hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            "resume": "allow",
            "group": f"{config.dataset.name}-{config.model.name}",
            "config": flat(config),
            "offline": not os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "offline",
        }
    try:
        logger = instantiate({**extra, **config.logger}, _convert_="all")
        _ = logger.experiment  # starts it: what is wrong shows here, not in the middle of a fit
        return [logger]
    except Exception as error:
        print(
            f"The logger {config.logger['_target_']} could not start ({error}); metrics.csv is written all the same.",
            flush=True,
        )
        return []


def fit(trainer: L.Trainer, module: L.LightningModule, data, folder: Path, config: Config) -> Outcome:
    """Train to the planned number of steps, from the last checkpoint if there is one.

    Loggers always end, with a status. A fit that breaks leaves its reason in summary.json, and its curves, behind.
    """
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    checkpoint = whole_checkpoint(folder)
    forget_peak(next(module.parameters()).device)
    if checkpoint is None:
        for stale in ("eval", "adapter", "simulation", "summary.json"):  # of a run that this one replaces
            with contextlib.suppress(NotADirectoryError):
                shutil.rmtree(folder / stale, ignore_errors=True)
        (folder / "summary.json").unlink(missing_ok=True)
    else:
        print(f"Continuing from {checkpoint}.", flush=True)
    code = 1
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
        code = 0
    except (KeyboardInterrupt, SystemExit):  # Lightning exits after Ctrl-C or SIGTERM, and would be the last to speak
        leave_behind(folder, config, trainer, data, started, "interrupted", "stopped by Ctrl-C or SIGTERM")
        raise KeyboardInterrupt(interrupted(folder, config, trainer.global_step, data.plan.total_steps)) from None
    except OSError as error:
        raise UserError(
            f"Writing to {folder} failed: {error.strerror or error}. Free some space and type the same command again."
        ) from error
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        leave_behind(folder, config, trainer, data, started, "failed", reason)
        raise
    finally:
        _finish_loggers(trainer, code)
    best = next(c for c in trainer.callbacks if isinstance(c, KeepBest))
    if trainer.global_step < data.plan.total_steps and not best.stopped:
        reason = f"ended after {trainer.global_step} of {data.plan.total_steps} planned steps"
        leave_behind(folder, config, trainer, data, started, "interrupted", reason)
        raise UserError(
            f"{folder}: the run {reason}: a limit among the trainer's keys? How long a run is, trainer.max_epochs, "
            "trainer.max_steps and max_tokens say."
        )
    best.restore(module)
    return Outcome("stopped early" if best.stopped else "finished", started)


def whole_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to continue from; None where there is none, or only one that a disk or a copy has damaged.

    A kill leaves no half of one (WholeCheckpoints). torch writes a zip archive, whose sums tell whether it is what was written.
    """
    path = folder / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is None:
                return path
    except zipfile.BadZipFile:
        pass
    aside = path.with_name("last.ckpt.broken")
    with contextlib.suppress(FileNotFoundError):  # another rank of this run was first
        os.replace(path, aside)
    print(
        f"{path} is damaged and cannot be continued from: put aside as {aside.name}. The run starts anew.", flush=True
    )
    return None


def interrupted(folder: Path, config: Config, step: int, steps: int) -> str:
    """How far it came, and what the same command will do."""
    again = "The same command continues from the last checkpoint."
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        when = f"every {config.checkpoint_every} steps" if config.checkpoint_every else "one a minute"
        again = f"There was no checkpoint yet ({when}: checkpoint_every): the same command starts it anew."
    return f"Interrupted after step {step:,} of {steps:,}. {again}"


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


def _finish_loggers(trainer: L.Trainer, code: int) -> None:
    for logger in trainer.loggers:
        with contextlib.suppress(Exception):
            logger.finalize("success" if code == 0 else "failed")
        if type(logger).__name__ == "WandbLogger":
            import wandb

            with contextlib.suppress(Exception):
                wandb.finish(exit_code=code)


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
        **run.provenance(),
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
