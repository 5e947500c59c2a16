"""What a reader may conclude: the answer first, then who shares the first place, at what cost, and how sure that is.

Cells are compared item by item where their items are on disk (standing.py). Where they are not, intervals that
overlap are called too close to call. That is careful: a comparison item by item can tell apart what two overlapping
intervals leave open.
"""

from llama_exp.formatting import (
    format_duration,
    format_money,
    format_range,
    format_score,
    format_with_interval,
    join_list,
    plural,
)
from llama_exp.report.cells import LOWER_IS_BETTER, Cell, Comparison, Panel, overlap
from llama_exp.report.compare import USABLE
from llama_exp.report.costs import Prices, axis, cheapest_tied, priced
from llama_exp.report.labels import (
    cell_name,
    cell_phrase,
    dropped,
    encoders,
    in_training,
    measured,
    rival,
    with_confidence,
    with_span,
)
from llama_exp.report.load import RunRecord

MANY_EMPTY = 0.05  # of the replies
MEANINGS = {
    "squad/f1": "words shared with the right answer, in percent",
    "squad/exact_match": "answers equal to a right one, in percent",
    "squad/precision": "share of the reply's words that are right, in percent",
    "squad/recall": "share of the right answer's words that are in the reply, in percent",
    "bertscore/f1": "how well the reply's words and the reference's match in meaning, to an encoder",
    "rouge/rougeL": "the longest sequence of words that reply and reference share, in percent of their length",
    "loss": "surprise per token at the right answer; lower is better",
    "perplexity": "e to the loss; lower is better",
}


def answer(c: Comparison, prices: Prices = Prices()) -> list[str]:  # noqa: B008  frozen
    """The finding first, then how far to trust it."""
    best = c.best()
    if not best:
        return [f"No run has a score for {c.metric}."]
    panel, cell = best
    score, seeds = with_confidence(c.metric, cell), cell.seeds(c.metric)
    tuned = [s for _, s in c.cells() if s.rank]
    baseline = panel.baseline
    if not tuned:
        nothing = f"Nothing fine-tuned has been evaluated on {c.dataset} yet."
        return [f"The untuned model scores {c.metric} {score}. {nothing}"]
    over = f", the mean of {seeds} runs," if seeds > 1 else ""
    alone = len(c.cells()) == 1  # nothing to be the best of
    first = f"{'One cell' if alone else 'Best'} so far: {c.metric} {score}{over} with {cell_phrase(panel, cell, c)}"
    first += f" ({in_training(cell)} of them in training)" * cell.shrunk
    if cell.rank == 0:
        first = f"Best so far is the untuned model: {c.metric} {score}. No fine-tuned run is better"
    elif baseline and baseline.mean(c.metric) is not None:
        first += f"; the untuned model scores {with_confidence(c.metric, baseline)}"
    else:
        first += "; the untuned model has not been evaluated" + " with this BERTScore" * bool(_apart(c))
    said = _place(c, cell) if c.standing else _by_intervals(c, cell)
    fewer = dropped(s for _, s in c.cells())
    return [
        first + ".",
        *[fewer] * bool(fewer),
        *said,
        *_cheapest(c, prices),
        *_more_data(c, *best),
        *_noise(c, cell),
        *_overlapping(c, cell),
        *_loss_instead(c, cell),
        *_undefined(c),
        *_empty(c),
        *_encoder(c),
        *_apart(c),
    ]


def _encoder(c: Comparison) -> list[str]:
    found = encoders(c)
    return (
        [f"BERTScore's encoder: {found}. With another encoder, layer or scale the numbers are others."] if found else []
    )


def _empty(c: Comparison) -> list[str]:
    """Cells that often said nothing: a score of 0 alone does not tell."""
    said = []
    for panel, cell in c.cells():
        replies = [(one.evaluation.empty_replies or 0, one.evaluation.items or 0) for one in cell.scored]
        empty, items = (sum(count) for count in zip(*replies, strict=True))
        if empty > MANY_EMPTY * items:
            said.append(f"{empty:,} of {items:,} with {cell_name(panel, cell, c)}")
    return [f"Replies that are empty: {join_list(said)}."] if said else []


def _apart(c: Comparison) -> list[str]:
    """That other scores stand apart from these because of how their BERTScore was made."""
    if not any(key.startswith("bertscore.") for key in c.keys):
        return []
    return [
        "Other scores of this dataset stand apart: their BERTScore was made with another encoder, layer or scale, and such "
        "numbers cannot be compared. To bring them together type the same bertscore.model and bertscore.layer to "
        "evaluate.py, which scores the stored replies anew."
    ]


def _place(c: Comparison, best: Cell) -> list[str]:
    """What shares the first place, what is worse, and how small a difference could have been seen."""
    from llama_exp.statistics.words import describe_detectable

    standing, rivals = c.standing, c.rivals()
    items = f"{next(iter(standing.against.values()))[0].items:,} items"
    worse = [(p, s) for p, s in c.cells() if s.key in standing.worse]
    others = cell_name(*worse[0], c) if len(worse) == 1 else f"{'the other' if rivals else 'all'} {len(worse)} others"
    others = others.replace("other 1 others", "other").replace("the other", "the") if rivals else others
    if rivals:
        names = join_list(f"{rival(p, s, c)} at {with_span(c.metric, s)}" for p, s in rivals)
        said = [f"Too close to call: on the same {items} it cannot be told from {names}."]
        said[0] += f" It is better than {others}." if worse else " Nothing here is shown to be worse."
    else:
        said = [f"On the same {items} it is better than {others}, by more than chance explains."]
    if standing.runs == 1 and len(c.cells()) > 2:
        said.append("Some of these comparisons rest on a single run each: another training seed could change them.")
    if c.unpaired:
        said.append(c.unpaired)
    differences = [difference for difference, _ in standing.against.values()]
    if any(difference.clusters < 2 for difference in differences):
        one = "All these items belong to one group, so what chance does cannot be told: no difference here is shown."
        return [*said, one]
    if not any(difference.difference for difference in differences):
        return [*said, "Every cell gave every group of items the same score."]
    said += _exact(c)
    return said if standing.detectable is None else [*said, describe_detectable(standing.detectable)]


def _exact(c: Comparison) -> list[str]:
    if not c.exact:
        return []
    panel, cell = next((p, s) for p, s in c.cells() if s.key == c.exact.other)
    return [c.exact.words(cell_name(panel, cell, c))]


def _by_intervals(c: Comparison, cell: Cell) -> list[str]:
    """The same from the intervals alone."""
    rivals, others = c.rivals(), len(c.cells()) - 1
    said = [c.unpaired] if c.unpaired else []
    if rivals is None:
        said.append("No interval is stored with these scores, so small differences may be chance.")
    elif rivals:
        names = join_list(
            f"{rival(p, s, c)} ({format_score(c.metric, s.mean(c.metric))})" for p, s in _sorted(rivals, c)
        )
        said.append(
            f"Too close to call: its interval overlaps {'that' if len(rivals) == 1 else 'those'} of {names}. "
            "These results do not say which of them is better."
        )
    elif others:
        said.append(f"Its interval lies clear of {'the other cell' if others == 1 else f'all {others} others'}'s.")
    return said


def _cheapest(c: Comparison, prices: Prices) -> list[str]:
    """The cheapest cell that cannot be told from the best; silent where the best is the cheapest itself."""
    best, found = c.best(), cheapest_tied(c, prices)
    if not found or found[1].key == best[1].key:
        return []
    panel, cell, spent = found
    if cell.rank == 0:
        return ["The cheapest of these is the untuned model, which needs no training."]
    whole = next(x for _, s, x in priced(c, prices) if s.key == best[1].key)
    gap = c.standing.against.get(cell.key) if c.standing else None
    worst = None if not gap or gap[0].low is None else -gap[0].low if c.metric in LOWER_IS_BETTER else gap[0].high
    room = f": it may score up to {format_score(c.metric, worst)} worse" if worst is not None else ""
    room = f" That it is as good is not shown{room}." if gap else ""
    if axis(c, prices) == "money":
        said = f"{format_money(spent, prices.currency)} instead of {format_money(whole, prices.currency)}"
    else:
        said = f"{format_duration(spent)} of training instead of {format_duration(whole)}"
    return [f"The cheapest of these: {cell_name(panel, cell, c)}, {said}.{room}"]


def _more_data(c: Comparison, panel: Panel, cell: Cell) -> list[str]:
    from llama_exp.statistics.words import describe_gain

    curve = panel.curves.get(cell.rank)
    if not curve:
        return []
    if curve.trusted:
        return [f"At rank {cell.rank}: {_lower(describe_gain(curve, 10.0))}"]
    why = curve.refusal or (
        "the scores do not follow a law of diminishing returns"
        if curve.misfit
        else "the smaller sizes did not predict the largest one"
    )
    return [f"What more data would buy cannot be told: {why}."]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _noise(c: Comparison, cell: Cell) -> list[str]:
    """What the interval holds, and how much each part is."""
    interval = cell.interval(c.metric)
    if not interval or not cell.rank:
        return []
    if cell.seeds(c.metric) == 1:
        return [
            "Its interval: test set only; one training seed. Another seed could move the score by an unknown amount."
        ]
    scores = cell.scores(c.metric)
    ends = f"Its {cell.seeds(c.metric)} runs lie between {format_score(c.metric, min(scores))} and {format_score(c.metric, max(scores))}"
    if not interval.shares:
        return [f"{ends}; the interval counts the test items alone."]
    shares = join_list(f"{_source(name)} {100 * share:.0f} %" for name, share in interval.shares)
    said = [f"{ends}. What makes the mean uncertain (shares of the variance, rough with few runs): {shares}."]
    if interval.unseen:
        from llama_exp.statistics.words import describe_unseen

        said.append(describe_unseen(interval.unseen, cell.seeds(c.metric)))
    return said


def _source(name: str) -> str:
    return {
        "test set": "the test items",
        "training": "the training seed",
        "sampling": "the examples drawn",
        "training and sampling": "the examples drawn and the training seed together",
    }.get(name, name)


def _overlapping(c: Comparison, cell: Cell) -> list[str]:
    """The score on test items that nothing in training resembles, where it was stored."""
    clean = cell.clean(c.metric)
    if clean is None:
        return []
    value, interval, items = clean
    count = format_range(items)
    some = f" ({count} of {c.items:,})" if count and c.items else ""
    return [
        f"On the test items that nothing in training overlaps with{some} it scores {format_with_interval(value, interval, c.metric)}."
    ]


def _undefined(c: Comparison) -> list[str]:
    """Runs that have no number for the figure's metric, by name: they must not vanish, nor pass for 0."""
    scored = [one for panel in c.panels for s in (*panel.cells, *filter(None, [panel.baseline])) for one in s.scored]
    runs = {one.run.name: c.metric in one.evaluation.scores for one in scored}
    lost = [name for name, known in runs.items() if not known]
    if not lost:
        return []
    return [
        f"{c.metric} is undefined, or was not computed, in {len(lost)} of {plural(len(runs), 'run')} ({join_list(lost)}): "
        f"{'it is' if len(lost) == 1 else 'they are'} in no mean here."
    ]


def _loss_instead(c: Comparison, best: Cell) -> list[str]:
    """A score that stays at the bottom may hide that the model has begun to learn."""
    untuned = best.mean("loss") if best.rank == 0 else None
    tuned = [(p, s) for p, s in c.cells() if s.rank and s.mean("loss") is not None]
    if untuned is None or not tuned or c.metric in LOWER_IS_BETTER:
        return []
    panel, cell = min(tuned, key=lambda ps: ps[1].mean("loss"))
    a, b = cell.interval("loss"), best.interval("loss")
    if cell.mean("loss") >= untuned or (a and b and overlap(a, b)):
        return []
    some = f" (on the {measured(c)} of {c.items:,} items that have one)" * bool(measured(c))
    return [
        f"The loss did improve: from {with_span('loss', best)} to {with_span('loss', cell)} with "
        f"{cell_phrase(panel, cell, c)}{some}."
    ]


def _sorted(pairs: list[tuple[Panel, Cell]], c: Comparison) -> list[tuple[Panel, Cell]]:
    return sorted(pairs, key=lambda pair: pair[1].mean(c.metric), reverse=c.metric not in LOWER_IS_BETTER)


def test_words(c: Comparison) -> str:
    """Held-out test, N items, M groups, and which interval."""
    items = f"{c.items:,} held-out items" if c.items else "held-out items"
    grouped = c.groups and c.groups != c.items
    groups = f" in {plural(c.groups, 'group')} that belong together (an article, a dialogue)" if grouped else ""
    evaluations = [s.evaluation for _, cell in c.cells() for s in cell.scored]
    intervals = [e.intervals.get(c.metric) for e in evaluations]
    stored = [i for i in intervals if i]
    split = f"the {c.split} split" if c.split else "a split that is not named"
    words = f"Scores are on {split} of {c.dataset}: {items}{groups}."
    if c.metric in MEANINGS:
        words += f" {c.metric} is {MEANINGS[c.metric]}."
    if some := measured(c):
        words += (
            f" Loss and perplexity are of {some} of these items: the responses of the others are empty or do not fit in "
            "max_length."
        )
    if found := encoders(c):
        words += f" BERTScore's encoder: {found}."
    if not stored:
        return words + " No interval is stored with them."
    # of several runs: another one than each run stored
    shown = [i for _, s in c.cells() if (i := s.interval(c.metric))]
    kinds = join_list(dict.fromkeys(i.method for i in shown if i.method)) or "not named"
    several = any((known := s.known.get(c.metric)) and known.shares for _, s in c.cells())
    training = ", and after other training runs where there are several" * several
    words += (
        " ±, or a range in brackets, is a 95 % interval: where the score would likely lie on other items of this kind"
        f"{training}. Its method: {kinds}."
    )
    missing = len(intervals) - len(stored)
    words += f" {plural(missing, 'score')} of {len(intervals)} came without one." if missing else ""
    return words + _audited(c)


def _audited(c: Comparison) -> str:
    """What is known of test items in the training sets."""
    tuned = [one.evaluation for _, cell in c.cells() if cell.rank for one in cell.scored]
    known = [e.clean.items / e.items for e in tuned if e.clean and e.clean.items is not None and e.items]
    if not tuned:
        return ""
    if not known:
        return " Whether the training sets hold test items is not known: there is no audit of them."
    some = (
        "" if len(known) == len(tuned) else f" of the {len(known)} of {len(tuned)} runs whose audit covers these items"
    )
    if min(known) == 1:
        return f" The audit found no test item in the training sets{some}, nor one much like it."
    if max(known) == 0:
        return f" Every test item stands in the training sets{some}, or one much like it: these scores show memory."
    return f" In the training sets{some} stands up to {100 * (1 - min(known)):.1f} % of the test items, or one much like it."


def pending(runs: list[RunRecord]) -> list[tuple[RunRecord, str]]:
    """Runs that are in no figure of scores, with the reason."""
    found = []
    for run in runs:
        because = f": {run.reason}" if run.reason else ""
        if run.status == "unfinished":
            found.append((run, "no summary yet: still running, or killed"))
        elif run.status not in USABLE:
            found.append((run, run.status + because))
        elif not run.evaluations:
            found.append((run, f"{run.status}, not evaluated"))
        elif run.rank is None:
            found.append((run, "its rank is not stored"))
    return found
