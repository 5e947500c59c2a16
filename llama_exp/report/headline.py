"""The large numbers at the head of an answer: what suffices, the score to expect, what twice the data buys.

Where one cell was run several times and nothing can be recommended: how far its runs lie apart, and how many runs it
takes to find a difference. Labels and notes are in templates/page_headline.jinja.
"""

from dataclasses import dataclass

from llama_exp.formatting import format_score, round_count, with_range
from llama_exp.report.answer import Answer, Estimate, Luck, Recommended
from llama_exp.report.cells import Comparison
from llama_exp.report.labels import key_value
from llama_exp.report.templating import Sentences

SAY = Sentences("page_headline")


@dataclass(frozen=True, slots=True)
class LargeNumber:
    label: str
    value: str
    notes: tuple[str, ...] = ()


def large_numbers(answer: Answer, c: Comparison) -> list[LargeNumber]:
    found, facts = answer.recommended, c.describe()
    if found is None:
        return _luck(answer.luck, facts.label) if answer.luck else []
    if found.rank == 0:
        score = format_score(answer.untuned, facts.decimals)
        return [
            LargeNumber(SAY.recommended(confident=True), SAY.no_tuning(), (SAY.untuned_is_best(),)),
            LargeNumber(SAY.of_untuned(metric=facts.label), score),
        ]
    first = _recommended(found, answer, bool(facts.bounds))
    return [first, _expected(answer, found, c), _twice(answer, facts.label)]


def headline(numbers: list[LargeNumber]) -> str:
    """`rank 16, 300 examples; Expected F1 57.2`: one line for a table of contents; "" without numbers."""
    first, *others = numbers or [LargeNumber("", "")]
    return "; ".join([first.value, *(f"{one.label} {one.value}" for one in others[:1])])


def twice_the_data(answer: Answer, c: Comparison) -> list[str]:
    """`F1 from twice the data, 600 examples: +12 (1 to 22)`: the third number as a line, where it is known."""
    gain = next((one for one in answer.more_data if one.factor == 2), None)
    if gain is None:
        return []
    label = _twice(answer, c.describe().label).label
    gained = with_range(gain.gain.value, gain.gain.low, gain.gain.high, sign=True)
    available = answer.available_for(gain)
    return [f"{label}: {gained}" + (f"; {SAY.available(examples=available)}" if available else "") + "."]


def _recommended(found: Recommended, answer: Answer, points: bool) -> LargeNumber:
    cell = SAY.cell(rank=found.rank, examples="" if found.examples is None else f"{found.examples:,}")
    setting = ", ".join(filter(None, (*(key_value(key, value) for key, value in found.tuned.items()), answer.setting)))
    note = SAY.suffices(tolerance=f"{found.tolerance:.2g}", points=points, sure=found.how_sure, setting=setting)
    notes = [note]
    if answer.not_told_apart:
        notes.append(SAY.not_told_apart(ranks=answer.not_told_apart))
    if answer.more_data and found.examples == answer.more_data[0].examples / answer.more_data[0].factor:
        notes.append(SAY.largest_tried())
    return LargeNumber(SAY.recommended(confident=found.confident), cell, tuple(notes))


def _expected(answer: Answer, found: Recommended, c: Comparison) -> LargeNumber:
    facts = c.describe()
    known = (SAY.measured, found.measured), (SAY.untuned, answer.untuned)
    notes = [say(score=format_score(score, facts.decimals)) for say, score in known if score is not None]
    label = SAY.expected(metric=facts.label)
    if found.score is None:
        return LargeNumber(label, SAY.unknown(), tuple(notes))
    value, interval = _parts(found.score)
    return LargeNumber(label, value, (SAY.interval(low_to_high=interval), *notes))


def _twice(answer: Answer, metric: str) -> LargeNumber:
    gain = next((one for one in answer.more_data if one.factor == 2), None)
    if gain is None:
        return LargeNumber(SAY.twice(metric=metric, examples=""), SAY.unknown())
    value, interval = _parts(gain.gain, sign=True)
    label = SAY.twice(metric=metric, examples=round_count(gain.examples))
    notes = [SAY.interval(low_to_high=interval)]
    if gain.gain.low <= 0 <= gain.gain.high:
        notes.append(SAY.may_be_none())
    if available := answer.available_for(gain):
        notes.append(SAY.available(examples=available))
    return LargeNumber(label, value, tuple(notes))


def _luck(luck: Luck, metric: str) -> list[LargeNumber]:
    value, interval = _parts(luck.spread)
    notes = SAY.interval(low_to_high=interval), SAY.deviation(runs=luck.runs)
    needed = [
        LargeNumber(
            SAY.needed(difference=f"{one.difference:.2g}"),
            SAY.runs(count=f"{one.seeds:,}" if one.seeds else "over 1,000"),
            (SAY.each(),),
        )
        for one in luck.seeds_needed
    ]
    return [LargeNumber(SAY.spread(metric=metric), value, notes), *needed]


def _parts(one: Estimate, sign: bool = False) -> tuple[str, str]:
    """("57.2", "49.9 to 64.1"), rounded as in the sentences."""
    value, _, interval = with_range(one.value, one.low, one.high, sign=sign).partition(" (")
    return value, interval.rstrip(")")
