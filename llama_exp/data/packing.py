"""Tokens -> rows -> Batch: which Examples make a step, how they lie in rows, and in which order they come.

A step is always `batch` Examples of one permutation; packing only decides how they lie. The order is a pure function of
(seed, epoch), so a run that was killed continues with the very batch it would have seen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.data import DataLoader, Sampler

from llama_exp.data.encoding import IGNORED
from llama_exp.records import Problem, Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of packed Examples, (B, T). Positions restart at 0 at each Example; there is no attention mask on purpose:
    transformers keeps packed Examples apart by the restarted positions only where no mask is given."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor

    def to(self, device, non_blocking: bool = False) -> "Batch":  # Lightning moves batches through this
        move = {"device": device, "non_blocking": non_blocking}
        return Batch(self.input_ids.to(**move), self.labels.to(**move), self.position_ids.to(**move))


def pack(tokens: Sequence[Tokens], length: int | None = None) -> list[list[Tokens]]:
    """Lay Examples into rows of at most `length` tokens, first fit, longest first (within 11/9 of the fewest rows).

    None: rows as long as the longest Example. Attention's work grows with the row, so no longer than needed.
    """
    length = length or max((len(item.input_ids) for item in tokens), default=0)
    rows: list[list[Tokens]] = []
    free: list[int] = []
    for item in sorted(tokens, key=lambda item: -len(item.input_ids)):
        size = len(item.input_ids)
        if size > length:
            raise ValueError(f"{item.id} has {size} tokens, more than a row of {length}")
        for place, room in enumerate(free):
            if size <= room:
                rows[place].append(item)
                free[place] -= size
                break
        else:
            rows.append([item])
            free.append(length - size)
    return rows


def collate(rows: Sequence[Sequence[Tokens]]) -> Batch:
    """Rows of Tokens -> Batch.

    row 0   a0 a1 a2 b0 b1 .       input_ids, padded with 0
            -- -- a2 -- b1 .       labels: response and EOS; -- and padding are -100
            0  1  2  0  1  0       position_ids; padding counts as one more Example that nobody learns from
    """
    width = max(sum(len(item.input_ids) for item in row) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        end = 0
        for item in row:
            start, end = end, end + len(item.input_ids)
            input_ids[place, start:end] = torch.tensor(item.input_ids)
            labels[place, start:end] = torch.tensor(item.labels)
            positions[place, start:end] = torch.arange(end - start)
        positions[place, end:] = torch.arange(width - end)
    return Batch(input_ids, labels, positions)


@lru_cache(maxsize=4)
def order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The permutation of one epoch."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(torch.randperm(count, generator=generator).tolist())


class Plan:
    """Which Examples each step of a run learns, and how long the run is: a pure function of its arguments.

    `batch` Examples a step, epoch after epoch; an epoch's last step may hold fewer. The budgets (epochs, steps, tokens
    seen) hold together: the first to be spent ends the run. Tokens count what Examples hold, never padding.
    """

    def __init__(self, tokens: Sequence[Tokens], batch: int, seed: int, max_epochs: int | None = 1,
                 max_steps: int | None = None, max_tokens: int | None = None):  # fmt: skip
        if not tokens:
            raise Problem("No training Example fits: all were dropped for their length. Raise max_length.")
        self.batch, self.seed = batch, seed
        self.lengths = [len(item.input_ids) for item in tokens]
        self.labels = [item.label_tokens for item in tokens]
        self.steps_per_epoch = -(-len(tokens) // batch)
        budgets = [max_epochs * self.steps_per_epoch] if max_epochs and max_epochs > 0 else []
        budgets += [max_steps] if max_steps and max_steps > 0 else []
        budgets += [self._steps_for(max_tokens)] if max_tokens else []
        self.total_steps = min(budgets)

    def step(self, number: int) -> tuple[int, ...]:
        """The places of the Examples that step `number` (from 0) learns."""
        epoch, within = divmod(number, self.steps_per_epoch)
        return order(len(self.lengths), self.seed, epoch)[within * self.batch : (within + 1) * self.batch]

    def seen(self, steps: int, sizes: Sequence[int]) -> int:
        """The sum of `sizes` over the Examples of the first `steps` steps: tokens or label tokens seen."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        first = epochs * self.steps_per_epoch
        return epochs * sum(sizes) + sum(
            sizes[place] for number in range(first, first + rest) for place in self.step(number)
        )

    def accumulation(self, micro_batch: int, world_size: int) -> int:
        """Micro-batches a step, on each rank."""
        share = -(-self.batch // world_size)
        return -(-share // min(micro_batch, share))

    def _steps_for(self, budget: int) -> int:
        """The first step at which `budget` tokens have been seen."""
        epoch = sum(self.lengths)
        steps, left = budget // epoch * self.steps_per_epoch, budget % epoch
        while left > 0:
            left -= sum(self.lengths[place] for place in self.step(steps))
            steps += 1
        return steps


class StepSampler(Sampler[list[int]]):
    """Yields the micro-batches of a whole run: lists of places in the training set.

    A step is cut into `world_size` shares (DistributedDataParallel), each into micro-batches. Every rank yields equally
    many micro-batches a step, empty ones included, so that no rank waits for another and gradient accumulation never
    runs across a step's end. `start()` says how many micro-batches were learnt before (a resume).
    """

    def __init__(self, plan: Plan, micro_batch: int, rank: int = 0, world_size: int = 1):
        self.plan, self.rank, self.world_size = plan, rank, world_size
        self.micro = min(micro_batch, -(-plan.batch // world_size))
        self.accumulation = plan.accumulation(micro_batch, world_size)
        self.start: Callable[[], int] = lambda: 0

    def __len__(self) -> int:
        return self.plan.total_steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for micro_batch in range(self.start(), len(self)):
            number, within = divmod(micro_batch, self.accumulation)
            mine = self.plan.step(number)[self.rank :: self.world_size]
            yield list(mine[within * self.micro : (within + 1) * self.micro])


def packed(tokens: Sequence[Tokens]) -> Batch:
    """Examples of one micro-batch -> Batch. An empty micro-batch becomes one row without a label."""
    return collate(pack(tokens or [Tokens("", [0, 0], [IGNORED, IGNORED])]))


def step_loader(tokens: Sequence[Tokens], sampler: StepSampler) -> DataLoader:
    """Training batches: one Batch a micro-batch."""
    return DataLoader(_Picked(tokens), batch_size=None, sampler=sampler, collate_fn=packed)


def row_loader(tokens: Sequence[Tokens], rows: int, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Every Example once, in a fixed order, `rows` packed rows a Batch: validation and held-out likelihood."""
    mine = sorted(tokens, key=lambda item: (-len(item.input_ids), item.id))[rank::world_size]
    lines = pack(mine or [Tokens("", [0, 0], [IGNORED, IGNORED])])
    return DataLoader([lines[i : i + rows] for i in range(0, len(lines), rows)], batch_size=None, collate_fn=collate)


class _Picked(torch.utils.data.Dataset):
    """A training set indexed by lists of places, which is what a StepSampler hands out."""

    def __init__(self, tokens: Sequence[Tokens]):
        self.tokens = tokens

    def __getitem__(self, places: list[int]) -> list[Tokens]:
        return [self.tokens[place] for place in places]
