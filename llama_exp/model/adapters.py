"""Several adapters on one base in memory, chosen reply by reply."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.errors import UserError

BASE_KEYS = ("model.path", "model.revision", "model.quantisation")  # equal for all runs that share a base


class SharedBase:
    """The base and tokenizer of `config`, and the adapters added to it.

    base = SharedBase(config, trainer); base.add(run.adapter)
    with base.use(run.adapter) as model: …       # None: the base without an adapter

    An adapter is switched for the whole base: one user at a time, the next one waits.

    with base.use(run.adapter, keep_weights=True) as model: …    # what is dequantised stays for the next such use
    base.release_weights()                                       # a use without keep_weights releases it as well
    """

    def __init__(self, config: Config, trainer: dict):
        from llama_exp.model.imports import import_all

        import_all()
        from llama_exp.model.base import check_length, load_base, target_device
        from llama_exp.model.tokenizer import load_tokenizer

        self.tokenizer = load_tokenizer(config.model)
        self.model = load_base(config.model, target_device(trainer))
        check_length(self.model, config.max_length)
        self.names: dict[Path, str] = {}
        self._in_use = threading.Lock()
        self._kept_weights: ExitStack | None = None

    def add(self, adapter: Path) -> None:
        """Load the adapter in a folder beside those already there."""
        from llama_exp.model.lora import load_lora

        if adapter in self.names:
            return
        name = f"run{len(self.names)}" if self.names else "default"
        self.model = load_lora(self.model, adapter, name)
        self.names[adapter] = name

    @contextmanager
    def use(self, adapter: Path | None, keep_weights: bool = False) -> Iterator:
        """The model with this adapter; None: the base without one.

        keep_weights: where 4-bit weights are not read directly and the memory allows it, dequantise them once, and not
        for each product: for many short uses of the same base, as the replies of a chat are. Adapters can change
        meanwhile.
        """
        with self._in_use:
            if keep_weights:
                self._keep_weights()
            else:
                self._release_weights()
            if adapter is not None:
                self.model.set_adapter(self.names[adapter])
                yield self.model
            elif self.names:
                with self.model.disable_adapter():
                    yield self.model
            else:
                yield self.model

    def release_weights(self) -> None:
        """Free the dequantised weights that uses with `keep_weights` left behind."""
        with self._in_use:
            self._release_weights()

    def _keep_weights(self) -> None:
        from llama_exp.model.kernels.decoder_layer import keep_in_memory
        from llama_exp.model.kernels.projection import reads_4_bits
        from llama_exp.model.lora import causal_lm
        from llama_exp.model.memory import can_cache_weights

        if self._kept_weights is None:  # asked once: with the weights in memory, the answer would be another one
            llama = causal_lm(self.model)
            with ExitStack() as stack:
                stack.enter_context(keep_in_memory(llama, not reads_4_bits(llama) and can_cache_weights(llama)))
                self._kept_weights = stack.pop_all()

    def _release_weights(self) -> None:
        if self._kept_weights is not None:
            self._kept_weights.close()
            self._kept_weights = None


def check_same_base(config: Config, other: Config, name: str) -> None:
    """Raise UserError where two runs cannot share a base in memory; `name` is the other one's."""
    here, there = flat(config), flat(other)
    if differ := [f"{key} is {there[key]} there, {here[key]} here" for key in BASE_KEYS if here[key] != there[key]]:
        raise UserError(
            f"{name} has another base ({'; '.join(differ)}), and two bases do not fit into memory at once. "
            "Choose a run on the same base, or compare the two with against=FOLDER."
        )
