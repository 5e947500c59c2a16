"""What a reader may conclude: the answer and how far to trust it, and a sentence or two under each figure.

Intervals that overlap are called too close to call. That is careful: a comparison item by item can tell apart what two
overlapping intervals leave open; the other way round it does not happen for two of the same kind.
"""

from llama_exp.results import Curve, Run
from llama_exp.settings import LOWER_IS_BETTER, USABLE, Comparison, Panel, Setting, overlap
from llama_exp.words import duration, every, joined, number, plural, rival, size_of, who, with_span

MEANINGS = {
    "squad/f1": "words shared with the right answer, in percent",
    "squad/exact_match": "answers equal to a right one, in percent",
    "squad/precision": "share of the reply's words that are right, in percent",
    "squad/recall": "share of the right answer's words that are in the reply, in percent",
    "loss": "surprise per token at the right answer; lower is better",
    "perplexity": "e to the loss; lower is better",
}
STAGE_WORDS = {"import": "Starting up", "load": "Loading the model", "data": "Preparing data", "train": "Training",
               "save": "Saving", "evaluate": "Evaluation"}  # fmt: skip


def answer(c: Comparison) -> list[str]:
    """The finding first, then how far to trust it."""
    best = c.best()
    if not best:
        return [f"No run has a score for {c.metric}."]
    panel, setting = best
    score, seeds = with_span(c.metric, setting), setting.seeds()
    tuned = [s for _, s in c.settings() if s.rank]
    baseline = panel.baseline
    if not tuned:
        nothing = f"Nothing fine-tuned has been evaluated on {c.dataset} yet."
        return [f"The untuned model scores {c.metric} {score}. {nothing}"]
    over = f", the mean of {seeds} seeds," if seeds > 1 else ""
    first = f"Best so far: {c.metric} {score}{over} with {who(panel, setting, c)}"
    if setting.rank == 0:
        first = f"Best so far is the untuned model: {c.metric} {score}. No fine-tuned run is better"
    elif baseline and baseline.mean(c.metric) is not None:
        first += f"; the untuned model scores {number(c.metric, baseline.mean(c.metric))}"
    else:
        first += "; the untuned model has not been evaluated"
    return [first + ".", *_trust(c, setting), *_loss_instead(c, setting)]


def _loss_instead(c: Comparison, best: Setting) -> list[str]:
    """A score that stays at the bottom may hide that the model has begun to learn."""
    untuned = best.mean("loss") if best.rank == 0 else None
    tuned = [(p, s) for p, s in c.settings() if s.rank and s.mean("loss") is not None]
    if untuned is None or not tuned or c.metric in LOWER_IS_BETTER:
        return []
    panel, setting = min(tuned, key=lambda ps: ps[1].mean("loss"))
    a, b = setting.interval("loss"), best.interval("loss")
    if setting.mean("loss") >= untuned or (a and b and overlap(a, b)):
        return []
    return [f"The loss did improve: from {untuned:.3f} to {setting.mean('loss'):.3f} with {who(panel, setting, c)}."]


def _trust(c: Comparison, setting: Setting) -> list[str]:
    rivals, others = c.rivals(), len(c.settings()) - 1
    said = []
    if rivals is None:
        said.append("No interval is stored with these scores, so small differences may be chance.")
    elif rivals:
        names = joined(f"{rival(p, s, c)} ({number(c.metric, s.mean(c.metric))})" for p, s in _sorted(rivals, c))
        said.append(f"Too close to call: its interval overlaps {'that' if len(rivals) == 1 else 'those'} of {names}. "
                    "These results do not say which of them is better.")  # fmt: skip
        tuned = [(p, s) for p, s in rivals if s.rank and s.examples]
        least = min(tuned, key=lambda ps: (ps[1].examples, ps[1].rank), default=None)
        if least and len(rivals) > 1 and least[1].examples < (setting.examples or 0):
            said.append(f"The one with the least data among them: {rival(*least, c)}, {with_span(c.metric, least[1])}.")
    elif others:
        other = "the other setting's" if others == 1 else f"all {others} others'"
        said.append(f"Its interval lies clear of {other}.")
    if setting.rank and setting.seeds() == 1:
        said.append("It was trained with one seed: another seed could move it, and its interval does not count that.")
    elif setting.rank and setting.seeds() > 1:
        seeds = setting.scores(c.metric)
        low, high = number(c.metric, min(seeds)), number(c.metric, max(seeds))
        seeds = f"Its {setting.seeds()} seeds lie between {low} and {high}"
        said.append(f"{seeds}; the interval counts the test items alone.")
    return said


def _sorted(pairs: list[tuple[Panel, Setting]], c: Comparison) -> list[tuple[Panel, Setting]]:
    return sorted(pairs, key=lambda pair: pair[1].mean(c.metric), reverse=c.metric not in LOWER_IS_BETTER)


def caption(panel: Panel, c: Comparison) -> str:
    """What a panel of scores shows: first what more data did, then what rank did."""
    placed = [s for s in panel.settings if s.examples and s.mean(c.metric) is not None]
    if not placed:
        return "Only the untuned model has been scored here."
    said = _data_effect(panel, placed, c) + _rank_effect(placed, c)
    return " ".join(said) or f"One setting so far: {size_of(placed[0])} at rank {placed[0].rank}."


def _data_effect(panel: Panel, placed: list[Setting], c: Comparison) -> list[str]:
    lines = [[s for s in placed if s.rank == r] for r in panel.ranks()]
    best = c.best()
    lines = sorted((x for x in lines if len(x) > 1), key=lambda x: (bool(best) and best[1] not in x, -len(x)))
    if not lines:
        return []
    first, last = min(lines[0], key=lambda s: s.examples), max(lines[0], key=lambda s: s.examples)
    a, b = first.mean(c.metric), last.mean(c.metric)
    better = (b < a) if c.metric in LOWER_IS_BETTER else (b > a)
    left, right = first.interval(c.metric), last.interval(c.metric)
    close = bool(left and right and overlap(left, right))
    verdict = "more data helped" if better else "more data did not help"
    verdict = "a difference that chance could make" if close else verdict
    return [f"From {first.examples:,} to {size_of(last)}, rank {last.rank} goes from {number(c.metric, a)} "
            f"to {number(c.metric, b)}: {verdict}."]  # fmt: skip


def _rank_effect(placed: list[Setting], c: Comparison) -> list[str]:
    by_size = {n: [s for s in placed if s.examples == n] for n in {s.examples for s in placed}}
    wide = max((n for n, group in by_size.items() if len(group) > 1), default=None)
    if wide is None:
        return []
    group = sorted(by_size[wide], key=lambda s: s.mean(c.metric), reverse=c.metric not in LOWER_IS_BETTER)
    top, bottom = group[0], group[-1]
    start = f"With {wide:,} examples, rank {top.rank} is ahead ({number(c.metric, top.mean(c.metric))}) and rank " \
            f"{bottom.rank} last ({number(c.metric, bottom.mean(c.metric))})"  # fmt: skip
    a, b = top.interval(c.metric), bottom.interval(c.metric)
    if a and b:
        start += ", too close to call" if overlap(a, b) else ", further apart than chance on the test items explains"
    return [start + "."]


def test_words(c: Comparison) -> str:
    """Held-out test, N items, M groups, and which interval."""
    items = f"{c.items:,} held-out items" if c.items else "held-out items"
    groups = f" in {plural(c.groups, 'group')} that belong together (an article, a dialogue)" if c.groups else ""
    evaluations = [s.evaluation for _, setting in c.settings() for s in setting.scored]
    intervals = [e.intervals.get(c.metric) for e in evaluations]
    stored = [i for i in intervals if i]
    split = f"the {c.split} split" if c.split else "a split that is not named"
    words = f"Scores are on {split} of {c.dataset}: {items}{groups}, never seen in training."
    if c.metric in MEANINGS:
        words += f" {c.metric} is {MEANINGS[c.metric]}."
    if not stored:
        return words + " No interval is stored with them."
    kinds = joined(dict.fromkeys(i.method for i in stored if i.method)) or "method not named"
    notes = joined(dict.fromkeys(i.note for i in stored if i.note))
    words += f" The range in brackets is a 95 % interval ({kinds}{'; ' + notes if notes else ''}): " \
             "where the score would likely lie on other items of this kind."  # fmt: skip
    missing = len(intervals) - len(stored)
    return words + (f" {plural(missing, 'score')} of {len(intervals)} came without one." if missing else "")


def pending(runs: list[Run]) -> list[tuple[Run, str]]:
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


def time_caption(bars: list[tuple[str, dict[str, float]]], shown: int) -> str:
    """Which stage took the most of the whole, and what that leaves to save."""
    totals: dict[str, float] = {}
    for _, stages in bars:
        for stage, seconds in stages.items():
            totals[stage] = totals.get(stage, 0) + seconds
    whole_time = sum(totals.values())
    most = max(totals, key=totals.get)
    share = f"{totals[most] / whole_time:.0%} of {duration(whole_time)} in all bars together"
    said = f"{STAGE_WORDS.get(most, most)} took the most: {share}. A bar is the mean over its seeds."
    return said + (f" The {shown} longest of {len(bars)} are shown." if len(bars) > shown else "")


def losses_caption(curves: dict[str, Curve]) -> str:
    """How many runs ended with a worse validation loss than they once had, by more than 2 % of it."""
    measured = {name: [y for _, y in curve.validation] for name, curve in curves.items() if len(curve.validation) > 1}
    rises = {name: losses[-1] - min(losses) for name, losses in measured.items() if losses[-1] > 1.02 * min(losses)}
    if not measured:
        return "No validation loss was measured."
    if not rises:
        return f"In {every(len(measured), 'run')} the validation loss ended at its best or within 2 % of it."
    worst = max(rises, key=rises.get)
    return (f"In {len(rises)} of {plural(len(measured), 'run')} the validation loss rose again before the end, "
            f"most in {worst}: from {min(measured[worst]):.2f} to {measured[worst][-1]:.2f}.")  # fmt: skip
