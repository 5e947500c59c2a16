"""A model's stored weights, as from_pretrained takes them: read where they are wanted, one at a time."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

SIZE = 32 * 2**20  # bytes; two buffers of it keep an H100's host and the way to its GPU busy


@contextmanager
def stored(files: Iterable[Path], device: torch.device) -> Iterator[Mapping[str, Any]]:
    """{name: what `[...]` reads the weight from}: a slice of safetensors, for a GPU an `Uploaded`.

    A weight of another type than the base computes in is converted there: both are in its memory for a moment.
    """
    from safetensors import safe_open

    with ExitStack() as stack:
        upload = None
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))  # whose context the pinned memory and events belong to
            upload = Upload(device)
        handles = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        slices = {name: handle.get_slice(name) for handle in handles for name in handle.keys()}  # noqa: SIM118
        yield {name: Uploaded(one, upload) for name, one in slices.items()} if upload else slices


class Upload:
    """upload(tensor) -> its copy on a device, by way of two buffers of pinned memory that take turns.

    The pages of a file cannot be copied to a GPU directly: the driver copies them once more, with one thread, and waits
    for each page. Here all threads of PyTorch copy one piece while the last one is on its way: 28 to 35 GB/s instead
    of 5 to 7 on one H100's host.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._of_device = torch.get_device_module(device)
        self._turns = deque(
            (torch.empty(SIZE, dtype=torch.uint8, pin_memory=device.type == "cuda"), self._of_device.Event())
            for _ in range(2)
        )
        self._lock = threading.Lock()  # transformers reads with several threads where nothing is quantised

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = torch.empty_like(tensor, device=self.device)
        source, target = (one.flatten().view(torch.uint8) for one in (tensor, copy))
        with self._lock:
            for start in range(0, len(source), SIZE):
                buffer, sent = self._turns[0]
                self._turns.rotate()
                piece = buffer[: len(source) - start]
                sent.synchronize()
                piece.copy_(source[start : start + SIZE])
                target[start : start + SIZE].copy_(piece, non_blocking=True)
                sent.record(self._of_device.current_stream(self.device))
        return copy


class Uploaded:
    """A slice of safetensors that is read onto a device."""

    def __init__(self, part: Any, upload: Upload) -> None:
        self._part, self._upload = part, upload

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._upload(self._part[index].contiguous())

    def __getattr__(self, name: str) -> Any:  # get_shape, get_dtype
        return getattr(self._part, name)
