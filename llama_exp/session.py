"""Class Session: what the runs of one command share, so that a sweep loads, reads and compares once.

A command creates one and passes it on; a test that wants nothing shared creates another.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llama_exp.config.schema import ModelConfig
from llama_exp.data.cache import DataCache
from llama_exp.errors import UserError
from llama_exp.overlap.audit import AuditCache
from llama_exp.processes import Processes, is_sharded
from llama_exp.report.drawing import LossPages
from llama_exp.stopping import StopSignals

if TYPE_CHECKING:
    from torch import nn

    from llama_exp.model.base import BaseLoader


@dataclass
class Session:
    """audits: overlaps found between training and held-out items; data: rows that were read and tokenised; bases: the
    frozen base in memory; preflight: measurements (preflight.forecast.Preflight); sizes_named: whether
    all_examples() has named sizes; stop: the signals that ask this process to end; processes: those that
    train one run together; pages: where loss pages are drawn.
    """

    audits: AuditCache = field(default_factory=AuditCache)
    data: DataCache = field(default_factory=DataCache)
    preflight: Any = None
    sizes_named: bool = False
    stop: StopSignals = field(default_factory=StopSignals)
    processes: Processes = field(default_factory=Processes)
    pages: LossPages = field(default_factory=LossPages)

    def all_examples(self, sample: int, available: int) -> str:
        """What to print where a sample is all there is; the first time, with sizes that make a curve."""
        text = f"sample={sample} is all {available} Examples there are: the cell sample=null."
        if not self.sizes_named and available >= 4:
            text += f" Smaller sizes make a curve: sample={available // 4},{available // 2},null"
        self.sizes_named = True
        return text

    @cached_property
    def bases(self) -> "BaseLoader":
        from llama_exp.model.base import BaseLoader  # torch: not before a command needs it

        return BaseLoader()

    @contextlib.contextmanager
    def loading_base(
        self,
        model: ModelConfig,
        trainer: dict,
        waiting: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
        warm_up: Callable[["nn.Module"], None] = lambda base: None,
    ) -> Iterator[Callable[[], "nn.Module"]]:
        """Load the frozen base in a thread while the block runs: `base()` waits for it. Leaving the block waits, too,
        timed by `waiting()`.

        An exception in the block is raised immediately, without waiting.
        """
        from llama_exp.model.imports import import_all

        import_all()
        from llama_exp.model.base import base_dtype, target_device

        device = target_device(trainer)
        if (sharded := is_sharded(trainer)) and self.processes.count == 1:
            raise UserError(
                "trainer=fsdp is for training on several GPUs, trainer.devices=2 or more. What answers needs the whole "
                "base: type trainer=gpu, or leave it out."
            )
        dtype = base_dtype(trainer, device)
        shares = self.processes.loading_shares if sharded else contextlib.nullcontext
        with self.bases.prefetch(model, device, dtype, sharded, waiting, warm_up, shares) as base:
            yield base

    def tokenizer(self, model: ModelConfig):
        from llama_exp.model.tokenizer import load_tokenizer

        return load_tokenizer(model)
