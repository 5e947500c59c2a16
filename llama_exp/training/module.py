"""The LightningModule around the 4-bit Llama and its adapter: loss, validation, optimizer."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import bitsandbytes as bnb
import lightning as L
import torch
from torch import nn

from llama_exp.batch import Batch
from llama_exp.config.schema import OptimizerConfig, OptimizerName, Schedule
from llama_exp.config.seeds import fold_seed
from llama_exp.errors import NotFinite, UserError
from llama_exp.model.kernels.forward import response_nll
from llama_exp.model.lora import causal_lm
from llama_exp.training.strategy import ShardedBase


@dataclass(frozen=True, slots=True)
class Step:
    """A finished optimizer step: its number from 1, loss in nats a label token over all ranks, gradient norm before
    clipping, seconds since the step before (or since the validation or checkpoint between them)."""

    number: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float


# Seconds of the CPU's clock, or a place among what the GPU has to do.
Moment: TypeAlias = float | torch.cuda.Event


def moment(device: torch.device) -> Moment:
    """Now, in the order of the work that was given to the device: a GPU gets there later."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(first: Moment, second: Moment) -> float:
    """Both must have been reached."""
    return second - first if isinstance(first, float) else first.elapsed_time(second) / 1000


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step that the GPU may still be at. values: summed nll, label tokens and gradient norm, on their way to the
    CPU."""

    number: int
    lr: float
    values: torch.Tensor
    ended: Moment  # when the values have arrived, too


class FineTuningModule(L.LightningModule):
    """Learns the responses of a Batch; only the adapter's parameters learn and are saved in checkpoints.

        model = attach_lora(load_base(config.model, device), config.lora, seed=0)
        L.Trainer(max_epochs=3, logger=CSVLogger("logs")).fit(FineTuningModule(model), SquadDataModule(…))

    It logs train_loss (of each step, and of the epoch's tokens), validation_loss and test_loss, in nats a label token,
    and raises a UserError where a loss or a gradient is not finite. total_steps: None = as many as the Trainer will
    make.

    The loss of a step is  sum(nll) / sum(label tokens)  over the whole accumulated step and all ranks. Lightning
    averages the means of micro-batches, which would weigh short answers wrongly (Lightning-AI/pytorch-lightning#20350);
    so each micro-batch contributes its *sum*, and the gradients are divided once, before clipping.
    """

    strict_loading = False  # a checkpoint holds the adapter, not the base

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig | None = None,
        total_steps: int | None = None,
        seed: int = 0,
        usual_labels: float = 1.0,
    ):
        super().__init__()
        self.model, self.optimizer_config = model, optimizer or OptimizerConfig()
        self.total_steps, self.seed = total_steps, fold_seed(seed)
        # A sum over hundreds of tokens would overflow in float16, and each overflow is a step that learns nothing: so
        # sums are divided by what a step usually has, a constant that the exact division takes out again.
        self.usual_labels = usual_labels
        self.nll: torch.Tensor | float = 0.0  # of the step so far: summed, and of how many label tokens
        self.labels = 0
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.norm: torch.Tensor | None = None  # of the step's gradients, before clipping
        self.pending: deque[PendingStep] = deque()  # steps that were done and not looked at yet
        self.ending: tuple[int, float, torch.Tensor] | None = (
            None  # number, learning rate and values of the step that ends
        )
        self.began: Moment  # the step that is read next
        # Called after each step, in order. Without a listener the module logs to the Trainer's loggers itself.
        self.listener: Callable[[Step], None] | None = None
        # How many steps may be pending while the next one runs: reading one at once would leave a GPU without work
        # meanwhile.
        self.late: int | None = None  # None: 1 on a GPU, 0 on a CPU

    def on_train_start(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start the next step's time now: what happened since the last step is no part of it."""
        self.began = moment(self.trainable[0].device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Seeded per micro-batch, dropout needs no stored random state to be the same after a resume.
        number = self.seed * 1_000_003 + self.trainer.current_epoch * 7_368_787 + batch_idx
        torch.manual_seed((number * 8191 + self.trainer.global_rank) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        with neftune(self.model, batch, self.optimizer_config.neftune):
            nll, _ = response_nll(self.model, batch)
        total = nll.sum()
        self.nll = self.nll + total.detach().float()
        self.labels += nll.numel()
        if self.listener is None:
            self._log("train_loss", total.detach(), nll.numel(), on_step=True, prog_bar=True)
        return total * (self.trainer.accumulate_grad_batches / self.usual_labels)  # Lightning divides by the former

    def _log(self, name: str, total: torch.Tensor, labels: int, **how: bool) -> None:
        """Log the mean over label tokens, so that an epoch's mean is that of its tokens."""
        count = max(labels, 1)
        self.log(
            name, total.float() / count, on_epoch=True, batch_size=count, sync_dist=self.trainer.world_size > 1, **how
        )

    def on_before_optimizer_step(self, optimizer) -> None:
        """Divide the summed gradients by the step's label tokens. Runs once a step, before clipping."""
        world = self.trainer.world_size
        summed = torch.stack([self.nll, torch.full_like(self.nll, self.labels)])
        if world > 1:
            torch.distributed.all_reduce(summed)
        # DistributedDataParallel, or ShardedBase, has averaged over ranks: undo that too
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        if isinstance(self.trainer.strategy, ShardedBase):
            self.trainer.strategy.average(gradients)
        torch._foreach_mul_(gradients, world * self.usual_labels / summed[1].clamp(min=1))
        self.norm = torch.nn.utils.get_total_norm(gradients)
        values = torch.cat([summed, self.norm.float()[None]]).to("cpu", non_blocking=True)
        self.ending = self.trainer.global_step + 1, optimizer.param_groups[0]["lr"], values
        self.nll, self.labels = 0.0, 0

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ending:  # float16's scaler may leave a step out
            self.pending.append(PendingStep(*self.ending, moment(self.trainable[0].device)))
            self.ending = None

    def on_train_batch_end(self, outputs, batch: Batch, batch_idx: int) -> None:
        self.read_finished()

    def read_finished(self) -> None:
        """Look at the steps that the device is done with by now."""
        on_gpu = self.trainable[0].device.type == "cuda"
        self.read(int(on_gpu) if self.late is None else self.late)

    def on_train_end(self) -> None:
        self.read()
        # A run of ours needs its moments no more, and Lightning would copy them to the CPU.
        if self.listener is not None:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.read()  # raises before a checkpoint of a step that was not finite is written

    def read(self, late: int = 0) -> None:
        """Look at the finished steps, but for the last `late`: looking waits until the GPU is done with a step.

        Raises UserError where a loss or a gradient is not finite. Whatever must not outlive such a step (a checkpoint)
        reads first.
        """
        while len(self.pending) > late:
            step = self.pending.popleft()
            if not isinstance(step.ended, float):
                step.ended.synchronize()
            seconds, self.began = seconds_between(self.began, step.ended), step.ended
            nll, labels, norm = step.values.tolist()
            self._check_finite("loss", nll, step.number)
            if self.trainer.precision != "16-mixed":  # float16's scaler leaves such a step out, and goes on
                self._check_finite("gradient", norm, step.number)
            if self.listener is not None:
                self.listener(Step(step.number, nll / max(labels, 1), norm, step.lr, seconds))

    def _check_finite(self, what: str, value: float, number: int) -> None:
        if not math.isfinite(value):
            raise NotFinite(
                f"The {what} became {value} at step {number}; the last good checkpoint is kept. "
                f"Lower optimizer.lr (now {self.optimizer_config.lr:g}) or raise optimizer.warmup, with a new run."
            )

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):  # the norm is known
            torch.nn.utils.clip_grads_with_norm_(self.trainable, gradient_clip_val, self.norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_validation_epoch_start(self) -> None:
        self.held_out = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        nll, _ = response_nll(self.model, batch)
        self.held_out += torch.tensor([nll.double().sum().item(), nll.numel()], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """validation_loss in nats a label token, over all ranks."""
        held_out = self.held_out.to(self.device, torch.float32)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(held_out)
        loss = held_out[0] / held_out[1].clamp(min=1)
        # With a listener not to the loggers: `Curves` sends it there, beside the numbers of its step.
        self.log("validation_loss", loss, logger=self.listener is None)

    def on_validation_end(self) -> None:
        self.begin()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        nll, _ = response_nll(self.model, batch)
        self._log("test_loss", nll.sum(), nll.numel())

    def configure_optimizers(self):
        if self.total_steps is None:
            self.total_steps = self._steps_of_the_trainer()
        settings = self.optimizer_config
        options = {"lr": settings.lr, "betas": tuple(settings.betas), "weight_decay": settings.weight_decay}
        # One kernel for all parameters; Lightning does not clip gradients that float16's scaler leaves to a fused
        # optimizer.
        if settings.name is OptimizerName.adamw and self.trainable[0].is_cuda and self.trainer.precision != "16-mixed":
            options["fused"] = True
        optimizer = _optimizer_class(settings.name)(self.trainable, **options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _steps_of_the_trainer(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps) and self.optimizer_config.schedule is not Schedule.constant:
            raise UserError(
                "A learning rate that falls to 0 needs to know when the training ends: give the Trainer max_epochs or "
                "max_steps, or the module OptimizerConfig(schedule=Schedule.constant)."
            )
        return 1 if math.isinf(steps) else int(steps)

    def lr_factor(self, step: int) -> float:
        """Linear warm-up to 1, then constant, or a cosine to 0 at the last step."""
        warmup = max(1, round(self.optimizer_config.warmup * self.total_steps))
        if step < warmup:
            return (step + 1) / warmup
        if self.optimizer_config.schedule is Schedule.constant:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.total_steps - warmup)))

    def cpu(self) -> "FineTuningModule":
        """Stay where it is: Lightning moves the module to the CPU after a fit, and the base would go with it.

        The evaluation after training would then run there, and every cell of a sweep would move the base back.
        """
        return self

    def state_dict(self, *args, **kwargs):
        names = {name for name, p in self.named_parameters() if p.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in names}


def _optimizer_class(name: OptimizerName):
    if name is OptimizerName.adamw:
        return torch.optim.AdamW
    return {OptimizerName.adamw_8bit: bnb.optim.AdamW8bit, OptimizerName.paged_adamw_8bit: bnb.optim.PagedAdamW8bit}[
        name
    ]


class neftune:  # noqa: N801 (a context manager, read as a verb)
    """Uniform noise on the embeddings while training, alpha / sqrt(L · d) wide (Jain et al., arXiv 2310.05914).

    L is the length of each packed *Example*: the row's length would make the noise 1.6 to 2.7 times too small.
    """

    def __init__(self, model: nn.Module, batch: Batch, alpha: float):
        self.model, self.batch, self.alpha, self.hook = model, batch, alpha, None

    def __enter__(self):
        if self.alpha:
            lengths = torch.tensor(self.batch.lengths)
            lengths = lengths.repeat_interleave(lengths).to(self.batch.input_ids.device)

            def add_noise(_layer, _inputs, embedded):  # embedded (1, T, d)
                width = self.alpha / torch.sqrt(lengths.unsqueeze(-1) * embedded.shape[-1])
                return embedded + torch.empty_like(embedded).uniform_(-1, 1) * width.to(embedded.dtype)

            self.hook = causal_lm(self.model).get_input_embeddings().register_forward_hook(add_noise)

    def __exit__(self, *_):
        if self.hook:
            self.hook.remove()
