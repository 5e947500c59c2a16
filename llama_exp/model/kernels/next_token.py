"""Which token comes next: the likeliest, or one drawn as transformers draws it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Choose = Callable[[torch.Tensor], torch.Tensor]  # logits (B, vocabulary) -> tokens (B,)


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


def chooser(temperature: float = 0.0, top_p: float = 1.0) -> Choose:
    """temperature 0: the likeliest token; more: one drawn at random, seeded by torch.manual_seed."""
    return Draw(temperature, top_p) if temperature else likeliest


@dataclass(frozen=True, slots=True)
class Draw:
    """Draws the tokens that `torch.multinomial` draws of transformers' warped logits, from the same seed.

    top_p: of the likeliest tokens that together have this probability.
    """

    temperature: float
    top_p: float = 1.0

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        scores = logits.float()
        # Relative to the largest, a temperature near 0 makes the others -inf, instead of the largest inf.
        scores = (scores - scores.amax(-1, keepdim=True)) / self.temperature
        if self.top_p < 1:
            scores = keep_likeliest(scores, self.top_p)
        probabilities = scores.softmax(-1)
        # What torch.multinomial does for one draw a row, without its checks: they make a GPU wait for the CPU.
        return (probabilities / torch.empty_like(probabilities).exponential_(1)).argmax(-1)


def keep_likeliest(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """scores (B, vocabulary) with -inf outside of the smallest set of tokens whose probability reaches `top_p`."""
    ascending, indices = scores.sort()
    outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    outside[:, -1] = False  # the likeliest token always stays
    return scores.masked_fill(outside.scatter(1, indices, outside), -torch.inf)
