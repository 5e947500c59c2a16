"""What a command lets Optuna draw: commas are categories, interval() and range() numbers."""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from llama_exp.config.identity import NOT_IDENTITY
from llama_exp.config.schema import Config
from llama_exp.config.trainer_keys import PLANNED
from llama_exp.errors import UserError

DIGITS = 4  # of a drawn number: it names the run's folder
EXAMPLE = "optimizer.lr='tag(log,interval(1e-5,1e-3))' lora.r=4,16,64"
# What a trial is judged by, beside the weights
OBJECTIVE = ("validations", "validation_sample", "validation_scores", "eval_seed", "trainer.limit_val_batches")
# A draw of these would look for an easier judgement, or for luck. The others of them change no weights.
NOT_DRAWN = {*NOT_IDENTITY, *OBJECTIVE, "seed", "data_seed", "early_stopping", "dataset"}


@dataclass(frozen=True)
class Space:
    """drawn: by key, with its `+`; fixed: the other overrides, as typed."""

    drawn: dict[str, BaseDistribution]
    fixed: tuple[str, ...]

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> "Space":
        """Raises UserError for a command that leaves nothing to draw, or wants to draw what cannot be."""
        drawn = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
        fixed = [o for o in overrides if o.get_key_element() not in drawn and o.input_line]
        if nested := [o.input_line for o in fixed if _holds_sweep(o.value())]:
            raise UserError(f"{nested[0]}: wanted an interval without brackets around it. Type for example {EXAMPLE}")
        if not drawn:
            raise UserError(f"hydra/sweeper=optuna has nothing to draw. Type for example {EXAMPLE}")
        return cls(drawn, tuple(str(o.input_line) for o in fixed))

    @property
    def size(self) -> float:
        """How many different trials there are."""
        kinds = self.drawn.values()
        return math.prod(len(one.choices) if isinstance(one, CategoricalDistribution) else math.inf for one in kinds)

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Of one trial."""
        return [*self.fixed, *(f"{key}={_typed(values[key])}" for key in self.drawn)]

    def name(self, values: Mapping[str, Any]) -> str:
        return " ".join(f"{key.lstrip('+')}={_typed(values[key])}" for key in self.drawn)


def _typed(value: Any) -> str:
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _holds_sweep(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Sweep) or any(map(_holds_sweep, inner))


def _distribution(override: Override) -> BaseDistribution:
    key, value = override.key_or_group, override.value()
    if key in NOT_DRAWN or key.split(".")[0] in NOT_IDENTITY:
        raise UserError(
            f"{override.input_line}: {key} decides how a trial is judged, what luck it has or how it is run, and not "
            "what is learnt: give it one value."
        )
    try:
        found = _of(key, value, override)
    except (ValueError, IndexError) as error:
        raise UserError(f"{override.input_line}: {error} Type for example {EXAMPLE}") from error
    if key == "lora.r" and _may_be_zero(found):
        raise UserError(f"{override.input_line}: lora.r=0 trains nothing, so it is no trial. Leave out 0.")
    return found


def _of(key: str, value: Any, override: Override) -> BaseDistribution:
    if isinstance(value, IntervalSweep):
        return _interval(key, value.start, value.end, "log" in value.tags)
    if isinstance(value, RangeSweep):
        return _range(key, sorted(value.range()), value)
    if isinstance(value, ChoiceSweep) and any(map(_holds_sweep, value.list or ())):
        raise ValueError("an interval is no value among others: give it alone.")
    words = list(dict.fromkeys(map(str, override.sweep_string_iterator())))
    shuffled = isinstance(value, ChoiceSweep) and value.shuffle  # the same study each time
    return CategoricalDistribution(sorted(words) if shuffled else words)


def _interval(key: str, low: Any, high: Any, log: bool) -> BaseDistribution:
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high) or low >= high:
        raise ValueError("wanted two numbers, the first end below the second one.")
    if log and low <= 0:
        raise ValueError("tag(log,…) wants ends above 0.")
    if not is_whole(key) and not (isinstance(low, int) and isinstance(high, int)):
        return FloatDistribution(low, high, log=log)
    least, most = math.ceil(low), math.floor(high)
    if least >= most:
        raise ValueError(f"{key} holds whole numbers, and fewer than two of them lie in it.")
    return IntDistribution(least, most, log=log)


def _range(key: str, numbers: list[Any], value: RangeSweep) -> BaseDistribution:
    if not numbers:
        raise ValueError("there is no number in this range.")
    if "log" in value.tags:
        raise ValueError("tag(log,…) goes with interval(…).")
    step = abs(value.step)
    if all(isinstance(one, int) or one.is_integer() for one in numbers) and step == int(step):
        return IntDistribution(int(numbers[0]), int(numbers[-1]), step=int(step))
    if is_whole(key):
        raise ValueError(f"{key} holds whole numbers.")
    return FloatDistribution(numbers[0], numbers[-1], step=step)


def _may_be_zero(found: BaseDistribution) -> bool:
    if isinstance(found, CategoricalDistribution):
        return any(str(one).strip() in ("0", "0.0") for one in found.choices)
    return isinstance(found, IntDistribution) and found.low <= 0 <= found.high and -found.low % found.step == 0


def is_whole(key: str) -> bool:
    """Whether the config holds a whole number under a dotted key, or null."""
    if key in [f"trainer.{name}" for name in PLANNED]:
        return True
    kind: Any = Config
    for name in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return False
        kind = get_type_hints(kind).get(name)
    return kind is int or (get_origin(kind) in (Union, types.UnionType) and int in get_args(kind))
