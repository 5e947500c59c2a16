"""CUDA graphs that are captured while the GPU computes, and share memory."""

import contextlib
from collections.abc import Callable

import torch
from torch import nn


class Graphs:
    """What captures the graphs of a base. One thread at a time answers with a base.

    As torch.cuda.graph does it, but without waiting for the GPU and without emptying the allocator's cache: a batch is
    launched while the one before it is computed. All graphs share the memory for what they compute in between, as they
    run one after another.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.release()

    def release(self) -> None:
        """Give the memory back to the allocator."""
        self._pool: tuple[int, int] | None = None
        self._last: torch.cuda.CUDAGraph | None = None  # a pool that no graph uses cannot be used again

    def capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The kernels that `work` launches, which are not run."""
        try:
            return self._capture(work)
        except torch.OutOfMemoryError:
            pass  # while capturing, the allocator cannot give back what it keeps elsewhere: do that, and try again
        self.release()
        torch.cuda.empty_cache()
        return self._capture(work)

    def _capture(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            # Only what this thread does is captured, and may disturb: others load a base or draw pages meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            except BaseException:
                with contextlib.suppress(Exception):  # the reason is what `work` raised
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        self._last = graph
        return graph


def graphs_of(llama: nn.Module) -> Graphs:
    """Those of this base, which holds them."""
    if "graphs" not in llama.__dict__:
        llama.__dict__["graphs"] = Graphs(llama.model.embed_tokens.weight.device)
    return llama.__dict__["graphs"]


def release_graphs(llama: nn.Module) -> None:
    """Give back the memory of a base's graphs, where there are any."""
    if graphs := llama.__dict__.get("graphs"):
        graphs.release()
