"""What a metric declares about itself and its scores, so that nothing else has to know it by name."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llama_exp.errors import UserError
from llama_exp.records import Prediction

PERCENT = (0.0, 100.0)
ItemScores = dict[str, list[float]]  # {score: [value per prediction]}


@dataclass(frozen=True, slots=True)
class Score:
    """One number that a metric reports.

    name       as in results.json: "squad/f1"
    meaning    a phrase for people who do not know it
    label      for headings and axes; default: the name
    better     which way is better
    bounds     the ends of the scale, None where it has none: intervals stay inside
    lowest     what no value lies below, where only that end is known (a loss: 0); highest likewise
    binary     every item scores either end of the bounds (right or wrong): exact tests apply
    primary    the score to lead with where a dataset has several
    decimals   digits after the point that are worth reading
    """

    name: str
    meaning: str = ""
    label: str = ""
    better: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] | None = None
    lowest: float | None = None
    highest: float | None = None
    binary: bool = False
    primary: bool = False
    decimals: int = 1

    def __post_init__(self):
        if self.better not in ("higher", "lower"):
            raise UserError(f"score {self.name!r}: better={self.better!r}; wanted 'higher' or 'lower'.")
        ends = self.bounds
        if ends is not None and not (len(ends) == 2 and all(map(math.isfinite, ends)) and ends[0] < ends[1]):
            raise UserError(f"score {self.name!r}: bounds={ends!r}; wanted two numbers (low, high), or None.")
        if not 0 <= self.decimals <= 10:
            raise UserError(f"score {self.name!r}: decimals={self.decimals!r}; wanted 0 to 10.")
        if self.binary and ends is None:
            raise UserError(f"score {self.name!r} is binary; wanted its two values as bounds, such as (0, 100).")
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def limits(self) -> tuple[float, float]:
        """Where values can lie; infinite where an end is not known."""
        low, high = self.bounds or (self.lowest, self.highest)
        return -math.inf if low is None else low, math.inf if high is None else high

    @property
    def lower_is_better(self) -> bool:
        return self.better == "lower"

    def as_dict(self) -> dict[str, Any]:
        """For results.json: `Score.from_dict` reads it back where the metric itself cannot be imported."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Score":
        """Raises UserError, TypeError or ValueError for values that are no declaration."""
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        if (bounds := known.get("bounds")) is not None:
            known["bounds"] = tuple(bounds)  # JSON knows lists only
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric on some predictions: values per item, statistics of the whole set, and facts to store beside them."""

    items: ItemScores
    corpus: dict[str, Callable[[Sequence[Prediction]], float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A function that scores predictions, and what is known about it. Made by the decorator `metric`.

    compute            predictions -> {score: [value per prediction]}; the reported score is the mean
    scores             {name: Score} of everything that `compute` and `corpus` return
    corpus             {score: function(predictions) -> value} for what is no mean over items (macro-F1)
    facts              predictions -> what a reader of the scores must know (encoder, texts cut)
    comparable_facts   names of the facts that must be equal for two scores to be comparable
    describe_facts     those facts -> a phrase for people
    ready              raises a UserError where something is not installed, before a model is loaded
    settings           the key of the config that holds its settings; `compute`, `facts` and `ready` then take them
                       as their last argument
    scoring_settings   settings -> those that decide the numbers: a change of one means to score again
    cheap              computed in a moment, by Python alone: needs no model and no file
    label              for sentences: "BERTScore"
    """

    compute: Callable[..., ItemScores]
    scores: dict[str, Score]
    corpus: dict[str, Callable[[Sequence[Prediction]], float]] = field(default_factory=dict)
    facts: Callable[..., dict[str, Any]] | None = None
    comparable_facts: tuple[str, ...] = ()
    describe_facts: Callable[[Mapping[str, Any]], str] | None = None
    ready: Callable[..., Any] | None = None
    settings: str | None = None
    scoring_settings: Callable[[Any], dict[str, Any]] | None = None
    cheap: bool = False
    label: str = ""

    def __call__(self, predictions: Sequence[Prediction], *settings: Any) -> ItemScores:
        return self.compute(predictions, *settings)

    def measure(self, predictions: Sequence[Prediction], *settings: Any) -> Measured:
        """Scores and facts. Raises UserError where they are not what was declared."""
        facts = self.facts(predictions, *settings) if self.facts else {}
        items = self.compute(predictions, *settings)
        self._check(items, len(predictions))
        return Measured(items, self.corpus, facts)

    def _check(self, items: ItemScores, count: int) -> None:
        wanted = sorted(self.scores.keys() - self.corpus.keys())
        if sorted(items) != wanted:
            raise UserError(f"metric {self.label} declares the scores {wanted} and returns {sorted(items)}.")
        for name, values in items.items():
            if len(values) != count:
                raise UserError(f"metric {self.label}: {name} has {len(values)} values for {count} predictions.")
            low, high = self.scores[name].bounds or (-math.inf, math.inf)
            if wrong := [
                value for value in values if not (math.isfinite(value) and low - 1e-6 <= value <= high + 1e-6)
            ]:
                raise UserError(
                    f"metric {self.label}: {name} is {wrong[0]} for an item; wanted a number from {low:g} to {high:g}."
                )


def metric(*scores: Score, label: str = "", corpus=None, **about: Any) -> Callable[[Callable[..., ItemScores]], Metric]:
    """Declare the decorated function, predictions -> {score: [value per prediction]}, as a metric.

        @metric(Score("length/words", meaning="words in the reply", better="lower"))
        def length(predictions):
            return {"length/words": [float(len(p.reply.split())) for p in predictions]}

    Name it in a dataset's YAML by its import path, `metrics: [squad, my_package.my_module.length]`.

    Args:
        scores: what the function, and the functions of `corpus`, report.
        label: its name in sentences; default: the function's.
        corpus: {score: function(predictions) -> value} for what is no mean over items.
        about: the other fields of Metric.
    """
    if not scores:
        raise UserError("a metric declares at least one score: @metric(Score('my/score', meaning='…'))")

    def declare(compute: Callable[..., ItemScores]) -> Metric:
        named = {score.name: score for score in scores}
        return Metric(compute, named, dict(corpus or {}), label=label or compute.__name__, **about)

    return declare
