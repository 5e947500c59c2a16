"""A study's findings in words, as tables, and as one HTML file. Plain strings here; the template escapes them all."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from llama_exp.human.agreement import GLANCE, GLANCE_WORDS, Agreement
from llama_exp.human.analysis import Preference
from llama_exp.human.study import Study
from llama_exp.sanitize import clean
from llama_exp.statistics import Interval
from llama_exp.statistics.comparisons import Difference
from llama_exp.statistics.words import count_of, p_words

Table = dict[str, list]  # heads, rows; a number's head ends in "#"


def answer(study: Study, found) -> list[str]:
    """The finding in sentences, most important first."""
    lines = findings(found.preferences, found.differences) or [NOTHING]
    lines += unfinished(found)
    lines += [agreed(a) for a in found.agreements if a.alpha.estimate is not None]
    without = [f"Without {raters(found.left_out)}, {line}" for line in findings(found.reliable, [])]
    return lines + doubtful(found) + without


def brief(found) -> str:
    """The finding for one line of a terminal: the first sentence, with the first doubt."""
    lines = findings(found.preferences, found.differences) or [NOTHING]
    return " ".join([*lines[:1], *caveats(found)[:1]])


NOTHING = "Nothing to compare has been rated yet."
NO_BETTER = 0.2  # an alpha up to here is hardly better than chance


def findings(preferences: Sequence[Preference], differences: Sequence[tuple]) -> list[str]:
    pairs = sum(p.p_value is not None for p in preferences)
    rows = sum(minus.p_value is not None for *_, minus in differences)
    return [preferred(p, pairs) for p in preferences] + [rated_higher(*d, rows) for d in differences]


def caveats(found) -> list[str]:
    """What takes away from the finding, the gravest first."""
    chance = [a for a in found.agreements if a.alpha.estimate is not None and a.alpha.estimate <= NO_BETTER]
    return unfinished(found) + doubtful(found) + [agreed(a) for a in chance]


def unfinished(found) -> list[str]:
    rated, of = sum(r.rated for r in found.raters), sum(r.of for r in found.raters)
    return [f"The study is not finished: {rated} of {of} pages are rated."] if rated < of else []


def doubtful(found) -> list[str]:
    """Which raters are not to be relied on, and why."""
    told = (
        (found.unreliable, "missed more than a third of the controls"),
        (found.hurried, "judged more than half of the pages too fast to have read them"),
    )
    return [f"R{raters(who)[1:]} {what}." for who, what in told if who]


def raters(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"raters {', '.join(most)} and {last}" if most else f"rater {last}"


def clear(null: float, low: float | None, high: float | None, p: float | None) -> bool | None:
    """Whether a value is told from `null`: the 95 % interval that is shown and the adjusted p must both say so.

    They are made in two ways and may differ by a hair; a verdict that one of them contradicts is none. None where neither is
    known.
    """
    said = [] if low is None else [not low <= null <= high]
    said += [] if p is None else [p < 0.05]
    return all(said) if said else None


def preferred(p: Preference, comparisons: int = 1) -> str:
    """Which of two conditions is preferred, or that it cannot be told, with the rate and its intervals."""
    value, wide, (winner, loser) = p.rate, p.any_raters, (p.first, p.second)
    if p.rate.estimate < 50:
        value, (winner, loser) = turned(p.rate), (p.second, p.first)
        wide = wide and (100 - wide[1], 100 - wide[0])
    rate = f"{rate_text(value, wide)} of the time, a tie counting half"
    sure = clear(50, value.low, value.high, p.p_value)
    if sure is None:
        return f"{winner} is preferred to {loser} {rate}; whether that is chance cannot be told: {value.note}."
    if not sure:
        return f"{p.first} and {p.second} cannot be told apart: {winner} is preferred {rate}{p_said(p.p_value, comparisons, 50)}."
    if wide and wide[0] <= 50 <= wide[1]:
        return f"These raters prefer {winner} to {loser} {rate}; whether other raters would cannot be told."
    return f"{winner} is preferred to {loser} {rate}."


def rate_text(rate: Interval, wide: tuple[float, float] | None) -> str:
    """`73 % (60 to 85 by these raters, 52 to 91 by any)`; with decimals where 50 would be read that is not 50."""
    numbers = [n for n in (rate.estimate, rate.low, rate.high, *(wide or ())) if n is not None]
    places = next((n for n in range(3) if all(x == 50 or round(x, n) != 50 for x in numbers)), 1)
    ends = [] if rate.low is None else [f"{rate.low:.{places}f} to {rate.high:.{places}f}"]
    if wide:
        ends = [f"{end} by these raters" for end in ends] + [f"{wide[0]:.{places}f} to {wide[1]:.{places}f} by any"]
    return f"{rate.estimate:.{places}f} %" + (f" ({', '.join(ends)})" if ends else "")


def p_said(p: float | None, comparisons: int, null: int) -> str:
    """The p-value of a pair that is not told apart, in brackets."""
    if p is None:
        return ""
    adjusted = f", adjusted for {comparisons} comparisons" if comparisons > 1 else ""
    return f" ({f'the interval reaches {null}, although ' if p < 0.05 else ''}{p_words(p)}{adjusted})"


def turned(rate: Interval) -> Interval:
    """The same win rate seen from the other side."""
    ends = {} if rate.low is None else {"low": 100 - rate.high, "high": 100 - rate.low}
    return replace(rate, estimate=100 - rate.estimate, **ends)


def rated_higher(scale: str, first: str, second: str, minus: Difference, comparisons: int = 1) -> str:
    if minus.standard_error == 0:  # every group has the same mean on both: a mean of 0 with any spread is no such thing
        return f"On {scale}, {first} and {second} are rated the same."
    sure = clear(0, minus.low, minus.high, minus.p_value)
    if sure is False or (sure is None and minus.difference == 0):
        doubt = (
            f": {minus.note}" if sure is None else f": they differ by {minus}{p_said(minus.p_value, comparisons, 0)}"
        )
        return f"On {scale}, {first} and {second} cannot be told apart{doubt}."
    high, low = (first, second) if minus.difference > 0 else (second, first)
    ends = "" if minus.low is None else f" ({two(*sorted((abs(minus.low), abs(minus.high))))})"
    doubt = f"; whether that is chance cannot be told: {minus.note}" if sure is None else ""
    return f"On {scale}, {high} is rated {abs(minus.difference):.2f}{ends} points higher than {low}, of 1 to 5{doubt}."


def two(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}"


def agreed(a: Agreement) -> str:
    """Alpha in words, after Krippendorff (2004): firm from 0.8, tentative from 0.667."""
    value = a.alpha.estimate
    ends = "" if a.alpha.low is None else f", {two(a.alpha.low, a.alpha.high)}"
    word = (
        "firm"
        if value >= 0.8
        else "enough for tentative conclusions"
        if value >= 0.667
        else "low: this is to a good part a matter of taste, or the question is unclear"
        if value > NO_BETTER
        else "hardly better than chance"
        if value > 0
        else "no better than chance"
        if value == 0
        else "below what chance alone would give"
    )
    return f"Agreement between raters on {a.about} is {word} (alpha {value:.2f}{ends})."


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def span(found: Interval, places: int = 0) -> str:
    return "" if found.low is None else f" ({found.low:.{places}f} to {found.high:.{places}f})"


def number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def with_span(found: Interval, places: int) -> str:
    return number(found.estimate, places) + (span(found, places) if found.low is not None else "")


def tables(study: Study, found) -> list[tuple[str, str, Table]]:
    """(heading, what it means, table) in the order of the page; empty ones are left out."""
    shown = [
        ("Win rates", WIN_WORDS, win_table(found.preferences)),
        (
            "Scales",
            "1 to 5, an item counting once as the mean of its raters; with the 95 % interval over items.",
            {
                "heads": ["scale", "condition", "ratings#", "mean#"],
                "rows": [[s.name, s.condition, str(s.ratings), with_span(s.mean, 2)] for s in found.scales],
            },
        ),
        (
            "Differences on scales",
            "On the items that were rated for both, with the 95 % interval over items. p is the chance of such "
            "a difference if there were none, adjusted for the number of rows (Holm); the intervals are not. One is called higher where "
            "the interval leaves out 0 and p is below 0.05.",
            {
                "heads": ["scale", "first", "second", "first minus second#", "p#"],
                "rows": [[s, a, b, str(d), p_text(d.p_value)] for s, a, b, d in found.differences],
            },
        ),
        ("Agreement between raters", AGREEMENT_WORDS, agreement_table(found.agreements)),
        ("Raters", rater_words(study, found), rater_table(study, found)),
        (
            "What raters wrote",
            "",
            {
                "heads": ["rater", "page#", "kind", "item", "said", "comment"],
                "rows": [[str(c.rater), str(c.place), c.kind, c.item, c.said, c.text] for c in found.comments],
            },
        ),
        (
            "People and metrics",
            "Kendall's tau-b: 1 = the metric orders the answers as people do, 0 = unrelated, with "
            "its 95 % interval. In pairs, the difference in the metric against who was preferred; the human reference "
            "itself is left out. A dash: the metric or the judgement is the same everywhere. Open: it would be, were one group left "
            "out, so how sure the number is cannot be told.",
            {
                "heads": ["metric", "judgement", "items#", "tau#"],
                "rows": [[r.metric, r.judgement, str(r.tau.items), tau_text(r.tau)] for r in found.relations],
            },
        ),
        (
            "Conditions",
            "",
            {"heads": ["condition", "where from"], "rows": [[n, c["folder"]] for n, c in study.conditions.items()]},
        ),
    ]
    return [part for part in shown if part[2]["rows"]]


WIN_WORDS = (
    "A tie counts half; two answers that are word for word the same are a tie that nobody was asked about. The interval "
    "is 95 %, over other items judged by these raters, items of one group (an article, a dialogue) counting together. "
    "“Any raters” lets the raters vary too, which takes at least three. p is the chance of such a rate if neither were "
    "preferred, adjusted for the number of pairs (Holm). One is called preferred where the interval leaves out 50 and p is "
    "below 0.05; where either does not, the two cannot be told apart, which does not mean that they are equal."
)
AGREEMENT_WORDS = (
    "Krippendorff's alpha: 1 = raters always agree, 0 = no more than by chance; conclusions are usually called firm from "
    "0.8 and tentative from 0.667. Alpha is over what two or more rated, kappa over what all rated. Repeats and controls are left out."
)


def win_table(found: Sequence[Preference]) -> Table:
    rows = []
    for p in found:
        wide = "–" if p.any_raters is None else f"{p.any_raters[0]:.1f} to {p.any_raters[1]:.1f}"
        rows.append(
            [
                p.first,
                p.second,
                *map(str, (p.wins, p.ties, p.losses, p.same)),
                with_span(p.rate, 1),
                wide,
                p_text(p.p_value),
            ]
        )
    heads = ["first", "second", "first won#", "ties#", "second won#", "same words#", "win rate %#", "any raters#", "p#"]
    return {"heads": heads, "rows": rows}


def p_text(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def agreement_table(found: Sequence[Agreement]) -> Table:
    rows = [
        [
            a.about,
            str(a.units),
            percent(a.equal),
            f"{with_span(a.alpha, 2)} {a.level}",
            f"{number(a.kappa, 2)} {a.kappa_name}",
            str(a.kappa_units),
        ]
        for a in found
        if a.units
    ]
    return {
        "heads": ["on", "rated by two or more#", "the same#", "Krippendorff's alpha#", "kappa", "rated by all#"],
        "rows": rows,
    }


def tau_text(tau: Interval) -> str:
    return with_span(tau, 2) + (" (open)" if tau.estimate is not None and tau.low is None else "")


HASTY_WORDS = (
    f" Too fast: pages judged in less than {GLANCE} second, or than {2 * GLANCE} where the answers have more than {GLANCE_WORDS} words; "
    "without a script the time is not known."
)
PAIR_WORDS = (
    "Consistent: the same verdict when an item came again with its sides swapped. Failed: controls, whose answer is known, "
    "that were called wrong or a tie. Left and right: a rater who always takes one side does not read." + HASTY_WORDS
)
SCALE_WORDS = (
    "Consistent: within one point on every scale when an answer came again. Failed: controls, an answer to another "
    "question, that were rated above 3 on {control_scale}." + HASTY_WORDS
)


def rater_words(study: Study, found) -> str:
    words = SCALE_WORDS.format(**study.settings) if study.on_scales else PAIR_WORDS
    if found.consistency is not None:
        words += f" Over all raters {with_span(found.consistency, 0)} % of repeats are consistent."
    return words


def rater_table(study: Study, found) -> Table:
    rows = []
    for r in found.raters:
        sides = [] if study.on_scales else [f"{r.left} / {r.ties} / {r.right}"]
        seconds = number(r.seconds, 1 if r.seconds is not None and r.seconds < 10 else 0)
        rows.append(
            [
                str(r.number),
                f"{r.rated} of {r.of}",
                seconds,
                f"{r.hasty} of {r.timed}",
                *sides,
                f"{r.consistent} of {r.repeats}",
                f"{r.failed} of {r.controls}",
                str(r.changes),
            ]
        )
    sides = [] if study.on_scales else ["left / tie / right#"]
    return {
        "heads": ["rater", "rated#", "median seconds#", "too fast#", *sides, "consistent#", "failed#", "changed#"],
        "rows": rows,
    }


def bars(study: Study, found: Sequence[Preference]) -> list[dict]:
    """What the picture draws per pair, in percent of its width: wins, ties, losses, and the rate with its interval."""
    drawn, places = [], list(study.conditions)  # a condition has the same colour in every bar
    for p in found:
        asked = p.wins + p.ties + p.losses
        drawn.append(
            {
                "first": p.first,
                "second": p.second,
                "rate": p.rate,
                "wins": 100 * p.wins / asked,
                "ties": 100 * p.ties / asked,
                "losses": 100 * p.losses / asked,
                "colours": [places.index(name) % 6 for name in (p.first, p.second)],
                "text": f"{p.first} won {p.wins}, tied {p.ties}, {p.second} won {p.losses}",
            }
        )
    return drawn


def render(folder: Path, study: Study, found, said: list[str]) -> str:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    environment.filters["clean"] = clean
    facts = f"{len(study.items)} of {study.available} items, {count_of(len(study.queues), 'rater')}"
    question = "" if study.on_scales else study.settings["question"]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = environment.get_template("report.html.jinja")
    drawn = bars(study, found.preferences)
    return page.render(
        folder=str(folder),
        facts=facts,
        question=question,
        said=said,
        bars=drawn,
        tables=tables(study, found),
        made=made,
    )
