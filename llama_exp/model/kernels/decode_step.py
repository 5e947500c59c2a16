"""One more token for each row of a cache, on a GPU as a CUDA graph."""

import torch

from llama_exp.model.kernels.attention import CachedRows, attend_next, can_flash
from llama_exp.model.kernels.forward import hidden_states
from llama_exp.model.kernels.graphs import graphs_of
from llama_exp.model.kernels.next_token import Choose, likeliest
from llama_exp.model.kernels.prefill import KVCache

GRAPH_FROM = 4  # steps


class DecodeStep:
    """The next token of each row, `token` (B,), written into the cache at `position` (B,), at most `longest`.

    The tensors stay where they are, so that on a GPU the step is captured as a CUDA graph once it has run: launching
    its kernels one by one takes a CPU longer than the GPU needs for them. The likeliest token is chosen inside of the
    graph; one is drawn outside, where the random numbers differ from step to step.
    """

    def __init__(
        self,
        llama,
        layers,
        cache: KVCache,
        token: torch.Tensor,
        position: torch.Tensor,
        longest: int,
        choose: Choose = likeliest,
    ):
        self.llama, self.layers, self.cache, self.longest = llama, layers, cache, longest
        self.token, self.position, self.choose = token.clone(), position.clone(), choose
        self.logits: torch.Tensor | None = None  # of the last step, (B, vocabulary), where a token is drawn of them
        self.rows = CachedRows.of(position + 1, cache.width)
        self.every_row = torch.arange(len(token), device=token.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.has_run = False

    def select(self, rows: torch.Tensor) -> "DecodeStep":
        """A step of these rows alone, whose cache has no others."""
        self.cache.select(rows)
        token, position = self.token[rows], self.position[rows]
        return DecodeStep(self.llama, self.layers, self.cache, token, position, self.longest, self.choose)

    def run(self, left: int) -> None:
        """left: how many steps will run, this one included; a graph pays from GRAPH_FROM on."""
        if self.has_run and not self.graph and left >= GRAPH_FROM and can_flash(self.cache.keys[0]):
            self.graph = graphs_of(self.llama).capture(self._run)
        if self.graph:
            self.graph.replay()
        else:
            self._run()
        if self.logits is not None:
            self.token.copy_(self.choose(self.logits))
        self.longest, self.has_run = self.longest + 1, True

    def _run(self) -> None:
        hidden = hidden_states(self.llama, self.token, self.position, self._attend, self.every_row, self.layers)
        logits = hidden @ self.llama.lm_head.weight.t()
        if self.choose is likeliest:
            self.token.copy_(likeliest(logits))
        else:
            self.logits = logits
        self.position.add_(1)
        self.rows.used.add_(1)

    def _attend(self, layer: int, q, k, v):
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.every_row, self.position], values[self.every_row, self.position] = k, v
        return attend_next(q, keys, values, self.rows, self.longest + 1)
