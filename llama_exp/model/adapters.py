"""One base in memory, and the adapters of several runs on it: who speaks is chosen reply by reply."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.errors import UserError

BASE = ("model.path", "model.revision", "model.quantisation")  # equal for all voices of one base


class Voices:
    """The base of `trained` and its tokenizer; runs are added to it.

    voices = Voices(trained, trainer); voices.add(run)
    with voices.speaking(run) as model: …       # the run's adapter; None: the untuned base

    One speaks at a time: an adapter is switched for the whole base, so whoever comes second waits.
    """

    def __init__(self, trained: Config, trainer: dict):
        from llama_exp.model.base import check_length, load_base, target_device
        from llama_exp.model.tokenizer import load_tokenizer

        self.trained = trained
        self.tokenizer = load_tokenizer(trained.model)
        self.model = load_base(trained.model, target_device(trainer))
        check_length(self.model, trained.max_length)
        self.names: dict[Path, str] = {}
        self._turn = threading.Lock()

    def add(self, run: Path) -> None:
        """Put a run's adapter beside those that are there."""
        from llama_exp.model.lora import load_lora

        if run in self.names:
            return
        if not self.names:
            self.model, name = load_lora(self.model, run / "adapter"), "default"
        else:
            name = f"run{len(self.names)}"
            self.model.load_adapter(str(run / "adapter"), adapter_name=name, is_trainable=False)
        self.names[run] = name

    @contextmanager
    def speaking(self, run: Path | None) -> Iterator:
        """The model as `run` made it; None: as it was before any tuning."""
        with self._turn:
            if run is not None:
                self.model.set_adapter(self.names[run])
                yield self.model
            elif self.names:
                with self.model.disable_adapter():
                    yield self.model
            else:
                yield self.model

    def close(self) -> None:
        """Leave the base as it was found, for whoever uses it next."""
        from llama_exp.model.lora import detach_lora

        self.model, self.names = detach_lora(self.model), {}


def check_same_base(one: Config, other: Config, folder: Path) -> None:
    """A UserError where two runs cannot share a base in memory."""
    mine, theirs = flat(one), flat(other)
    differ = [f"{key} is {theirs[key]} there, {mine[key]} here" for key in BASE if mine[key] != theirs[key]]
    if differ:
        raise UserError(
            f"{folder} stands on another base ({'; '.join(differ)}): two bases do not fit into memory at once. "
            "Choose a run on the same one, or compare the two in turn with against=FOLDER."
        )
