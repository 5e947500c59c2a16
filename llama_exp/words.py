"""Numbers and findings in words: how a score is printed, and what a reader may conclude from it."""

from collections.abc import Iterable
from typing import Any

from llama_exp.results import Interval, Run, part
from llama_exp.settings import LOWER_IS_BETTER, USABLE, Comparison, Panel, Setting, overlap

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


def number(metric: str, value: float | None) -> str:
    """Percent metrics with one decimal; loss with three; perplexity with as many as it deserves."""
    if value is None:
        return "–"
    if metric == "loss":
        return f"{value:.3f}"
    if metric == "perplexity":
        return f"{value:.2f}" if value < 100 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
    return f"{value:.1f}"


def span(metric: str, interval: Interval | None) -> str:
    return f"{number(metric, interval.low)} to {number(metric, interval.high)}" if interval else ""


def with_span(metric: str, setting: Setting) -> str:
    interval = setting.interval(metric)
    return number(metric, setting.mean(metric)) + (f" ({span(metric, interval)})" if interval else "")


def whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """12,345,678 as 12.3 M."""
    if value is None:
        return "–"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if size == 1e4 else size):.1f}{unit}"
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: float | None) -> str:
    if not size:
        return "–"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def joined(words: Iterable[str], limit: int = 4) -> str:
    """a, b and c; beyond `limit`, how many more."""
    words = list(words)
    if len(words) > limit:
        words = words[: limit - 1] + [f"{len(words) - limit + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def size_of(setting: Setting) -> str:
    if setting.examples is None:
        return "all examples"
    return f"all {setting.examples:,} examples" if setting.whole else plural(setting.examples, "example")


def key_value(key: str, value: Any) -> str:
    section, _, leaf = key.rpartition(".")
    return f"{key if leaf in ('path', 'name', 'revision', 'test') else leaf} {'none' if value is None else value}"


def panel_name(panel: Panel, comparison: Comparison) -> str:
    """What sets this panel apart: the model where there are several, and the training keys that differ."""
    several = len({p.model for p in comparison.panels}) > 1
    words = ([f"model {panel.model}"] if several else []) + [key_value(k, v) for k, v in panel.keys.items()]
    return ", ".join(words)


def title(comparison: Comparison) -> str:
    """squad, test split; with the training set where it is another one."""
    name = comparison.dataset if comparison.trained_on == comparison.dataset else (
        f"{comparison.dataset} after training on {comparison.trained_on}")  # fmt: skip
    extra = ", ".join(key_value(k, v) for k, v in comparison.keys.items())
    return name + (f" ({extra})" if extra else "")


def who(panel: Panel, setting: Setting, comparison: Comparison) -> str:
    name = panel_name(panel, comparison)
    if setting.rank == 0:
        return "the untuned model" + (f" {panel.model}" if name.startswith("model ") else "")
    return f"{size_of(setting)} at rank {setting.rank}" + (f" ({name})" if name else "")


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
        return [f"The untuned model scores {c.metric} {score}. Nothing fine-tuned has been evaluated on {c.dataset} yet."]
    over = f", the mean of {seeds} seeds," if seeds > 1 else ""
    first = f"Best so far: {c.metric} {score}{over} with {who(panel, setting, c)}"
    if setting.rank == 0:
        first = f"Best so far is the untuned model: {c.metric} {score}. Fine-tuning has not helped"
    elif baseline and baseline.mean(c.metric) is not None:
        first += f"; the untuned model scores {number(c.metric, baseline.mean(c.metric))}"
    else:
        first += "; the untuned model has not been evaluated"
    return [first + ".", *_trust(c, setting)]


def _trust(c: Comparison, setting: Setting) -> list[str]:
    rivals, others = c.rivals(), len(c.settings()) - 1
    said = []
    if rivals is None:
        said.append("No interval is stored with these scores, so small differences may be chance.")
    elif rivals:
        names = joined(f"{who(p, s, c)} ({number(c.metric, s.mean(c.metric))})" for p, s in _sorted(rivals, c))
        said.append(f"Too close to call: its interval overlaps {'that' if len(rivals) == 1 else 'those'} of {names}. "
                    "These results do not say which of them is better.")  # fmt: skip
    elif others:
        other = "the other setting's" if others == 1 else f"all {others} others'"
        said.append(f"Its interval lies clear of {other}.")
    if setting.rank and setting.seeds() == 1:
        said.append("It was trained with one seed: another seed could move it, and its interval does not count that.")
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
    verdict = "a difference that chance could make" if close else "more data helped" if better else "more data did not help"
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


def seconds_of(run: Run) -> dict[str, float]:
    return {k: v for k, v in part(run.summary, "seconds").items() if isinstance(v, (int, float)) and v >= 0}


def time_caption(bars: list[tuple[str, dict[str, float]]], shown: int) -> str:
    """Which stage took the most of the whole, and what that leaves to save."""
    totals: dict[str, float] = {}
    for _, stages in bars:
        for stage, seconds in stages.items():
            totals[stage] = totals.get(stage, 0) + seconds
    whole_time = sum(totals.values())
    most = max(totals, key=totals.get)
    said = f"{STAGE_WORDS.get(most, most)} took the most, {totals[most] / whole_time:.0%} of {duration(whole_time)} in all"
    said += " (a bar is the mean over its seeds)."
    return said + (f" The {shown} longest of {len(bars)} are shown." if len(bars) > shown else "")
