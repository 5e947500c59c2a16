"""What a reader may conclude: the answer first, then what does not differ from it, at what cost, and how sure that is.

Cells are compared item by item where their items are on disk (statistics/ranking.py). Where they are not, intervals are
compared, which is careful: a comparison item by item can find differences that overlapping intervals leave open.

The wording is in templates/findings.jinja.
"""

from math import exp
from typing import TYPE_CHECKING

from llama_exp.formatting import format_p_value, format_range, format_score, format_with_interval, percent, with_range
from llama_exp.metrics import METRICS, load
from llama_exp.report import costs
from llama_exp.report.cells import Cell, Comparison, Panel, overlap
from llama_exp.report.compare import USABLE
from llama_exp.report.costs import Prices
from llama_exp.report.labels import (
    cell_name,
    dataset_name,
    in_training,
    key_name,
    measured_items,
    metric_settings,
    panel_name,
    validation_items,
    with_confidence,
    with_interval,
)
from llama_exp.report.load import RunRecord
from llama_exp.report.templating import Sentences
from llama_exp.sanitize import as_float, as_text, clean

if TYPE_CHECKING:
    from llama_exp.statistics.ranking import Ranking

MANY_EMPTY = 0.05  # of the replies
MUCH = 0.1  # of the scale: a cell that may be so much worse is not offered as the cheaper one
SAY = Sentences("findings")
SOURCES = {
    "test set": "test items",
    "training": "training seed",
    "sampling": "examples drawn",
    "training and sampling": "examples drawn and training seed together",
}


def answer(c: Comparison, prices: Prices = Prices()) -> list[str]:  # noqa: B008  frozen
    """The finding first, then how far to trust it."""
    best = c.best()
    if not best:
        return [SAY.no_score(metric=c.metric)]
    panel, cell = best
    label = c.describe().label
    if not any(s.rank for _, s in c.cells()):
        return [SAY.only_untuned(metric=label, score=with_confidence(c, cell), dataset=dataset_name(c))]
    lines = [
        _best(c, panel, cell, label),
        samples_shrunk([s for _, s in c.cells()]),
        _chosen(c),
        *dict.fromkeys(_settings_chosen(p, c) for p in c.panels),
        _not_validated(c),
        *(_ranking(c, c.ranking) if c.ranking else _by_intervals(c)),
        _cheapest(c, prices),
        *_uncertainty(c, cell),
        _forgotten(c),
        _clean_items(c, cell),
        _loss_improved(c, cell),
        _undefined(c),
        _always_commonest(c, cell),
        _one_reply(c),
        _empty_replies(c),
        *(SAY.metric_settings(metric=metric, settings=settings) for metric, settings in metric_settings(c)),
        *(SAY.other_settings(metric=load(family).label, key=family) for family in _kept_apart(c)),
    ]
    return [line for line in lines if line]


def _best(c: Comparison, panel: Panel, cell: Cell, label: str) -> str:
    score = with_confidence(c, cell)
    if cell.rank == 0:
        return SAY.untuned_is_best(metric=label, score=score, beaten=bool(c.ranking and c.ranking.better))
    untuned = panel.baseline if panel.baseline and panel.baseline.mean(c.metric) is not None else None
    return SAY.best(
        metric=label,
        score=score,
        cell=cell_name(panel, cell, c),
        runs=cell.seeds(c.metric),
        in_training=in_training(cell) if cell.shrunk else "",
        alone=len(c.cells()) == 1,  # nothing to be the best of
        untuned=with_confidence(c, untuned) if untuned else "",
        other_settings=" and ".join(load(family).label for family in _kept_apart(c)),
    )


def _chosen(c: Comparison) -> str:
    """What the choice of the best cell does to its score: nothing where validation chose it."""
    if c.validated:
        validation = format_score(c.ranked()[0][1].validation(c.metric), c.describe().decimals)
        tried = sum(1 + len(cell.others) for _, cell in c.cells())
        one_run = len(c.ranked()[0][1].runs) == 1 and c.ranked()[0][1].rank > 0
        return SAY.chosen_by_validation(
            cells=tried, items=f"{validation_items(c):,}", score=validation, one_run=one_run
        )
    winner = c.ranking.winner if c.ranking and c.ranking.best == c.ranked()[0][1].key else None
    if not winner:
        return ""
    score, low, high = winner.estimate, winner.low, winner.high
    if c.metric == "perplexity":  # cells are compared by their losses
        score, low, high = (exp(min(number, 700.0)) for number in (score, low, high))
    return SAY.chosen(cells=winner.cells, score=with_range(score, low, high))


def _settings_chosen(panel: Panel, c: Comparison) -> str:
    if not panel.tuned:
        return ""
    alike = len({p.tuned_by for p in c.panels}) == 1
    name = "" if alike else panel_name(panel, c)
    return SAY.settings_chosen(keys=[key_name(key) for key in panel.tuned], by=panel.tuned_by, setting=name)


def _not_validated(c: Comparison) -> str:
    """Why the test set chose, where some cells do have validation scores."""
    if c.validated or not validation_items(c):
        return ""
    missing = [cell_name(p, s, c) for p, s in c.cells() if s.validation(c.metric) is None]
    return SAY.not_validated(cells=missing, items=validation_items(c)) if missing else ""


def samples_shrunk(cells: list[Cell]) -> str:
    """Which sample sizes mislead, because much of them did not reach training; "" where none does."""
    shrunk = sorted((s for s in cells if s.shrunk), key=lambda s: (s.size, s.rank))
    sizes = list(dict.fromkeys(f"{in_training(s)} of {s.examples:,}" for s in shrunk))
    return SAY.samples_shrunk(sizes=sizes) if sizes else ""


def _ranking(c: Comparison, ranking: "Ranking") -> list[str]:
    """What does not differ from the best, what is worse, and how small a difference could have been found."""
    from llama_exp.statistics.messages import describe_detectable  # numpy

    rivals = c.rivals()
    differences = [difference for difference, _ in ranking.against.values()]
    items = f"{differences[0].items:,} items"
    worse = [(p, s) for p, s in c.cells() if s.key in ranking.worse]
    lines = []
    if rivals:
        cells = [_compared(ranking, p, s, c) for p, s in rivals]
        lines = [SAY.tied(items=items, cells=cells, worse=len(worse))]
    elif not ranking.better:
        only = cell_name(*worse[0], c) if len(worse) == 1 else ""
        p = format_p_value(max(p for _, p in ranking.against.values()))
        lines = [SAY.better_than_all(items=items, cell=only, p=p, others=len(worse))]
    if ranking.better:
        better = [_compared(ranking, p, s, c) for p, s in c.cells() if s.key in ranking.better]
        lines.append(SAY.others_are_better(cells=better, items=f"{validation_items(c):,}"))
    if ranking.runs == 1 and len(c.cells()) > 2:
        lines.append(SAY.single_runs(repeated=ranking.repeated))
    lines.append(c.unpaired)
    if any(difference.clusters < 2 for difference in differences):
        return [*lines, SAY.one_group()]
    if not any(difference.difference for difference in differences):
        return [*lines, SAY.all_equal()]
    shown = ranking.beyond_scale or ranking.detectable is not None
    return [*lines, _exact(c), describe_detectable(ranking.detectable) if shown else ""]


def _compared(ranking: "Ranking", panel: Panel, cell: Cell, c: Comparison) -> str:
    """`rank 8 on 1,000 examples (56.3 ± 2.1, p = 0.31)`."""
    name, p = cell_name(panel, cell, c, beside=c.ranked()[0][0]), format_p_value(ranking.against[cell.key][1])
    return SAY.compared_cell(cell=name, score=with_interval(c, cell), p=p)


def _exact(c: Comparison) -> str:
    if not (test := c.exact):
        return ""
    other = next((p, s) for p, s in c.cells() if s.key == test.other)
    return SAY.exact_test(
        metric=c.describe(test.metric).label,
        best=cell_name(*c.ranked()[0], c),
        mine=f"{test.mine:.1f}",
        other=cell_name(*other, c),
        theirs=f"{test.theirs:.1f}",
        verdict="tied" if test.p >= 0.05 else "better" if test.mine > test.theirs else "worse",
        p=format_p_value(test.p),
        comparisons=test.comparisons,
        note=test.note,
    )


def _by_intervals(c: Comparison) -> list[str]:
    """The same from the intervals alone."""
    rivals, others = c.rivals(), len(c.cells()) - 1
    if rivals is None:
        verdict = SAY.no_interval()
    elif rivals:
        ordered = sorted(rivals, key=lambda ps: ps[1].score(c.metric), reverse=not c.lower_is_better)
        names = [
            f"{cell_name(p, s, c, beside=c.ranked()[0][0])} ({format_score(s.mean(c.metric), c.describe().decimals)})"
            for p, s in ordered
        ]
        verdict = SAY.intervals_overlap(cells=names)
    else:
        verdict = SAY.intervals_clear(others=others) if others else ""
    return [c.unpaired, verdict]


def _cheapest(c: Comparison, prices: Prices) -> str:
    """The cheapest cell that does not differ from the best; "" where the best is the cheapest itself."""
    best, found = c.ranked()[0][1], costs.cheapest_tied(c, prices)
    if not found or found[1].key == best.key:
        return ""
    panel, cell, cost = found
    if cell.rank == 0:
        return SAY.cheapest_is_untuned()
    lower = c.lower_is_better
    difference = c.ranking.against[cell.key][0] if c.ranking and cell.key in c.ranking.against else None
    worst = None
    if difference and difference.low is not None:
        short = -difference.low if lower else (difference.high or 0.0)
        if (bounds := c.describe().bounds) and short > MUCH * (bounds[1] - bounds[0]):
            return ""  # so few examples or items tie everything: no advice
        worst = format_score(short, c.describe().decimals)
    return SAY.cheapest(
        cell=cell_name(panel, cell, c),
        cost=costs.format_cost(cost, c, prices),
        best_cost=costs.format_cost(next(x for _, s, x in costs.priced(c, prices) if s.key == best.key), c, prices),
        training=costs.axis(c, prices) != "money",
        worst=worst,
        lower_is_better=lower,
    )


def _uncertainty(c: Comparison, cell: Cell) -> list[str]:
    """What the interval covers, and how much each part is."""
    from llama_exp.statistics.messages import describe_unseen  # numpy

    interval, runs = cell.interval(c.metric), cell.seeds(c.metric)
    if not interval or not cell.rank:
        return []
    if runs == 1:
        return [SAY.one_run()]
    low, high = (format_score(end(cell.scores(c.metric)), c.describe().decimals) for end in (min, max))
    shares = [
        f"{SOURCES.get(name, name)} {percent(share)} ({percent(least)} to {percent(most)})"
        for name, share, least, most in interval.shares
    ]
    lines = [SAY.run_spread(runs=runs, low=low, high=high, shares=shares)]
    return [*lines, describe_unseen(interval.unseen, runs)] if interval.shares and interval.unseen else lines


def _forgotten(c: Comparison) -> str:
    """What the best cell forgot; where that is the untuned model, the best of the others."""
    found = next(((p, s) for p, s in c.ranked() if s.forgot), None)
    measured = [one.forgetting for one in c.runs() if one.forgetting and one.run.rank]
    if not found and measured:
        return SAY.forgetting_without_untuned(dataset=clean(measured[0].dataset, 40))
    if not found or not (forgot := found[1].forgot):
        return ""
    change = with_range(forgot.change, forgot.low, forgot.high, sign=True)
    return SAY.forgotten(
        dataset=forgot.dataset,
        cell=cell_name(*found, c),
        items=f"{forgot.items:,}",
        untuned=format_score(forgot.untuned, 2),
        change=change,
        verdict="forgot" if forgot.low > 0 else "learnt" if forgot.high < 0 else "open",
    )


def _clean_items(c: Comparison, cell: Cell) -> str:
    """The score on test items that nothing in training resembles, where it was stored."""
    if (clean := cell.clean(c.metric)) is None:
        return ""
    value, interval, items = clean
    score = format_with_interval(value, interval, c.describe().decimals)
    return SAY.clean_items(count=format_range(items), items=f"{c.items:,}" if c.items else "", score=score)


def _undefined(c: Comparison) -> str:
    """Runs that have no number for the metric, by name: they must not vanish, nor pass for 0."""
    runs = {one.run.name: c.metric in one.evaluation.scores for one in c.runs()}
    lost = [name for name, known in runs.items() if not known]
    return SAY.undefined(metric=c.describe().label, lost=lost, runs=len(runs)) if lost else ""


def _loss_improved(c: Comparison, best: Cell) -> str:
    """A score that stays at the bottom may hide that the model has begun to learn."""
    untuned = best.mean("loss") if best.rank == 0 else None
    tuned = [(p, s) for p, s in c.cells() if s.rank and s.mean("loss") is not None]
    if untuned is None or not tuned or c.lower_is_better:
        return ""
    panel, cell = min(tuned, key=lambda ps: ps[1].score("loss"))
    a, b = cell.interval("loss"), best.interval("loss")
    if cell.score("loss") >= untuned or (a and b and overlap(a, b)):
        return ""
    return SAY.loss_improved(
        untuned=with_interval(c, best, "loss"),
        tuned=with_interval(c, cell, "loss"),
        cell=cell_name(panel, cell, c),
        measured=measured_items(c),
        items=f"{c.items:,}" if c.items else "",
    )


def _always_commonest(c: Comparison, cell: Cell) -> str:
    """Where labels are answered: whether the best cell is shown to be better than one label for every item."""
    facts = cell.runs[0].evaluation.results.facts.get("label", {})
    score, label = as_float(facts.get("always_commonest")), as_text(facts, "commonest")
    if score is None or c.metric != "label/accuracy":
        return ""
    interval = cell.interval(c.metric)
    better = interval.low > score if interval else cell.score(c.metric) > score
    return SAY.always_commonest(label=label, score=format_score(score, 1), better=better)


def _one_reply(c: Comparison) -> str:
    """Cells that gave one reply to everything: whatever they score, they do not look at the question."""
    cells = [
        cell_name(panel, cell, c)
        for panel, cell in c.cells()
        if cell.rank and all(one.evaluation.results.distinct_replies == 1 for one in cell.runs)
    ]
    return SAY.one_reply(cells=cells) if cells and (c.items or 0) > 1 else ""


def _empty_replies(c: Comparison) -> str:
    """Cells that often replied nothing: a score of 0 alone does not show it."""
    found = []
    for panel, cell in c.cells():
        empty = sum(one.evaluation.empty_replies or 0 for one in cell.runs)
        items = sum(one.evaluation.items or 0 for one in cell.runs)
        if empty > MANY_EMPTY * items:
            found.append(SAY.empty_of(empty=f"{empty:,}", items=f"{items:,}", cell=cell_name(panel, cell, c)))
    return SAY.empty_replies(cells=found) if found else ""


def _kept_apart(c: Comparison) -> list[str]:
    """Metrics because of whose settings other evaluations are not in this comparison."""
    return sorted(METRICS.keys() & {key.partition(".")[0] for key in c.keys})


def description(c: Comparison) -> str:
    """What the scores of a comparison are: of which items, what the metric means, and which interval."""
    stored = [one.evaluation.intervals.get(c.metric) for _, cell in c.cells() for one in cell.runs]
    shown = [i for _, cell in c.cells() if (i := cell.interval(c.metric))]  # of several runs: not those stored
    facts = c.describe()
    text = SAY.description(
        dataset=dataset_name(c),
        split=c.split,
        items=f"{c.items:,}" if c.items else "",
        groups=c.groups if c.groups != c.items else None,
        metric=facts.label,
        meaning=facts.meaning,
        lower_is_better=facts.lower_is_better,
        measured=measured_items(c),
        settings=metric_settings(c),
        training=any((known := cell.known.get(c.metric)) and known.shares for _, cell in c.cells()),
        methods=list(dict.fromkeys(i.method for i in shown if i.method)),
        missing=stored.count(None),
        intervals=len(stored),
        corrected=bool(c.ranking),
    )
    return " ".join(filter(None, (text, _audit(c))))


def _audit(c: Comparison) -> str:
    """What is known of test items in the training sets."""
    tuned = [one.evaluation for _, cell in c.cells() if cell.rank for one in cell.runs]
    shares = [e.clean.items / e.items for e in tuned if e.clean and e.clean.items is not None and e.items]
    if not tuned:
        return ""
    low, high = min(shares, default=0), max(shares, default=0)
    return SAY.audit(known=len(shares), tuned=len(tuned), clean_share_low=low, clean_share_high=high)


def pending(runs: list[RunRecord]) -> list[tuple[RunRecord, str]]:
    """Runs that are in no figure of scores, with the reason."""
    found = []
    for run in runs:
        if run.status == "unfinished":
            found.append((run, "no summary yet: still running, or killed"))
        elif run.status not in USABLE:
            found.append((run, f"{run.status}: {run.reason}" if run.reason else run.status))
        elif not run.evaluations:
            found.append((run, f"{run.status}, not evaluated"))
        elif run.rank is None:
            found.append((run, "its rank is not stored"))
    return found
