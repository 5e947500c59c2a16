"""Copies between CPU and GPU that nobody waits for: the CPU goes on launching kernels while the GPU computes."""

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to `device` without waiting; from pageable memory, a copy waits for the work before it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class PendingCopy:
    """A tensor that is being copied to the CPU. `read` waits for the copy, not for what is launched after it."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor.to("cpu", non_blocking=True)
        self.copied = torch.cuda.Event() if tensor.is_cuda else None
        if self.copied:
            self.copied.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> torch.Tensor:
        if self.copied:
            self.copied.synchronize()
        return self.tensor
