"""What a DataLoader hands to the model; the data side makes it and the model side reads it."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples laid end to end in one row, without padding.

    a0 a1 a2 b0 b1      input_ids (1, T)
    -- -- a2 -- b1      labels (1, T): response and EOS; -- is -100
    0  1  2  0  1       position_ids (1, T)
    3        2          lengths: what attention keeps Examples apart by
    1  3                predicting (N,): the places whose next token is a label

    There is no attention mask on purpose: transformers, too, keeps packed Examples apart by restarted positions only
    where no mask is given.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    predicting: torch.Tensor
    lengths: tuple[int, ...]

    def to(self, device, non_blocking: bool = False) -> "Batch":  # Lightning moves batches through this
        names = ("input_ids", "labels", "position_ids", "predicting")
        moved = {name: getattr(self, name).to(device=device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved)
