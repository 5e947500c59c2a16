"""What the runs of one process share: rows that were read, and Examples that were tokenised."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from llama_exp.records import Example

Splits = dict[str, list[Example]]
Counts = dict[str, Any]
T = TypeVar("T")


class DataCache:
    """Keeps the source that was read last, and what was encoded last under each name.

    The runs of a sweep differ in rank and seed far more often than in their data; more than the last of each name is
    not kept, because a large dataset twice in memory would cost more than reading it again.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._source: Hashable = None
        self._examples: tuple[Splits, Counts] | None = None
        self._encoded: dict[str, tuple[Any, list[Example], Any]] = {}

    def examples(self, source: Hashable, read: Callable[[], tuple[Splits, Counts]]) -> tuple[Splits, Counts]:
        """Examples by split, and how they were counted; read only where `source` is not the last one."""
        if self._examples is None or self._source != source:
            self._examples = read()  # first: where reading fails, what was kept stays right
            self._source = source
        return self._examples

    def encoded(self, name: str, settings: Any, examples: list[Example], encode: Callable[[], T]) -> T:
        """What `encode` makes of these Examples under a name, a split's say; called only where the settings or the
        Examples are not the last ones."""
        kept = self._encoded.get(name)
        if kept is None or kept[:2] != (settings, examples):
            kept = self._encoded[name] = (settings, examples, encode())
        return kept[2]
