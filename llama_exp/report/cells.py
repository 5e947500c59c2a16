"""What is compared: cells, panels and comparisons; the mean and interval of a cell, the best of a comparison.

    cell        a sample size at a rank: its runs differ in seeds alone
    panel       cells that differ in size and rank alone: one model, one set of training keys, one line per rank
    comparison  panels that answered the same held-out items

compare.py makes them from runs, analyse.py adds what the items show.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_exp.metrics import Score, describe
from llama_exp.report.load import EvaluationRecord, RunRecord, StoredInterval

if TYPE_CHECKING:
    from llama_exp.statistics.learning_curve import LearningCurve
    from llama_exp.statistics.ranking import Ranking
    from llama_exp.statistics.run_luck import RunLuck

# Of a sample: beyond that its size is not what was trained on, and everything that shows it says so.
MANY_DROPPED = 0.05


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """validation: the same run's scores on the validation Examples, by which it may be chosen; forgetting: its loss on
    data that it was not tuned on."""

    run: RunRecord
    evaluation: EvaluationRecord
    validation: EvaluationRecord | None = None
    forgetting: EvaluationRecord | None = None


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What tuning did to the loss on other data, in nats a token: above 0 it forgot."""

    dataset: str
    items: int
    untuned: float
    change: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cell:
    """Runs that differ in seeds alone. Rank 0 is the untuned model, whatever `examples` says.

    tuned   of a panel with several learning rates: the one that validation chose for this cell
    others  the cells of the same rank and size at the other rates
    """

    rank: int
    examples: int | None
    runs: tuple[ScoredRun, ...]
    whole: bool = False  # `examples` is all there is
    known: dict[str, StoredInterval] = field(default_factory=dict)  # from the items of all seeds (analyse.py)
    tuned: dict[str, Any] = field(default_factory=dict)
    others: "tuple[Cell, ...]" = ()
    forgot: Forgetting | None = None  # (forgetting.py)

    @property
    def key(self) -> Path:
        """One name for this cell: where the first of its evaluations lies."""
        return self.runs[0].evaluation.folder

    @property
    def size(self) -> int:
        """`examples`, for what sorts or draws by it; 0 where that is not recorded."""
        return self.examples or 0

    @property
    def encoded(self) -> list[int]:
        """How many of `examples` reached training, rising, where that is recorded of its runs; [] else."""
        return sorted({s.run.encoded for s in self.runs if s.run.encoded is not None})

    @property
    def dropped(self) -> float:
        """The largest share of a run's `examples` that did not reach training."""
        return 1 - self.encoded[0] / self.examples if self.examples and self.encoded else 0.0

    @property
    def shrunk(self) -> bool:
        """Whether so much was dropped that the sample's size misleads."""
        return self.dropped > MANY_DROPPED

    def seeds(self, metric: str) -> int:
        """How many runs the mean is of: those in which the metric is defined."""
        return len({(s.run.seed, s.run.data_seed) for s in self.runs if metric in s.evaluation.scores})

    def scores(self, metric: str) -> list[float]:
        return [s.evaluation.scores[metric] for s in self.runs if metric in s.evaluation.scores]

    def mean(self, metric: str) -> float | None:
        scores = self.scores(metric)
        return sum(scores) / len(scores) if scores else None

    def validation(self, metric: str) -> float | None:
        """The mean validation score, where all runs have one."""
        found = [s.validation.scores.get(metric) if s.validation else None for s in self.runs]
        known = [score for score in found if score is not None]
        return sum(known) / len(known) if len(known) == len(found) else None

    def validation_loss(self) -> float | None:
        """The mean validation loss of the adapters that the runs ended with, where all runs measured it."""
        key = "best_validation" if self.runs[0].run.identity.get("early_stopping") else "validation"
        losses = [s.run.summary.loss for s in self.runs]
        found = [loss.get("kept_validation", loss.get(key)) for loss in losses]  # kept: where a score decided
        known = [loss for loss in found if loss is not None]
        return sum(known) / len(known) if len(known) == len(found) else None

    def score(self, metric: str) -> float:
        """The mean of a metric that some run defines; raises LookupError elsewhere."""
        if (mean := self.mean(metric)) is None:
            raise LookupError(f"{metric} is undefined in {self.key}")
        return mean

    def interval(self, metric: str) -> StoredInterval | None:
        """The interval of the mean over seeds, with all their noises where it is known; else the stored one.

        Over several seeds the stored one is the mean of their ends around the mean score. All seeds answer the same
        items, so their test-set errors move together and the mean of the half-widths is no narrower than the mean
        score's own. It says nothing about the noise of training.
        """
        if metric in self.known:
            return self.known[metric]
        found = [s.evaluation.intervals.get(metric) for s in self.runs if metric in s.evaluation.scores]
        known = [interval for interval in found if interval is not None]
        if not known or len(known) < len(found):
            return None
        low, high = (sum(getattr(i, end) for i in known) / len(known) for end in ("low", "high"))
        note = known[0].note if self.seeds(metric) < 2 else "test set only; the spread between seeds is not in it"
        return StoredInterval(low, high, known[0].method, note)

    def clean(self, metric: str) -> tuple[float, StoredInterval | None, list[int]] | None:
        """(mean, interval, items) on the test items that training does not overlap with, where all runs stored it.

        No interval for several runs, as each stored one knows nothing of the others. `items`: the counts, rising.
        """
        found = [s.evaluation.clean for s in self.runs if metric in s.evaluation.scores]
        stored = [one for one in found if one is not None and metric in one.scores]
        if not stored or len(stored) < len(found):
            return None
        value = sum(one.scores[metric] for one in stored) / len(stored)
        interval = stored[0].intervals.get(metric) if len(stored) == 1 else None
        return value, interval, sorted({one.items for one in stored if one.items is not None})


@dataclass(frozen=True, slots=True)
class Panel:
    model: str
    keys: dict[str, Any]  # training keys in which the panels of this comparison differ
    follows_rank: dict[str, dict[int, Any]]  # keys that differ between the lines: key -> rank -> value
    cells: tuple[Cell, ...]
    baseline: Cell | None
    tuned: tuple[str, ...] = ()  # keys whose values validation chose, cell by cell
    tuned_by: str = ""  # "validation scores" or "validation loss"
    curves: "dict[int, LearningCurve]" = field(default_factory=dict)  # rank -> what more data bought (analyse.py)
    relative: "dict[int, LearningCurve]" = field(default_factory=dict)  # the same without the test set's common luck

    def ranks(self) -> list[int]:
        return sorted({s.rank for s in self.cells})

    def runs(self) -> list[ScoredRun]:
        """All of them: also those of cells that were not chosen, and the untuned model's."""
        cells = [*self.cells, *filter(None, [self.baseline])]
        return [one for cell in cells for same in (cell, *cell.others) for one in same.runs]


@dataclass(frozen=True, slots=True)
class ExactTest:
    """The best cell against the second, by right or wrong alone, which assumes nothing about the shape of the scores.

    mine, theirs  shares of right answers in percent
    p             corrected for `comparisons`, all pairs of cells (Holm)
    note          why p cannot become small, else ""
    """

    metric: str
    other: Path
    mine: float
    theirs: float
    p: float
    comparisons: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    dataset: str
    trained_on: str
    split: str
    items: int | None
    groups: int | None
    metric: str
    metrics: tuple[str, ...]
    panels: tuple[Panel, ...]
    keys: dict[str, Any] = field(default_factory=dict)  # what sets this test apart from others of the same dataset
    declared: dict[str, Any] = field(default_factory=dict)  # of scores that are not of this package
    ranking: "Ranking | None" = None  # compared item by item (analyse.py)
    unpaired: str = ""  # why there is none, or for which cells
    exact: "ExactTest | None" = None
    luck: "tuple[Panel, Cell, RunLuck] | None" = None  # of the cell with most runs, where it has three or more

    def describe(self, metric: str = "") -> Score:
        """What is known about a score; default: the one that is ranked by."""
        return describe(metric or self.metric, self.declared)

    @property
    def lower_is_better(self) -> bool:
        return self.describe().lower_is_better

    def runs(self) -> list[ScoredRun]:
        return [one for panel in self.panels for one in panel.runs()]

    def cells(self) -> list[tuple[Panel, Cell]]:
        """Everything that has the figure's metric, each untuned model once."""
        pairs = [(p, s) for p in self.panels for s in p.cells if s.mean(self.metric) is not None]
        untuned = {p.baseline.key: (p, p.baseline) for p in self.panels if p.baseline}
        return pairs + [(p, s) for p, s in untuned.values() if s.mean(self.metric) is not None]

    @property
    def has_validation(self) -> bool:
        """Whether all cells have a validation score, on the same Examples."""
        return all(s.validation(self.metric) is not None for _, s in self.cells())

    @property
    def validated(self) -> bool:
        """Whether the best of several cells is chosen by validation scores."""
        return len(self.cells()) > 1 and self.has_validation

    def ranked(self) -> list[tuple[Panel, Cell]]:
        """The best first, then the others by their score; of equal ones the cheaper: untuned, then less data, then the
        lower rank.

        The best is chosen by its validation score where all have one, and then its score here is not flattered.
        """
        sign = -1 if self.lower_is_better else 1

        def merit(cell: Cell, score: float | None, loss: float | None = None) -> tuple:
            return sign * (score or 0.0), -(loss or 0.0), cell.rank == 0, -cell.size, -cell.rank

        pairs = sorted(self.cells(), key=lambda ps: merit(ps[1], ps[1].score(self.metric)), reverse=True)
        if self.validated:
            best = max(pairs, key=lambda ps: merit(ps[1], ps[1].validation(self.metric), ps[1].validation("loss")))
            pairs = [best, *(pair for pair in pairs if pair is not best)]
        return pairs

    def best(self) -> tuple[Panel, Cell] | None:
        return next(iter(self.ranked()), None)

    def rivals(self) -> list[tuple[Panel, Cell]] | None:
        """Cells without a significant difference from the best, item by item; else those whose intervals overlap its
        own.

        None where there is neither.
        """
        best = self.best()
        if not best:
            return None
        if self.ranking and self.ranking.best == best[1].key:
            tied = {key: index for index, key in enumerate(self.ranking.tied)}
            return sorted((ps for ps in self.cells() if ps[1].key in tied), key=lambda ps: tied[ps[1].key])
        mine = best[1].interval(self.metric)
        if not mine:
            return None
        others = [(p, s, s.interval(self.metric)) for p, s in self.cells() if s is not best[1]]
        return [(p, s) for p, s, i in others if i is None or overlap(mine, i)]


def overlap(a: StoredInterval, b: StoredInterval) -> bool:
    return a.low <= b.high and b.low <= a.high
