"""What happens beside the training loop: curves on disk, checkpoints, the best adapter so far."""

import contextlib
import csv
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from llama_exp import metrics
from llama_exp.model.memory import peak_memory
from llama_exp.runs.files import atomic_write
from llama_exp.runs.metrics import read_metrics
from llama_exp.runs.summary import find_summary
from llama_exp.stopping import StopSignals
from llama_exp.tracking import Trackers
from llama_exp.training.energy import Energy
from llama_exp.training.progress import format_metrics

COLUMNS = ["step", "epoch", "tokens", "seconds", "loss", "validation_loss", "lr", "grad_norm", "tokens_per_second"]


A_MINUTE = 60.0  # of work that a kill may cost where `checkpoint_every` is left open
AGREED_EVERY = 8  # optimizer steps between looks at the clock of several processes: a look waits for the GPU


class Checkpoints(Checkpoint):
    """`checkpoints/last.ckpt`, every so many optimizer steps: adapter, optimizer, schedule and position, not the base.

    every: None = one a minute. On a GPU a step is over long before a checkpoint of it is written (2 s at 7B).
    stop: after a signal one is written as soon as possible, and the training ends.
    until: after the validation at this step one is written, and the training ends, too; None: it runs to its end.

    Only at the end of a step, and after the validation that is due there (every `interval` steps; None: never):
    Lightning does not repeat it, so a checkpoint written before it would forget what came of it.
    """

    def __init__(
        self,
        folder: Path,
        every: int | None,
        interval: int | None,
        stop: StopSignals | None = None,
        until: int | None = None,
    ):
        self.path, self.every, self.interval = folder / "checkpoints" / "last.ckpt", every, interval
        self.stop, self.until = stop or StopSignals(), until
        self.ended_at: int | None = None  # the step at which `until` ended the training
        self.began_at = 0
        self.last_step = 0
        self.last_time = time.monotonic()

    def on_load_checkpoint(self, trainer, module, checkpoint) -> None:
        """Say the position in micro-batches of today's size: how steps are cut may change between the two processes."""
        loops = checkpoint["loops"]["fit_loop"]
        learnt = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counter in ("total", "current"):  # one epoch, in Lightning's eyes, is the whole run
            at = loops["epoch_loop.batch_progress"][counter]
            open_ = at["processed"] - at["completed"]
            at.update(ready=learnt, started=learnt, processed=learnt, completed=learnt - open_)

    def on_train_start(self, trainer, module) -> None:
        self.began_at = self.last_step = trainer.global_step
        self.last_time = time.monotonic()
        self._end_part(trainer)  # an earlier command came as far
        self.stop.take_over()  # Lightning's own handler of SIGTERM would end the training within a step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.last_step:  # in the middle of a step
            return
        self.last_step = trainer.global_step
        if not self.interval or self.last_step % self.interval:
            self._save(trainer, module)

    def on_validation_end(self, trainer, module) -> None:
        if not trainer.sanity_checking:
            self._end_part(trainer)
            self._save(trainer, module)

    def _end_part(self, trainer) -> None:
        if self.until and trainer.global_step >= self.until and not trainer.should_stop:  # by early stopping, say
            self.ended_at, trainer.should_stop = trainer.global_step, True

    def _save(self, trainer, module) -> None:
        stopping = self._stopping(trainer)
        if stopping or self.ended_at or self._due(trainer):
            module.read()  # never a checkpoint of a step whose loss was not finite
            trainer.save_checkpoint(self.path)
            module.begin()
            self.last_time = time.monotonic()
        if stopping:
            self.stop.stop_if_asked()

    def _stopping(self, trainer) -> bool:
        """Whether a signal has come to any of the processes; they all end at the same step."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(bool(self.stop.received), all=False):
            self.stop.received = self.stop.received or signal.SIGTERM
        return bool(self.stop.received)

    def _due(self, trainer) -> bool:
        if self.every:
            return trainer.global_step % self.every == 0
        due = time.monotonic() - self.last_time >= A_MINUTE
        if trainer.world_size == 1:
            return due
        # all processes write it together, or none
        return trainer.global_step % AGREED_EVERY == 0 and trainer.strategy.broadcast(due)


class Curves(L.Callback):
    """metrics.csv, a row a step; the same numbers to any logger. The file is complete: a logger that fails is only
    reported.

    scores: what is measured at each validation beside the loss.
    late: how many steps may be pending while the next one runs; None = what suits the device.
    """

    def __init__(
        self, folder: Path, plan, trackers: Trackers | None = None, scores: Sequence[str] = (), late: int | None = None
    ):
        self.path, self.plan, self.late, self.trackers = folder / "metrics.csv", plan, late, trackers
        self.scores, self.columns = list(scores), [*COLUMNS, *scores]
        self.tokens = 0  # useful ones (no padding) seen so far
        self.seconds, self.training_seconds = 0.0, 0.0  # seconds: of the processes before this one
        self.last: dict[str, float] = {}  # the latest value of each column
        self.began = time.perf_counter()

    def state_dict(self) -> dict:
        return {"seconds": self.seconds + time.perf_counter() - self.began, "training_seconds": self.training_seconds}

    def load_state_dict(self, state: dict) -> None:
        self.seconds, self.training_seconds = state["seconds"], state["training_seconds"]

    def on_train_start(self, trainer, module) -> None:
        """After a resume, rows beyond the checkpoint are dropped: those steps are run again."""
        self.began = time.perf_counter()
        self.began_at = trainer.global_step
        module.listener, module.late = lambda step: self._step(trainer, module, step), self.late
        self.tokens = self.plan.seen(trainer.global_step, self.plan.lengths)
        if not trainer.is_global_zero:
            return
        steps = [(row, row.get("step") or "") for row in read_metrics(self.path.parent)]
        rows = [row for row, step in steps if step.isdecimal() and int(step) <= trainer.global_step]
        with atomic_write(self.path) as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        if self.trackers and rows:
            summary = find_summary(self.path.parent)
            ended_here = bool(summary and summary.is_part and summary.steps == trainer.global_step)
            self.trackers.log_earlier(rows, have_all=ended_here)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        module.read_finished()  # before the progress bar asks for the numbers

    def on_train_end(self, trainer, module) -> None:
        module.read()

    def on_exception(self, trainer, module, exception) -> None:
        with contextlib.suppress(Exception):  # the exception is what matters
            module.read()

    def _step(self, trainer, module, step) -> None:
        tokens = self.plan.tokens_of(self.plan.step(step.number - 1))
        self.tokens += tokens
        speed = tokens / max(step.seconds, 1e-9)
        self.training_seconds += step.seconds
        self._write(trainer, step.number, loss=step.loss, lr=step.lr, grad_norm=step.grad_norm, tokens_per_second=speed)

    def on_validation_start(self, trainer, module) -> None:
        module.read()

    def on_validation_end(self, trainer, module) -> None:
        loss = trainer.callback_metrics.get("validation_loss")
        if loss is not None and not trainer.sanity_checking:
            scores = {name: float(trainer.callback_metrics[name]) for name in self.scores}
            self._write(trainer, trainer.global_step, validation_loss=float(loss), **scores)
            if trainer.is_global_zero and trainer.progress_bar_callback is None:  # not a terminal: a line now and then
                pace = (time.perf_counter() - self.began) / max(trainer.global_step - self.began_at, 1)
                left = pace * (self.plan.total_steps - trainer.global_step)
                numbers = "  ".join(f"{name} {number}" for name, number in format_metrics(self.last).items())
                step = f"step {trainer.global_step}/{self.plan.total_steps}"
                print(f"  {step}  {numbers}  about {left:.0f} s left", flush=True)

    def _write(self, trainer, step: int, **values: float) -> None:
        self.last |= values
        if not trainer.is_global_zero:
            return
        row = {
            "step": step,
            "epoch": step / self.plan.steps_per_epoch,
            "tokens": self.tokens,
            "seconds": self.seconds + time.perf_counter() - self.began,
            **values,
        }
        row = {key: f"{value:.7g}" if isinstance(value, float) else value for key, value in row.items()}
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        if "validation_loss" not in values and step % trainer.log_every_n_steps:
            return
        if self.trackers:
            numbers = {key: float(value) for key, value in row.items() if key != "step"}
            self.trackers.log_metrics({**numbers, **self._beside(trainer, step)}, step)

    def _beside(self, trainer, step: int) -> dict[str, float]:
        """What loggers get and metrics.csv does not hold: Examples seen, memory, energy."""
        energy = next((callback.spent for callback in trainer.callbacks if isinstance(callback, Energy)), None)
        memory = peak_memory(trainer.strategy.root_device)
        found = {"examples": float(self.plan.examples_seen(step)), "peak_memory_bytes": float(memory)}
        return found if energy is None else {**found, "energy_joules": energy}


class KeepBest(L.Callback):
    """Keeps the adapter with the best validation loss, or score, and stops after `patience` validations without a
    better one.

    best: of a score of which more is better, its negative.
    It is held in memory and in the checkpoint, so that both are of the same step.
    """

    def __init__(self, patience: int | None, monitor: str = "validation_loss"):
        self.patience, self.monitor = patience, monitor
        self.sign = 1 if monitor == "validation_loss" or metrics.describe(monitor).lower_is_better else -1
        self.best, self.waited = math.inf, 0
        self.adapter: dict[str, torch.Tensor] = {}

    @property
    def stopped(self) -> bool:
        return bool(self.patience) and self.waited >= self.patience

    def state_dict(self) -> dict:
        return {"best": self.best, "waited": self.waited, "adapter": self.adapter}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.waited, self.adapter = state["best"], state["waited"], state["adapter"]

    def on_train_start(self, trainer, module) -> None:
        if self.stopped:  # it had, and was killed before it could say so
            trainer.should_stop = True

    def on_validation_end(self, trainer, module) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None or not trainer.global_step:
            return
        if self.sign * float(value) < self.best:
            self.best, self.waited = self.sign * float(value), 0
            if self.patience:
                self.adapter = {name: value.detach().cpu().clone() for name, value in _learnt(module)}
            return
        self.waited += 1
        if self.stopped:
            trainer.should_stop = True

    @torch.no_grad()
    def restore(self, module) -> None:
        """Put the best adapter back into the model: it is what is saved, and what is evaluated."""
        for name, value in _learnt(module):
            if name in self.adapter:
                value.copy_(self.adapter[name])


def _learnt(module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, value) for name, value in module.named_parameters() if value.requires_grad]
