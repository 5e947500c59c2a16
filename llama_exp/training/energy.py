"""The energy that a run's GPUs took, from the counter in the card (NVML); None, never 0, where there is no such
counter.

The counter is the card's: it includes its idle watts and whatever else ran on it, and nothing of the rest of the
machine.
"""

from collections.abc import Sequence

import lightning as L
import torch


def joules(gpus: Sequence[str]) -> float | None:
    """What these GPUs (by UUID) have taken since their driver was loaded; None if one of them cannot tell.

    Cards before Volta and slices of a card (MIG) have no counter; without nvidia-ml-py or a driver nothing is read.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, no permission: all the same answer
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus]
        millijoules = [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return sum(millijoules) / 1000 if gpus else None


def gpus_of(trainer: L.Trainer) -> list[str]:
    """UUIDs of the GPUs of all ranks; [] on CPU, and on several machines, of which each sees only its own."""
    if trainer.strategy.root_device.type != "cuda" or trainer.num_nodes > 1:
        return []
    used = range(trainer.world_size) if trainer.world_size > 1 else [trainer.strategy.root_device.index or 0]
    known = [getattr(torch.cuda.get_device_properties(index), "uuid", None) for index in used]
    return [f"GPU-{uuid}" for uuid in known] if all(known) else []


class Energy(L.Callback):
    """Joules from the first step to now, those before a resume included. One part unknown makes the whole unknown."""

    def __init__(self) -> None:
        self.gpus: list[str] = []
        self.start: float | None = None
        self.before: float | None = 0.0
        self.resumed = False

    @property
    def spent(self) -> float | None:
        now = joules(self.gpus) if self.start is not None else None
        return None if now is None or self.before is None else self.before + now - self.start

    def state_dict(self) -> dict:
        return {"joules": self.spent}

    def load_state_dict(self, state: dict) -> None:
        self.before, self.resumed = state["joules"], True

    def on_train_start(self, trainer: L.Trainer, module) -> None:
        if trainer.global_step and not self.resumed:  # a checkpoint that did not measure
            self.before = None
        self.gpus = gpus_of(trainer)
        self.start = joules(self.gpus)
