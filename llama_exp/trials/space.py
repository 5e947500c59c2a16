"""What a command lets Optuna draw: commas are categories, interval() and range() numbers."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from llama_exp.config.schema import Config
from llama_exp.errors import UserError

DIGITS = 4  # of a drawn number: it names the run's folder
EXAMPLE = "optimizer.lr='tag(log,interval(1e-5,1e-3))' lora.r=4,16,64"


@dataclass(frozen=True)
class Space:
    """drawn: by key, with its `+`; fixed: the other overrides, as typed."""

    drawn: dict[str, BaseDistribution]
    fixed: tuple[str, ...]

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> "Space":
        """Raises UserError for a command that leaves nothing to draw, or wants a range that is none."""
        drawn = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
        fixed = [o.input_line for o in overrides if o.get_key_element() not in drawn and o.input_line]
        if not drawn:
            raise UserError(f"hydra/sweeper=optuna has nothing to draw. Type for example {EXAMPLE}")
        return cls(drawn, tuple(fixed))

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Of one trial."""
        return [*self.fixed, *(f"{key}={_typed(values[key])}" for key in self.drawn)]

    def name(self, values: Mapping[str, Any]) -> str:
        return " ".join(f"{key.lstrip('+')}={_typed(values[key])}" for key in self.drawn)


def _typed(value: Any) -> str:
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _distribution(override: Override) -> BaseDistribution:
    key, value = override.key_or_group, override.value()
    try:
        if isinstance(value, IntervalSweep):
            return _numbers(key, value.start, value.end, "log" in value.tags)
        if isinstance(value, RangeSweep) and isinstance(value.start, int) and isinstance(value.step, int):
            numbers = value.range()
            return IntDistribution(numbers[0], numbers[-1], step=abs(value.step))
        return CategoricalDistribution(list(dict.fromkeys(map(str, override.sweep_string_iterator()))))
    except (ValueError, IndexError) as error:
        raise UserError(f"{override.input_line}: {error} Type for example {EXAMPLE}") from error


def _numbers(key: str, low: Any, high: Any, log: bool) -> BaseDistribution:
    if low is None or high is None or low >= high:
        raise ValueError("the first end must be below the second one.")
    if log and low <= 0:
        raise ValueError("tag(log,…) wants ends above 0.")
    if is_whole(key) or (isinstance(low, int) and isinstance(high, int)):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def is_whole(key: str) -> bool:
    """Whether the config holds a whole number under a dotted key, or null."""
    kind: Any = Config
    for name in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return False
        kind = get_type_hints(kind).get(name)
    return kind is int or (get_origin(kind) in (Union, types.UnionType) and int in get_args(kind))
