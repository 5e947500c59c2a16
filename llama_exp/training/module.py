"""The LightningModule around the 4-bit Llama and its adapter: loss, validation, optimizer."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch
from torch import nn

from llama_exp.batch import Batch
from llama_exp.config.schema import OptimizerConfig, OptimizerName, Schedule
from llama_exp.errors import UserError
from llama_exp.model.kernels.forward import response_nll


@dataclass(frozen=True, slots=True)
class Step:
    """A finished optimizer step: its number from 1, loss in nats a label token over all ranks, gradient norm before clipping,
    seconds since the step before (or since the validation or checkpoint between them)."""

    number: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float


Moment = float | torch.cuda.Event  # seconds of the CPU's clock, or a place among what the GPU has to do


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
class Unread:
    """A step that the GPU may still be at. values: summed nll, label tokens and gradient norm, on their way to the CPU."""

    number: int
    lr: float
    values: torch.Tensor
    ended: Moment  # when the values have arrived, too


class FineTuningModule(L.LightningModule):
    """Learns the responses of a Batch; only the adapter's parameters learn and are saved in checkpoints.

    The loss of a step is  sum(nll) / sum(label tokens)  over the whole accumulated step and all ranks. Lightning averages
    the means of micro-batches, which would weigh short answers wrongly (Lightning-AI/pytorch-lightning#20350); so each
    micro-batch contributes its *sum*, and the gradients are divided once, before clipping.
    """

    strict_loading = False  # a checkpoint holds the adapter, not the base

    def __init__(
        self, model: nn.Module, optimizer: OptimizerConfig, total_steps: int, seed: int, usual_labels: float = 1.0
    ):
        super().__init__()
        self.model, self.optimizer_config, self.total_steps, self.seed = model, optimizer, total_steps, seed
        # A sum over hundreds of tokens would overflow in float16, and each overflow is a step that learns nothing: so sums are
        # divided by what a step usually has, a constant that the exact division takes out again.
        self.usual_labels = usual_labels
        self.nll: torch.Tensor | float = 0.0  # of the step so far: summed, and of how many label tokens
        self.labels = 0
        self.learnt = [p for p in model.parameters() if p.requires_grad]
        self.norm: torch.Tensor | None = None  # of the step's gradients, before clipping
        self.unread: deque[Unread] = deque()
        self.stepping: tuple[int, float, torch.Tensor] | None = (
            None  # number, learning rate and values of the step that ends
        )
        self.began: Moment  # the step that is read next
        self.tell: Callable[[Step], None] = lambda step: None  # who wants to know of each step, in order

    def on_train_start(self) -> None:
        self.begin()

    def begin(self) -> None:
        """The next step begins now: what lay between is no part of its time."""
        self.began = moment(self.learnt[0].device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Seeded per micro-batch, dropout needs no stored random state to be the same after a resume.
        rank = self.trainer.global_rank
        torch.manual_seed(((self.seed * 1_000_003 + batch_idx) * 8191 + rank) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        with neftune(self.model, batch, self.optimizer_config.neftune):
            nll, _ = response_nll(self.model, batch)
        total = nll.sum()
        self.nll = self.nll + total.detach().float()
        self.labels += nll.numel()
        return total * (self.trainer.accumulate_grad_batches / self.usual_labels)  # Lightning divides by the former

    def on_before_optimizer_step(self, optimizer) -> None:
        """Divide the summed gradients by the step's label tokens. Runs once a step, before clipping."""
        world = self.trainer.world_size
        summed = torch.stack([self.nll, torch.full_like(self.nll, self.labels)])
        if world > 1:
            torch.distributed.all_reduce(summed)
        # DistributedDataParallel has averaged over ranks: undo that too
        gradients = [p.grad for p in self.learnt if p.grad is not None]
        torch._foreach_mul_(gradients, world * self.usual_labels / summed[1].clamp(min=1))
        self.norm = torch.nn.utils.get_total_norm(gradients)
        values = torch.cat([summed, self.norm.float()[None]]).to("cpu", non_blocking=True)
        self.stepping = self.trainer.global_step + 1, optimizer.param_groups[0]["lr"], values
        self.nll, self.labels = 0.0, 0

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.stepping:  # float16's scaler may leave a step out
            self.unread.append(Unread(*self.stepping, moment(self.learnt[0].device)))
            self.stepping = None

    def read(self, late: int = 0) -> None:
        """Tell of the finished steps, but for the last `late`: looking at a step waits until the GPU is done with it.

        Raises UserError where a loss or a gradient is not finite. Whatever must not outlive such a step (a checkpoint) reads
        first.
        """
        while len(self.unread) > late:
            step = self.unread.popleft()
            if not isinstance(step.ended, float):
                step.ended.synchronize()
            seconds, self.began = seconds_between(self.began, step.ended), step.ended
            nll, labels, norm = step.values.tolist()
            self._check_finite("loss", nll, step.number)
            if self.trainer.precision != "16-mixed":  # float16's scaler leaves such a step out, and goes on
                self._check_finite("gradient", norm, step.number)
            self.tell(Step(step.number, nll / max(labels, 1), norm, step.lr, seconds))

    def _check_finite(self, what: str, value: float, number: int) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"The {what} became {value} at step {number}; the last good checkpoint is kept. "
                f"Lower optimizer.lr (now {self.optimizer_config.lr:g}) or raise optimizer.warmup, with a new run."
            )

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):  # the norm is known
            torch.nn.utils.clip_grads_with_norm_(self.learnt, gradient_clip_val, self.norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_fit_end(self) -> None:
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()  # Lightning would copy the moments to the CPU, for nobody

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
        # Not to the loggers: Lightning would count micro-batches there. `Curves` sends it, at its step.
        self.log("validation_loss", held_out[0] / held_out[1].clamp(min=1), logger=False)

    def on_validation_end(self) -> None:
        self.begin()

    def configure_optimizers(self):
        settings = self.optimizer_config
        options = {"lr": settings.lr, "betas": tuple(settings.betas), "weight_decay": settings.weight_decay}
        # One kernel for all parameters; Lightning does not clip gradients that float16's scaler leaves to a fused optimizer.
        if settings.name is OptimizerName.adamw and self.learnt[0].is_cuda and self.trainer.precision != "16-mixed":
            options["fused"] = True
        optimizer = _optimizer_class(settings.name)(self.learnt, **options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

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
    import bitsandbytes as bnb

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

            from llama_exp.model.lora import causal_lm

            self.hook = causal_lm(self.model).get_input_embeddings().register_forward_hook(add_noise)

    def __exit__(self, *_):
        if self.hook:
            self.hook.remove()
