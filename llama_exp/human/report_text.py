"""A study's results as text: sentences (templates/sentences.jinja) and a page of HTML (templates/report.html.jinja).

What is significant is decided here; how it is worded stands in the templates.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from llama_exp.formatting import format_decimal, format_p_value, join_list, percent, plural, with_range
from llama_exp.human import raters
from llama_exp.human.agreement import Agreement
from llama_exp.human.analysis import ScaleDifference, WinRate
from llama_exp.human.results import StudyResults
from llama_exp.human.study import Study
from llama_exp.report.templating import TEMPLATES
from llama_exp.sanitize import clean
from llama_exp.statistics.intervals import Interval

HARDLY_BETTER = 0.2  # an alpha up to here is hardly better than chance
Verdict = Literal["significant", "these raters", "not significant", "unknown"]


def sentences(results: StudyResults) -> list[str]:
    """The findings, most important first, then what they rest on."""
    found = _findings(results.preferences, results.differences) or [_sentence("nothing_rated")]
    found += _unfinished(results)
    found += [agreement_sentence(a) for a in results.agreements if a.alpha.estimate is not None]
    found += _doubtful_raters(results)
    without = _findings(results.reliable, [])
    return found + [_sentence("without_raters", results.left_out, finding) for finding in without]


def summary(results: StudyResults) -> str:
    """The first finding with its gravest caveat, for one line of a terminal."""
    finding = (_findings(results.preferences, results.differences) or [_sentence("nothing_rated")])[0]
    alphas = [a for a in results.agreements if a.alpha.estimate is not None and a.alpha.estimate <= HARDLY_BETTER]
    caveats = _unfinished(results) + _doubtful_raters(results) + [agreement_sentence(a) for a in alphas]
    return " ".join([finding, *caveats[:1]])


def _findings(preferences: Sequence[WinRate], differences: Sequence[ScaleDifference]) -> list[str]:
    pairs = sum(rate.p_value is not None for rate in preferences)
    rows = sum(row.difference.p_value is not None for row in differences)
    return [preference_sentence(p, pairs) for p in preferences] + [difference_sentence(d, rows) for d in differences]


def _unfinished(results: StudyResults) -> list[str]:
    rated, pages = sum(r.rated for r in results.raters), sum(r.of for r in results.raters)
    return [_sentence("unfinished", rated, pages)] if rated < pages else []


def _doubtful_raters(results: StudyResults) -> list[str]:
    reasons = {"unreliable": results.unreliable, "hurried": results.hurried}
    return [_sentence(reason, numbers) for reason, numbers in reasons.items() if numbers]


def preference_sentence(preference: WinRate, comparisons: int = 1) -> str:
    """Which of two conditions is preferred, with its win rate. `comparisons`: how many the p-value is adjusted for."""
    p = preference.preferred_first()
    verdict = _verdict(50, p.rate.low, p.rate.high, p.p_value)
    if verdict == "significant" and p.any_raters and p.any_raters[0] <= 50 <= p.any_raters[1]:
        verdict = "these raters"
    numbers = [n for n in (p.rate.estimate, p.rate.low, p.rate.high, *(p.any_raters or ())) if n is not None]
    # As many decimals as it takes that nothing reads as 50 which is not 50
    decimals = next((n for n in range(3) if all(x == 50 or round(x, n) != 50 for x in numbers)), 1)
    return _sentence("preference", p, verdict, decimals, comparisons)


def difference_sentence(row: ScaleDifference, comparisons: int = 1) -> str:
    """Which of two conditions is rated higher on a scale, and by how much."""
    row = row.higher_first()
    difference = row.difference
    if difference.standard_error == 0:  # every group has the same mean on both; a mean of 0 with any spread is not that
        return _sentence("same_ratings", row)
    verdict = _verdict(0, difference.low, difference.high, difference.p_value)
    ends = () if difference.low is None else sorted((abs(difference.low), abs(difference.high)))
    return _sentence("difference", row, verdict, ends, comparisons)


def _verdict(null: float, low: float | None, high: float | None, p: float | None) -> Verdict:
    """Significant only where the interval that is shown excludes `null` and the adjusted p is below 0.05.

    The two are computed in different ways and can differ by a hair; then neither is to contradict the sentence.
    """
    tests = [] if low is None else [not low <= null <= high]
    tests += [] if p is None else [p < 0.05]
    return "unknown" if not tests else "significant" if all(tests) else "not significant"


def agreement_sentence(agreement: Agreement) -> str:
    return _sentence("agreement", agreement, HARDLY_BETTER)


def _sentence(name: str, *values) -> str:
    """The macro `name` of sentences.jinja, in one line."""
    return " ".join(getattr(SENTENCES, name)(*values).split())


def render_page(folder: Path, study: Study, results: StudyResults, findings: Sequence[str]) -> str:
    return ENVIRONMENT.get_template("report.html.jinja").render(
        folder=str(folder),
        study=study,
        results=results,
        findings=findings,
        limits=raters,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _estimate(interval: Interval) -> str:
    """`0.41 (0.30 to 0.52)`; `0.41 (no interval)`; a dash where the estimate is undefined."""
    if interval.estimate is None:
        return "–"
    if interval.low is None:
        return f"{interval.estimate:.3g} (no interval)"
    return with_range(interval.estimate, interval.low, interval.high)


ENVIRONMENT = Environment(
    loader=FileSystemLoader([Path(__file__).parent / "templates", TEMPLATES]),
    autoescape=select_autoescape(["html.jinja"]),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
ENVIRONMENT.filters |= {
    "clean": clean,
    "decimal": format_decimal,
    "estimate": _estimate,
    "join_list": join_list,
    "p_value": format_p_value,
    "percent": percent,
    "plural": plural,
}
SENTENCES = ENVIRONMENT.get_template("sentences.jinja").module
