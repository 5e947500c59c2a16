"""One fit, from a configured Trainer to a saved adapter and its summary.json."""

import datetime
import functools
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from llama_exp.config.schema import Config
from llama_exp.config.targets import import_target
from llama_exp.config.trainer_keys import PLANNED, as_list, named_loggers
from llama_exp.errors import UserError
from llama_exp.model.memory import reset_peak_memory
from llama_exp.processes import Processes, is_sharded
from llama_exp.quiet import silence_libraries
from llama_exp.runs.run import Run
from llama_exp.session import Session
from llama_exp.tracking import Trackers
from llama_exp.training import part
from llama_exp.training.callbacks import Checkpoints, Curves, KeepBest
from llama_exp.training.checkpoint import WholeCheckpoints, usable_checkpoint
from llama_exp.training.energy import Energy
from llama_exp.training.progress import Progress
from llama_exp.training.strategy import ShardedBase, StartedProcesses
from llama_exp.training.summary import Fitted, save_broken_run
from llama_exp.training.validation_scores import ValidationScores, score_names

MANY, VALIDATING = 10, 0.25  # validation losses of a run, and the share of training time that they may add


def build_trainer(run: Run, data, base: torch.nn.Module, trackers: Trackers, session: Session) -> L.Trainer:
    """`Trainer(**config.trainer)` with our callbacks, loggers and the plan's number of steps."""
    config = run.config
    silence_libraries()  # again: Lightning turned its loggers up when it was imported
    settings = {key: instantiate_all(value) for key, value in config.trainer.items() if key not in PLANNED}
    settings = {key: value for key, value in settings.items() if value is not None}
    theirs = {key: as_list(settings.pop(key, None)) for key in ("callbacks", "plugins")}
    device = next(base.parameters()).device
    settings["precision"] = precision(settings.get("precision"), next(base.parameters()).dtype)
    if device.type == "cpu":
        settings["accelerator"] = "cpu"
    if is_sharded(config.trainer):
        settings["strategy"] = ShardedBase()
    if not sys.stderr.isatty():
        settings["enable_progress_bar"] = False
    plan = data.plan
    interval = validation_interval(config, data)
    until = part.last_step(config, interval, plan.total_steps)
    curves = Curves(run.folder, plan, trackers, score_names(config) if interval else ())
    scores = [ValidationScores(config, data, trackers)] if curves.scores else []
    bar = [Progress(curves.last, plan.total_steps)] if settings.get("enable_progress_bar", True) else []
    defaults = {"num_sanity_val_steps": 0, "limit_val_batches": 1.0, "log_every_n_steps": 1}
    if interval:
        data.encoded("validation")  # counted, also where a run that goes on has its last validation behind it
    else:
        settings["limit_val_batches"] = 0
    try:
        trainer = L.Trainer(
            **defaults | settings,
            max_epochs=1,
            max_steps=plan.total_steps,
            use_distributed_sampler=False,
            check_val_every_n_epoch=None,
            default_root_dir=run.folder,
            logger=trackers.loggers,
            plugins=[WholeCheckpoints(), *environment(session, theirs["plugins"]), *theirs["plugins"]],
            callbacks=[
                *scores,  # first: the others look at what they find
                curves,
                KeepBest(config.early_stopping, config.monitor),
                Energy(),
                Checkpoints(run.folder, config.checkpoint_every, interval, session.stop, until),
                *bar,
                *theirs["callbacks"],
            ],
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        given = ", ".join(f"trainer.{key}={value}" for key, value in config.trainer.items())
        raise UserError(f"lightning.Trainer refused the trainer's keys: {error}\nGiven were {given}") from error
    trainer.accumulate_grad_batches = plan.accumulation(data.micro_batch, trainer.world_size)
    trainer.val_check_interval = (interval or 1) * trainer.accumulate_grad_batches
    return trainer


def environment(session: Session, plugins: list[Any]) -> list[ClusterEnvironment]:
    """What tells Lightning about the processes that train together, unless the user's plugins do.

    Left to itself it would import mpi4py where that is installed, half a second, and inside of a Slurm job requeue the
    job at SIGUSR1, which `launch` or the user's script does already. torchrun's processes it finds by itself.
    """
    processes = session.processes
    if processes.count > 1 and not processes.outside:
        return [StartedProcesses()]
    if any(isinstance(plugin, ClusterEnvironment) for plugin in plugins) or TorchElasticEnvironment.detect():
        return []
    if SLURMEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return [] if processes.outside else [StartedProcesses()]


def precision(wanted: Any, dtype: torch.dtype) -> str:
    """Lightning's name for what the base computes in. Raises UserError where another one is requested."""
    usual = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[dtype]
    if wanted is not None and str(wanted).split("-")[0] != usual.split("-")[0]:
        raise UserError(f"trainer.precision={wanted}: this device computes in {usual} or 32-true.")
    return usual if wanted is None else str(wanted)


def instantiate_all(value: Any) -> Any:
    """A value of trainer.*, with what has a `_target_` made into an object."""
    if isinstance(value, list | tuple):
        return [instantiate_all(item) for item in value]
    if isinstance(value, dict) and "_target_" in value:
        arguments = {key: instantiate_all(of) for key, of in value.items() if not key.startswith("_")}
        try:
            return import_target(value["_target_"], "trainer")(**arguments)
        except TypeError as error:
            raise UserError(f"trainer: {value['_target_']} was not made: {error}") from error
    return {key: instantiate_all(of) for key, of in value.items()} if isinstance(value, dict) else value


def check_targets(config: Config) -> None:
    """Import every class that trainer.* and logger.* name, so that a typo costs no loading of a model."""
    for section, items in (
        ("trainer.callbacks", as_list(config.trainer.get("callbacks"))),
        ("trainer.plugins", as_list(config.trainer.get("plugins"))),
        ("logger", list(named_loggers(config.logger).values())),
    ):
        for item in items:
            import_target(item["_target_"], section)


def validation_interval(config: Config, data) -> int | None:
    """Optimizer steps from one validation loss to the next; None where there are none.

    Left open (`validations=null`), there are MANY, fewer (but two) where they would add more than VALIDATING to a
    training's time: with a frozen base a validated token costs half of one that is learnt. They are not fewer where
    they decide when to stop.
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


def fit(run: Run, trainer: L.Trainer, module: L.LightningModule, data, trackers: Trackers, session: Session) -> Fitted:
    """Train to the planned number of steps, from the last checkpoint if there is one.

    A fit that breaks leaves its reason in summary.json and its curves.
    """
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stop, draw = session.stop, session.pages.submit
    checkpoint = agreed_checkpoint(run, module, data, session.processes)
    reset_peak_memory(next(module.parameters()).device)
    try:
        with session.processes.training():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except (KeyboardInterrupt, SystemExit):  # Lightning exits after a second Ctrl-C, and would be the last to speak
        reason = f"stopped by {stop.name}"
        save_broken_run(run, trainer, data, started, "interrupted", reason, draw)
        raise stop.exception(describe_interruption(run, reason, trainer.global_step, data.plan.total_steps)) from None
    except OSError as error:
        raise UserError(
            f"Writing to {run.folder} failed: {error.strerror or error}. Free some space and type the same command "
            "again."
        ) from error
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        at_once = functools.partial(draw, at_once=trackers.show_figures)
        save_broken_run(run, trainer, data, started, "failed", reason, at_once)
        trackers.log_losses()
        raise
    checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))
    if step := checkpoints.ended_at:
        return Fitted(part.status(step, data.plan.total_steps), started, step > checkpoints.began_at)
    best = next(c for c in trainer.callbacks if isinstance(c, KeepBest))
    ended_before_its_plan = trainer.global_step < data.plan.total_steps
    stopped = best.stopped or (ended_before_its_plan and stopped_by_callback(trainer))
    if ended_before_its_plan and not stopped:
        reason = f"ended after {trainer.global_step} of {data.plan.total_steps} planned steps"
        save_broken_run(run, trainer, data, started, "interrupted", reason, draw)
        raise UserError(
            f"{run.folder}: the run {reason}: a limit among the trainer's keys? How long a run is, trainer.max_epochs, "
            "trainer.max_steps and max_tokens say."
        )
    best.restore(module)
    return Fitted("stopped early" if stopped else "finished", started)


def agreed_checkpoint(run: Run, module: L.LightningModule, data, processes: Processes) -> Path | None:
    """The checkpoint that all processes continue from; None where the first one found none, and cleared the folder."""
    checkpoint = None
    if processes.is_first and (checkpoint := usable_checkpoint(run.checkpoint, module, data.plan.total_steps)) is None:
        run.clear()
    checkpoint = processes.agree(checkpoint)
    if not all(processes.gather(checkpoint is None or checkpoint.is_file())):
        raise UserError(
            f"{checkpoint} is not there on every machine: outputs=FOLDER must name a folder that all of them see."
        )
    if checkpoint is not None:
        print(f"Continuing from {checkpoint}.", flush=True)
    return checkpoint


def stopped_by_callback(trainer: L.Trainer) -> bool:
    """Whether a callback of the user's ended the run, such as EarlyStopping; time that is up (max_time) is no such
    end."""
    timed_out = any(isinstance(c, Timer) and (c.time_remaining() or 0) <= 0 for c in trainer.callbacks)
    return trainer.should_stop and not timed_out and not trainer.received_sigterm


def describe_interruption(run: Run, reason: str, step: int, steps: int) -> str:
    """How far it came, and what the same command will do."""
    again = "The same command continues from the last checkpoint."
    if not run.checkpoint.is_file():
        again = "There is no checkpoint yet: the same command restarts from step 0."
    return f"Interrupted after step {step:,} of {steps:,}: {reason}. {again}"
