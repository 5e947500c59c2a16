"""The grid that a command names: its settings, the seeds each may be run with, and the overrides of every cell."""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from hydra.core.override_parser.types import Override

from llama_exp.adaptive.belief import Grid
from llama_exp.config.schema import Split
from llama_exp.errors import UserError
from llama_exp.report.compare import TEST_KEYS

SEEDS = 5  # of each setting at most, where the command names none
BEYOND = 3  # times the largest size that is named: how many `sample=null` are, until a run has counted them
UNTUNED = -1  # the number of the untuned model, which is no setting
CELLS = 200  # settings of a grid at most: memory and time grow with their square (belief.py)


@dataclass(frozen=True)
class Plan:
    """settings: the overrides of each, those with commas alone; fixed: the overrides of all; seeds: to run with."""

    settings: tuple[dict[str, str], ...]
    fixed: tuple[str, ...]
    seeds: tuple[str, ...]
    with_untuned: bool = False  # lora.r=0 is among the ranks: run once, whatever the question

    @classmethod
    def of(cls, overrides: Sequence[Override]) -> "Plan":
        """Raises UserError for a sweep without commas, or over ranges without steps."""
        if ranges := [o.key_or_group for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]:
            raise UserError(f"question= chooses among values: {ranges[0]}= wants them separated by commas.")
        axes = {o.get_key_element(): _values(o) for o in overrides if o.is_sweep_override()}
        if items := [key for key in axes if key in TEST_KEYS or key.startswith("dataset")]:
            raise UserError(f"question= compares settings on the same items, and {items[0]}= changes them: one value.")
        if "data_seed" in axes:
            raise UserError("question= draws the seeds that it needs: data_seed= takes one value.")
        seeds = axes.pop("seed", None) or _typed_seed(overrides)
        if not axes:
            raise UserError("question= chooses among the cells of a sweep: type values with commas (sample=100,1000).")
        named = {"seed", *axes}
        fixed = [o.input_line for o in overrides if o.get_key_element() not in named and o.input_line]
        settings = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        if len(settings) > CELLS:
            raise UserError(f"A grid of {len(settings):,} settings: question= takes {CELLS:,} at most.")
        tuned = tuple(s for s in settings if s.get("lora.r") != "0")
        if not tuned or "lora.r=0" in fixed:
            raise UserError("question= compares tuned settings, and lora.r=0 is the untuned model: type other ranks.")
        return cls(tuned, (*fixed, "evaluate=true"), tuple(seeds), len(tuned) < len(settings))

    def sample(self, setting: int, fixed: int | None) -> int | None:
        """What is asked for; None: all Examples. `fixed`: the sample of a grid that does not vary it."""
        return _number(self.settings[setting].get("sample", fixed))

    def overrides(self, setting: int, seed: int, split: Split = Split.validation) -> list[str]:
        """Of one cell, evaluated on this split."""
        values = self.settings[0] | {"lora.r": "0"} if setting == UNTUNED else self.settings[setting]
        only = self._validation_alone() if split is Split.validation else self._no_second_validation()
        return [*self.fixed, *only, *(f"{key}={value}" for key, value in values.items()), f"seed={self.seeds[seed]}"]

    def _validation_alone(self) -> list[str]:
        forgets = any(override.startswith("forgetting=") for override in self.fixed)
        return ["split=validation", *(["forgetting=null"] if forgets else [])]

    def _no_second_validation(self) -> list[str]:
        """The validation Examples that `evaluate=true` answers, too, are those of `_validation_alone`; but where they
        decide when training stops they are the run's own."""
        stops = any(override.startswith("early_stopping=") for override in self.fixed)
        return [] if stops else ["validation_sample=null"]

    def grid(self, available: int | None, fixed: int | None) -> Grid:
        """`available`: how many Examples sample=null are; None: not known yet."""
        sizes = [self.sample(setting, fixed) for setting in range(len(self.settings))]
        largest = max((size for size in sizes if size), default=1000)
        whole = available or BEYOND * largest
        examples = np.array([min(size or whole, available or np.inf) for size in sizes], np.float64)
        keys = [key for key in self.settings[0] if key != "sample"]
        return Grid({key: tuple(_value(one[key]) for one in self.settings) for key in keys}, examples)

    def name(self, setting: int) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings[setting].items())


def _values(override: Override) -> list[str]:
    return list(dict.fromkeys(map(str, override.sweep_string_iterator())))


def _typed_seed(overrides: Sequence[Override]) -> list[str]:
    """Seeds from the one that is typed on, else from 0."""
    typed = next((o.value() for o in overrides if o.get_key_element() == "seed"), 0)
    first = int(typed) if isinstance(typed, int | str) and str(typed).isdigit() else 0
    return [str(first + number) for number in range(SEEDS)]


def _number(value: Any) -> int | None:
    found = _value(value) if isinstance(value, str) else value
    return found if isinstance(found, int) else None


def _value(typed: str) -> Any:
    """1e-05, which Hydra makes of 1e-5, is a number; for YAML it is none."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(typed)
    return yaml.safe_load(typed)
