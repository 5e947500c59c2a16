"""Tokens -> Batch: which Examples make a step, and in which order they come.

A step is always `batch` Examples of one permutation; micro-batches only decide how many lie end to end at a
time. The order is a pure function of (seed, epoch), so a run that was killed continues with the very batch it would
have seen.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch.utils.data import DataLoader, Sampler

from llama_exp.batch import Batch
from llama_exp.config.seeds import fold_seed
from llama_exp.data.encoding import IGNORED
from llama_exp.errors import UserError
from llama_exp.records import Tokens

NOTHING = Tokens("", [0, 0], [IGNORED, IGNORED])  # a micro-batch that a rank has no Example for


def collate(tokens: Sequence[Tokens]) -> Batch:
    """Examples -> Batch. None at all become two tokens without a label, so that every rank has something to run."""
    tokens = tokens or [NOTHING]
    labels = torch.tensor([label for item in tokens for label in item.labels])
    follows = (labels != IGNORED).nonzero().squeeze(1)
    return Batch(
        torch.tensor([[token for item in tokens for token in item.input_ids]]),
        labels[None],
        torch.cat([torch.arange(len(item.input_ids)) for item in tokens])[None],
        follows - 1,
        tuple(len(item.input_ids) for item in tokens),
    )


def in_parts(tokens: Sequence[Tokens], size: int) -> Iterator[list[Tokens]]:
    """The Examples in their order, in parts of at most `size` tokens (a longer one alone)."""
    part: list[Tokens] = []
    held = 0
    for item in tokens:
        if part and held + len(item.input_ids) > size:
            yield part
            part, held = [], 0
        part.append(item)
        held += len(item.input_ids)
    if part:
        yield part


@lru_cache(maxsize=4)
def order(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The permutation of one epoch."""
    generator = torch.Generator().manual_seed(fold_seed(seed) * 1_000_003 + epoch)
    return tuple(torch.randperm(count, generator=generator).tolist())


class Plan:
    """Which Examples each step of a run learns, and how long the run is: a pure function of its arguments.

    `batch` Examples a step, epoch after epoch; an epoch's last step may hold fewer. The budgets (epochs, steps, tokens
    seen) hold together: the first to be spent ends the run. Tokens count what Examples hold, never padding.
    """

    def __init__(
        self,
        tokens: Sequence[Tokens],
        batch: int,
        seed: int,
        max_epochs: int | None = 1,
        max_steps: int | None = None,
        max_tokens: int | None = None,
    ):
        if not tokens:
            raise UserError("No training Example fits: all were dropped for their length. Raise max_length.")
        self.batch, self.seed = batch, seed
        self.lengths = [len(item.input_ids) for item in tokens]
        self.labels = [item.label_tokens for item in tokens]
        self.steps_per_epoch = -(-len(tokens) // batch)
        budgets = [max_epochs * self.steps_per_epoch] if max_epochs and max_epochs > 0 else []
        budgets += [max_steps] if max_steps and max_steps > 0 else []
        budgets += [self._steps_for(max_tokens)] if max_tokens else []
        self.total_steps = min(budgets)

    @property
    def usual_labels(self) -> float:
        """Label tokens of a step, on average."""
        return max(1.0, sum(self.labels) / self.steps_per_epoch)

    def step(self, number: int) -> tuple[int, ...]:
        """The indices of the Examples that step `number` (from 0) learns."""
        epoch, within = divmod(number, self.steps_per_epoch)
        return order(len(self.lengths), self.seed, epoch)[within * self.batch : (within + 1) * self.batch]

    def seen(self, steps: int, sizes: Sequence[int]) -> int:
        """The sum of `sizes` over the Examples of the first `steps` steps: tokens or label tokens seen."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        first = epochs * self.steps_per_epoch
        return epochs * sum(sizes) + sum(
            sizes[index] for number in range(first, first + rest) for index in self.step(number)
        )

    def examples_seen(self, steps: int) -> int:
        """Examples of the first `steps` steps, those of every epoch counted."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * len(self.lengths) + min(rest * self.batch, len(self.lengths))

    def heaviest(self, micro_batch: int, world_size: int = 1) -> tuple[int, ...]:
        """The indices of the micro-batch of the run that has the most tokens."""
        shares = (
            self.step(number)[rank::world_size] for number in range(self.total_steps) for rank in range(world_size)
        )
        parts = (share[start : start + micro_batch] for share in shares for start in range(0, len(share), micro_batch))
        return max(parts, key=self.tokens_of)

    def tokens_of(self, indices: Sequence[int]) -> int:
        return sum(self.lengths[index] for index in indices)

    def accumulation(self, micro_batch: int, world_size: int) -> int:
        """Micro-batches a step, on each rank."""
        share = -(-self.batch // world_size)
        return -(-share // min(micro_batch, share))

    def _steps_for(self, budget: int) -> int:
        """The first step at which `budget` tokens have been seen."""
        epoch = sum(self.lengths)
        steps, left = budget // epoch * self.steps_per_epoch, budget % epoch
        while left > 0:
            left -= sum(self.lengths[index] for index in self.step(steps))
            steps += 1
        return steps


class EpochSampler(Sampler[int]):
    """Each Example once, in an order that (seed, epoch) decides.

    Lightning says which epoch it is (`set_epoch`); without it every pass over the loader is the next epoch.
    """

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return iter(order(self.count, self.seed, epoch))


class StepSampler(Sampler[list[int]]):
    """Yields the micro-batches of a whole run: lists of indices in the training set.

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


def step_loader(tokens: Sequence[Tokens], sampler: StepSampler) -> DataLoader:
    """Training batches: one Batch a micro-batch."""
    return DataLoader(_Picked(tokens), batch_size=None, sampler=sampler, collate_fn=collate)


def whole_loader(tokens: Sequence[Tokens], size: int, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Every Example once, in a fixed order, `size` tokens a Batch: validation.

    Every rank has equally many, the last ones empty: where the base is in shares, they compute its layers together.
    """
    ordered = sorted(tokens, key=lambda item: (-len(item.input_ids), item.id))
    shares = [list(in_parts(ordered[other::world_size], size)) for other in range(world_size)]
    most = max(1, *map(len, shares))
    return DataLoader(shares[rank] + [[]] * (most - len(shares[rank])), batch_size=None, collate_fn=collate)


class _Picked(torch.utils.data.Dataset):
    """A training set indexed by lists of indices, which is what a StepSampler hands out."""

    def __init__(self, tokens: Sequence[Tokens]):
        self.tokens = tokens

    def __getitem__(self, indices: list[int]) -> list[Tokens]:
        return [self.tokens[index] for index in indices]
