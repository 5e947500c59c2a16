"""How Lightning is told about several processes: they run already, and a sharded base is not its business."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy


class StartedProcesses(LightningEnvironment):
    """One process alone, or those of one machine which `Processes` has started: each has its number in LOCAL_RANK."""

    creates_processes_externally = True


class ShardedBase(DDPStrategy):
    """trainer=fsdp: adapters are whole in every process, and the base's shares are where they belong.

    DistributedDataParallel would send the base's shares around, as if they were copies of one another; what it is good
    for here, the mean of the gradients, is formed once a step.
    """

    def configure_ddp(self) -> None:
        pass

    def model_to_device(self) -> None:
        pass

    def average(self, gradients: Sequence[torch.Tensor]) -> None:
        works = [dist.all_reduce(gradient, async_op=True) for gradient in gradients]
        for work in works:
            work.wait()
        torch._foreach_div_(gradients, self.world_size)
