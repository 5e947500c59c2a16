"""What the report says of ratings whose truth is known: made by rule, stored as the page stores them."""

import csv
import json
import random
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import krippendorff
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.multitest import multipletests

from llama_exp.cli.commands import study_sections
from llama_exp.errors import UserError
from llama_exp.human import agreement, analysis, raters, report_text
from llama_exp.human.report import report_studies, report_study
from llama_exp.human.store import RatingStore
from llama_exp.metrics import METRICS
from llama_exp.metrics.declaration import Score, metric
from llama_exp.records import Rating
from llama_exp.report.write import ExtraSection
from llama_exp.runs.files import write_json
from llama_exp.statistics.comparisons import Difference, paired_difference
from llama_exp.statistics.intervals import Interval
from tests.conftest import ROOT
from tests.test_human_study import evaluation, make, predictions, two

A, B = "zebra_tuned", "zebra_plain"


def rated(tmp_path, choose, items=24, of=24, seconds=lambda rater: 2.0, **words):
    """A study that every rater has finished; `choose(rater, trial)` gives a condition, "" for a tie, or scores."""
    folder, study = make({**two(tmp_path, of), "items": str(items), **words})
    store = RatingStore(folder)
    for number, queue in enumerate(study.queues, 1):
        for place, trial in enumerate(queue, 1):
            choice = choose(number, trial)
            if choice is None:
                continue
            scores = choice if isinstance(choice, dict) else {}
            side = {trial.left: "left", trial.right: "right"}.get(choice, "tie") if not scores else ""
            store.save(number, place, Rating(str(number), str(place), side, scores, "", seconds(number)), complete=True)
    return folder, study, analysis.collect_judgements(study, store)


def by_item(rater, trial):
    """15 of 24 items to A, 3 ties, 6 to B; every rater the same, and every control right."""
    if trial.kind == "control":
        return "right"
    n = int(trial.item.removeprefix("ident"))
    return A if n % 8 < 5 else "" if n % 8 == 5 else B


def test_a_win_rate_counts_an_item_once_and_a_tie_half(tmp_path):
    _, study, judged = rated(tmp_path, by_item, raters="3")
    (found,) = analysis.win_rates(study, judged)
    assert (found.first, found.wins, found.ties, found.losses, found.same) == (A, 45, 9, 18, 0)
    assert found.rate.estimate == pytest.approx(100 * (15 + 1.5) / 24)
    assert (found.rate.items, found.rate.clusters) == (24, 6)
    assert found.rate.low < found.rate.estimate < found.rate.high
    low, high = found.any_raters
    assert low < found.rate.low and high > found.rate.high, "raters who could have been others add doubt"


def test_the_win_rate_does_not_depend_on_which_condition_is_named_first(tmp_path):
    _, study, judged = rated(tmp_path, by_item, raters="2")
    straight = analysis.win_rate(study, analysis.of_kind(judged, "judged"), (A, B))
    turned = analysis.win_rate(study, analysis.of_kind(judged, "judged"), (B, A))
    assert straight.rate.estimate == pytest.approx(100 - turned.rate.estimate)
    assert straight.rate.low == pytest.approx(100 - turned.rate.high, abs=0.2)
    again = turned.reversed()
    assert (again.first, again.second, again.wins, again.losses) == (A, B, straight.wins, straight.losses)
    assert again.rate.estimate == pytest.approx(straight.rate.estimate)
    assert again.rate.low == pytest.approx(100 - turned.rate.high)


def test_same_words_count_as_ties_and_do_not_weigh_more_while_a_study_is_under_way(tmp_path):
    words = two(tmp_path)
    same = {f"ident{n}": "the same words" for n in range(8)}
    evaluation(tmp_path / "Tuned7", predictions(24, "{year}", **same))
    evaluation(tmp_path / "Untuned7", predictions(24, "no idea, case {n}", **same))
    folder, study = make({**words, "raters": "1", "controls": "0", "repeats": "0"})
    store = RatingStore(folder)
    rates = []
    for place in range(1, 17):
        side = "left" if study.queues[0][place - 1].left == A else "right"
        store.save(1, place, Rating("1", str(place), side), complete=True)
        (found,) = analysis.win_rates(study, analysis.collect_judgements(study, store))
        rates.append(found.rate.estimate)
    assert rates == pytest.approx([100 * (16 + 4) / 24] * 16), "8 ties of 24 from the first rating to the last"


def test_a_condition_that_always_wins_is_preferred_although_there_is_no_spread(tmp_path):
    folder, *_ = rated(tmp_path, lambda rater, trial: "right" if trial.kind == "control" else B)
    assert (
        report_study(folder).sentences[0]
        == "zebra_plain is preferred to zebra_tuned with a win rate of 100 % (95 % CI 65 to 100, ties count half)."
    )


def preference(low, high, p, any_raters=None, estimate=73.0):
    rate = Interval(estimate, low, high, 5.0, 12, 24, "t", "one group")
    return analysis.WinRate("tuned", "plain", 1, 1, 1, 0, rate, any_raters, p)


NOT_SIGNIFICANT = "No significant preference between tuned and plain"


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            preference(60.2, 85.4, 0.01),
            "tuned is preferred to plain with a win rate of 73 % (95 % CI 60 to 85, ties count half).",
        ),
        # The interval and the test are made in two ways: where either leaves it open, it is open, and both are said.
        (
            preference(49.9999998, 89.3, 0.034),
            f"{NOT_SIGNIFICANT} (p = 0.034, but the interval includes 50); "
            "tuned has a win rate of 73.0 % (95 % CI 50.0 to 89.3, ties count half).",
        ),
        (
            preference(50.3, 89.3, 0.062),
            f"{NOT_SIGNIFICANT} (p = 0.062); tuned has a win rate of 73.0 % (95 % CI 50.3 to 89.3, ties count half).",
        ),
        (
            preference(50.04, 89.3, 0.04),
            "tuned is preferred to plain with a win rate of 73.00 % (95 % CI 50.04 to 89.30,",
        ),
        (preference(20.0, 49.7, 0.2, estimate=27.0), "plain has a win rate of 73.0 % (95 % CI 50.3 to 80.0, ties"),
        (
            preference(60.2, 85.4, 0.01, (55.1, 88.0)),
            "tuned is preferred to plain with a win rate of 73 % (95 % CI 60 to 85 for these raters and "
            "55 to 88 for any raters, ties count half).",
        ),
        (
            preference(60.2, 85.4, 0.01, (44.0, 91.0)),
            "These raters prefer tuned to plain with a win rate of 73 % (95 % CI 60 to 85 for these raters and 44 "
            "to 91 for any raters, ties count half); other raters might not.",
        ),
        (
            preference(14.6, 39.8, 0.01, (9.0, 56.0), 27.0),
            "These raters prefer plain to tuned with a win rate of 73 % (95 % CI 60 to 85 for these raters and "
            "44 to 91 for any raters, ties count half); other raters might not.",
        ),
        (
            preference(None, None, None),
            "tuned has a win rate of 73 % (ties count half) over plain; its significance is unknown: one group.",
        ),
        (
            preference(None, None, 0.5, estimate=50.0),
            f"{NOT_SIGNIFICANT} (p = 0.500); tuned has a win rate of 50 % (ties count half).",
        ),
    ],
)
def test_the_verdict_contradicts_neither_the_interval_nor_the_test_and_says_what_other_raters_may_say(found, sentence):
    assert sentence in report_text.preference_sentence(found)


def difference(scale, first, second, minus, comparisons=1):
    return report_text.difference_sentence(analysis.ScaleDifference(scale, first, second, minus), comparisons)


def test_a_mean_difference_of_nought_with_spread_is_not_called_the_same():
    minus = Difference(0.0, -0.88, 0.88, 1.0, 0.4, 6, 6, "t")
    assert difference("fluency", "tuned", "plain", minus, 9) == (
        "On fluency, there is no significant difference between tuned and plain "
        "(p = 1.000, Holm-adjusted for 9 comparisons); tuned minus plain is +0.00 ± 0.88."
    )
    close = Difference(1.0, 0.06, 1.94, 0.081, 0.4, 6, 6, "t")
    assert "comparisons); tuned minus plain is +1.00 ± 0.94." in difference("fluency", "tuned", "plain", close, 9)
    one_group = Difference(0.0, None, None, None, None, 6, 1, "none", "all 6 items are of one group")
    assert difference("wit", "a", "b", one_group) == (
        "On wit, a and b have the same mean; whether they differ is unknown: all 6 items are of one group."
    )


def test_a_significant_difference_on_a_scale_has_the_sign_and_the_interval_of_the_higher_one():
    minus = Difference(-1.0, -1.94, -0.06, 0.01, 0.4, 6, 6, "t")
    assert difference("fluency", "tuned", "plain", minus) == (
        "On fluency, plain is rated 1.00 points higher than tuned on a scale of 1 to 5 (95 % CI 0.06 to 1.94)."
    )
    alone = Difference(1.0, None, None, None, None, 6, 1, "none", "all 6 items are of one group")
    assert difference("wit", "a", "b", alone) == (
        "On wit, a is rated 1.00 points higher than b on a scale of 1 to 5; "
        "its significance is unknown: all 6 items are of one group."
    )


@pytest.mark.parametrize(
    ("alpha", "sentence"),
    [
        (0.8, "is high enough for firm conclusions (Krippendorff's alpha 0.80)."),
        (0.7, "is high enough for tentative conclusions (Krippendorff's alpha 0.70)."),
        (0.41, "is low (Krippendorff's alpha 0.41); the question may be unclear, or a matter of taste."),
        (0.1, "is hardly better than chance (Krippendorff's alpha 0.10)."),
        (0.0, "is no better than chance (Krippendorff's alpha 0.00)."),
        (-0.13, "is below chance (Krippendorff's alpha -0.13)."),
    ],
)
def test_agreement_is_named_by_the_usual_levels(alpha, sentence):
    found = Interval(alpha, None, None, None, 6, 6, "none")
    one = agreement.Agreement("preference", 6, 50.0, found, "nominal", None, "Fleiss' kappa", 6)
    assert report_text.agreement_sentence(one) == f"Agreement between raters on preference {sentence}"


def test_a_study_that_only_a_link_leads_to_is_reported_once(tmp_path):
    rated(tmp_path / "disk" / "first", lambda rater, trial: trial.left)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for name, there in (("human", "disk"), ("again", "disk/first"), ("disk/circle", "outputs"), ("nowhere", "nothing")):
        (outputs / name if "/" not in name else tmp_path / name).symlink_to(tmp_path / there)
    [section], unread = study_sections(outputs)
    assert section.name == "study" and unread == []


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000, '{"bertscore": {"scores": [1]}, "rouge": null}', "\x00"])
def test_damaged_metrics_of_a_study_cost_no_traceback(text, tmp_path):
    rated(tmp_path / "s", lambda rater, trial: trial.left)
    (tmp_path / "s" / "study" / "metrics.json").write_text(text)
    reports, unread = report_studies(tmp_path)
    assert len(reports) + len(unread) == 1
    assert all("metrics.json cannot be read" in one.reason and "move it away" in one.reason for one in unread)


def test_the_line_for_a_terminal_has_the_gravest_caveat(tmp_path):
    rated(tmp_path, lambda rater, trial: trial.left, raters="2", repeats="0", controls="0.3")
    [found], _ = report_studies(tmp_path)
    assert found.summary == f"{found.sentences[0]} Raters 1 and 2 failed more than a third of the controls."
    rng = random.Random(2)
    rated(tmp_path / "b", lambda rater, trial: "right" if trial.kind == "control" else rng.choice([A, B]), raters="3")
    [found], _ = report_studies(tmp_path / "b")
    assert found.summary == f"{found.sentences[0]} {found.sentences[1]}"
    assert found.sentences[1].startswith("Agreement between raters on preference is ")


def test_no_preference_is_found_where_there_is_none(tmp_path):
    rng = random.Random(5)
    found = report_study(rated(tmp_path, lambda rater, trial: rng.choice([A, B, ""]))[0])
    assert found.sentences[0].startswith("No significant preference between ") and found.page.is_file()


def test_alpha_and_kappa_are_the_libraries_own(tmp_path):
    rng = random.Random(1)
    _, study, judged = rated(tmp_path, lambda rater, trial: rng.choice([A, A, B, ""]), raters="2", repeats="0")
    (found,) = agreement.agreements(study, judged)
    value = {A: 1, B: -1, "": 0}
    table = [
        {one.trial.item: value[one.preferred] for one in judged if one.rater == n and one.trial.kind == "judged"}
        for n in (1, 2)
    ]
    first, second = ([side[item] for item in sorted(study.items)] for side in table)
    assert found.alpha.estimate == pytest.approx(krippendorff.alpha([first, second], level_of_measurement="nominal"))
    assert (found.kappa, found.kappa_name) == (pytest.approx(cohen_kappa_score(first, second)), "Cohen's kappa")
    assert found.equal == pytest.approx(100 * sum(a == b for a, b in zip(first, second, strict=True)) / 24)
    assert found.alpha.low < found.alpha.estimate < found.alpha.high


def test_raters_who_agree_have_alpha_one_and_gaps_are_allowed(tmp_path):
    def some(rater, trial):
        return None if rater == 3 and int(trial.item[5:]) % 3 == 0 else by_item(rater, trial)

    folder, study, judged = rated(tmp_path, some, raters="3")
    (found,) = agreement.agreements(study, judged)
    assert (found.alpha.estimate, found.kappa, found.kappa_name) == (1.0, 1.0, "Fleiss' kappa")
    assert (found.units, found.kappa_units) == (24, 16), "alpha is over what two rated, kappa over what all three did"
    page = report_study(folder).page.read_text(encoding="utf-8")
    assert '<td class="number">1.00, Fleiss&#39; kappa</td><td class="number">16</td>' in page
    assert raters.consistency(judged).estimate == 100


def test_one_rater_or_one_verdict_says_nothing_about_agreement(tmp_path):
    _, study, judged = rated(tmp_path, by_item, raters="1")
    (found,) = agreement.agreements(study, judged)
    assert found.alpha.estimate is None and found.kappa is None and "no item has two ratings" in found.alpha.note
    _, study, judged = rated(tmp_path / "b", lambda rater, trial: A, raters="2")
    (found,) = agreement.agreements(study, judged)
    assert found.alpha.estimate is None and found.kappa is None and found.equal == 100


def test_a_rater_who_always_clicks_left_is_inconsistent_and_fails_controls_and_the_report_says_so(tmp_path):
    def choose(rater, trial):
        return trial.left if rater == 2 else by_item(rater, trial)

    words = {"raters": "2", "repeats": "0.2", "controls": "0.3"}
    folder, study, judged = rated(tmp_path, choose, **words)
    good, lazy = raters.rater_summaries(study, judged)
    assert (good.consistent, good.repeats, good.failed, good.controls) == (5, 5, 0, 8)
    assert (lazy.consistent, lazy.left, lazy.right, lazy.failed) == (0, 37, 0, 4)
    assert raters.unreliable_raters([good, lazy]) == [2]
    said = report_study(folder).sentences
    assert said[-2] == "Rater 2 failed more than a third of the controls."
    assert said[-1].startswith("Without rater 2: No significant preference between zebra_tuned and zebra_plain (p = ")


def test_a_rater_who_is_faster_than_one_can_read_is_named_and_the_finding_given_without_them(tmp_path):
    def choose(rater, trial):
        return by_item(rater, trial) if rater != 2 else B

    words = {"raters": "3", "controls": "0", "repeats": "0"}
    folder, study, judged = rated(tmp_path, choose, seconds=lambda rater: 0.4 if rater == 2 else 2.0, **words)
    assert [one.hasty for one in raters.rater_summaries(study, judged)] == [0, 24, 0]
    found = report_study(folder)
    page, said = found.page, found.sentences
    results = json.loads((folder / "report" / "results.json").read_text(encoding="utf-8"))
    assert results["hurried"] == [2] and results["unreliable"] == []
    assert said[-2] == "Rater 2 judged more than half of the pages too fast to have read them."
    assert said[-1].startswith("Without rater 2: No significant preference between zebra_tuned and zebra_plain (p = ")
    assert ">0.4</td>" in page.read_text(encoding="utf-8") and ">24 of 24</td>" in page.read_text(encoding="utf-8")


def test_what_raters_wrote_stands_in_the_report_beside_what_they_said(tmp_path):
    folder, study = make({**two(tmp_path), "items": "6", "raters": "1"})
    first = study.queues[0][0]
    RatingStore(folder).save(1, 1, Rating("1", "1", "left", {}, "Both <i>wrong</i>,\nreally"), complete=True)
    text = report_study(folder).page.read_text(encoding="utf-8")
    row = ["1", "1", first.kind, first.item, f"{first.left} better", "Both &lt;i&gt;wrong&lt;/i&gt;, really"]
    assert "<h2>Comments</h2>" in text and "".join(f'>{cell}</td><td class="text"' for cell in row[3:5]) in text
    assert f">{row[5]}</td>" in text


def test_kendalls_tau_is_scipys_and_finds_a_judge_who_goes_by_f1(tmp_path):
    _, study, judged = rated(tmp_path, by_item, raters="1", controls="0", repeats="0")
    values = {
        name: {item: float(i * (7 if name == A else 3) % 11) for i, item in enumerate(sorted(study.items))}
        for name in (A, B)
    }
    (found,) = analysis.metric_correlations(study, judged, {"made/up": values})
    points = [(values[A][one.trial.item] - values[B][one.trial.item], one.percent(A)) for one in judged]
    assert found.tau.estimate == pytest.approx(kendalltau(*zip(*points, strict=True)).statistic)
    follows = {name: {one.trial.item: one.percent(name) for one in judged} for name in (A, B)}
    (found,) = analysis.metric_correlations(study, judged, {"follows": follows})
    assert found.tau.estimate == pytest.approx(1.0)
    values[A] |= dict.fromkeys(sorted(study.items)[:20], 0.0)
    (found,) = analysis.metric_correlations(study, judged, {"made/up": values})
    assert -1 <= found.tau.low < found.tau.estimate < found.tau.high <= 1


CALLS = []


@metric(Score("made/length", meaning="characters in the reply"))
def length(made):
    """How long a reply is."""
    CALLS.append(len(made))
    return {"made/length": [float(len(one.reply)) for one in made]}


def test_a_slow_metric_is_computed_once_when_asked_for_and_kept_with_the_study(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "made", f"{__name__}.length")
    folder, *_ = rated(tmp_path, by_item, raters="1", human="reference")
    for asked in ([], ["made"], []):
        report_study(folder, asked)
        told = json.loads((folder / "report" / "results.json").read_text())["relations"]
        names = {one["metric"] for one in told}
        assert {"squad/f1", "squad/exact_match"} <= names and ("made/length" in names) == bool(CALLS)
    assert CALLS == [24, 24], "two conditions once; the reference is not compared with itself"
    with pytest.raises(UserError, match="unknown metric 'rogue'"):
        report_study(folder, ["rogue"])


def test_what_the_evaluations_have_measured_is_compared_with_people_and_nothing_is_computed(tmp_path, monkeypatch):
    words = two(tmp_path)
    values = {
        A: {f"ident{n}": float(n * 7 % 11) for n in range(24)},
        B: {f"ident{n}": float(n * 3 % 5) for n in range(24)},
    }
    for name, encoder in ((A, "minilm"), (B, "minilm")):
        finished(Path(words[name]), values[name], encoder)
    folder, study = make({**words, "items": "12", "raters": "1", "repeats": "0", "controls": "0", "human": "reference"})
    finished(Path(words[B]), dict.fromkeys(values[B], 0.0), "minilm")  # what happens later changes nothing
    store = RatingStore(folder)
    for place, trial in enumerate(study.queues[0], 1):
        side = {trial.left: "left", trial.right: "right"}.get(by_item(1, trial), "tie")
        store.save(1, place, Rating("1", str(place), side, {}, "", 2.0), complete=True)
    monkeypatch.setattr("llama_exp.metrics.bertscore.encoder_of", None)
    report_study(folder)
    told = json.loads((folder / "report" / "results.json").read_text(encoding="utf-8"))["relations"]
    [found] = [one for one in told if one["metric"] == "bertscore/f1"]
    judged = [one for one in analysis.collect_judgements(study, store) if set(one.trial.pair) == {A, B}]
    points = [(values[A][one.trial.item] - values[B][one.trial.item], one.percent(A)) for one in judged]
    assert found["tau"]["estimate"] == pytest.approx(kendalltau(*zip(*points, strict=True)).statistic)
    assert found["tau"]["items"] == 12 and not [one for one in told if one["metric"] == "squad/f2"]


def test_scores_of_two_encoders_are_not_compared_with_people(tmp_path):
    words = two(tmp_path)
    for name, encoder in ((A, "minilm"), (B, "roberta-large")):
        finished(Path(words[name]), {f"ident{n}": 1.0 for n in range(24)}, encoder)
    folder, _ = make({**words, "items": "12", "raters": "1"})
    assert not (folder / "metrics.json").exists()


def finished(evaluation: Path, values: dict[str, float], encoder: str) -> None:
    """Put BERTScores into an evaluation's folder, as evaluate.py writes them."""
    write_json(
        evaluation / "results.json",
        {
            "metrics": ["squad", "bertscore"],
            "scores": {"bertscore/f1": 90.0},
            "facts": {"bertscore": {"model": encoder, "layer": 6, "replies_cut": 0}},
        },
    )
    lines = [json.dumps({"id": item, "squad/f2": 1.0, "bertscore/f1": value}) for item, value in values.items()]
    (evaluation / "scores.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def on_scales(rater, trial):
    """Condition A two points higher on faithfulness alone; a control is seen through."""
    level = 5 if trial.left == A else 3
    helpful = 1 if trial.left == "wrong" else 3 + int(trial.item[5:]) % 2
    return {"fluency": 4, "faithfulness": level - (int(trial.item[5:]) % 2), "helpfulness": helpful}


def test_scales_have_means_differences_and_agreement(tmp_path):
    folder, study, judged = rated(tmp_path, on_scales, raters="2", mode="scales")
    means = {(s.name, s.condition): s.mean.estimate for s in analysis.scale_means(study, judged)}
    assert means["faithfulness", A] == 4.5 and means["faithfulness", B] == 2.5 and means["fluency", A] == 4
    (_, _, _, minus) = next(d for d in analysis.scale_differences(study, judged) if d[0] == "faithfulness")
    assert minus.difference == 2 and minus.items == 24
    found = {one.about: one for one in agreement.agreements(study, judged)}
    assert found["faithfulness"].alpha.estimate == 1 and found["fluency"].alpha.estimate is None
    assert found["faithfulness"].kappa_name == "Cohen's kappa, quadratic weights" and found["faithfulness"].kappa == 1
    summary = raters.rater_summaries(study, judged)[0]
    assert summary.failed == 0 and summary.consistent == summary.repeats == 5
    said = report_study(folder).sentences
    assert said[0] == "On fluency, zebra_tuned and zebra_plain are rated the same."
    assert said[1] == (  # so few signs
        "On faithfulness, there is no significant difference between zebra_tuned and zebra_plain "
        "(p = 0.094, Holm-adjusted for 3 comparisons); zebra_tuned minus zebra_plain is +2 (no interval)."
    )


def test_differences_on_scales_are_adjusted_for_their_number_and_the_page_explains_its_numbers(tmp_path):
    def choose(rater, trial):
        luck = random.Random(f"{rater} {trial.item} {trial.left}")
        return {scale: luck.randint(1, 5) for scale in ("fluency", "faithfulness", "helpfulness")}

    folder, study, judged = rated(tmp_path, choose, items=40, of=40, raters="2", mode="scales")
    found = {scale: minus.p_value for scale, _, _, minus in analysis.scale_differences(study, judged)}
    alone = {}
    for scale in found:
        one, other = (analysis.item_means(analysis.of_kind(judged, "judged"), scale, name) for name in (A, B))
        alone[scale] = paired_difference(one, other, {i: study.items[i].group for i in one}).p_value
    assert found == pytest.approx(dict(zip(alone, multipletests(list(alone.values()), method="holm")[1], strict=True)))
    assert found != pytest.approx(alone)
    report_study(folder)
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Holm-adjusted for the number of rows" in page
    assert "rated above 3 on helpfulness" in page and "takes one side" not in page


def test_a_tau_without_an_interval_says_that_it_is_open(tmp_path):
    folder, *_ = rated(tmp_path, by_item, items=8, of=8, raters="1", controls="0", repeats="0")
    report_study(folder)
    told = json.loads((folder / "report" / "results.json").read_text(encoding="utf-8"))["relations"]
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    without = [one for one in told if one["tau"]["estimate"] is not None and one["tau"]["low"] is None]
    assert page.count(" (no interval)</td>") == len(without) > 0


def test_a_spreadsheet_computes_nothing_and_no_name_of_a_rater_is_passed_on(tmp_path):
    folder, _ = make({**two(tmp_path), "items": "6", "raters": "1"})
    store = RatingStore(folder)
    store.consent(1, "Ada Lovelace")
    texts = ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "fine, really\n=2", "\x1b[31mred"]
    for place, text in enumerate(texts, 1):
        store.save(1, place, Rating("1", str(place), "tie", {}, text), complete=True)
    report_study(folder)
    with open(folder / "report" / "ratings.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["comment"] for row in rows] == [
        '\'=HYPERLINK("http://x")',
        "'+1",
        "'-1",
        "'@SUM(A1)",
        "' =1",
        "fine, really =2",
        "[31mred",
    ]
    assert {(row["left"], row["right"]) for row in rows if row["kind"] == "judged"} <= {(A, B), (B, A)}
    for path in (folder / "report").iterdir():
        assert "Lovelace" not in path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)


def test_the_page_is_one_file_without_scripts_whatever_the_conditions_are_called(tmp_path):
    tuned, plain = (
        evaluation(tmp_path / n, predictions(8, wording)) for n, wording in (("a", "{year}"), ("b", "no {n}"))
    )
    hostile = "<script>alert(1)</script>"
    folder, study = make({"study": str(tmp_path / "s"), hostile: str(tuned), "plain": str(plain), "raters": "1"})
    RatingStore(folder).save(1, 1, Rating("1", "1", "left"), complete=True)
    found = report_study(folder)
    page, said = found.page, found.sentences
    text = page.read_text(encoding="utf-8")
    assert (
        "script" not in Tags(text).tags and "&lt;script&gt;alert(1)" in text and "http" not in text.split("</style>")[1]
    )
    assert said[1] == f"The study is not finished: 1 of {len(study.queues[0])} pages are rated."
    assert report_studies(tmp_path) == ([ExtraSection("s", said, f"{said[0]} {said[1]}", page)], [])


def test_a_study_without_a_rating_and_one_that_is_not_there(tmp_path, command):
    folder, _ = make({**two(tmp_path), "items": "4"})
    done = command("llama-exp", "study", "report", f"study={folder}")
    assert "There are no ratings to compare yet." in done.stdout and "Report:" in done.stdout
    assert json.loads((folder / "report" / "results.json").read_text())["preferences"] == []
    with pytest.raises(UserError, match="Create it first: llama-exp study create"):
        report_study(tmp_path / "nowhere")
    (folder / "ratings.sqlite").write_bytes(b"no database at all, but long enough to be read as one" * 9)
    done = command("llama-exp", "study", "report", f"study={folder}", check=None)
    assert done.returncode == 2 and "file is not a database" in done.stderr


def test_study_page_and_report_start_without_torch():
    modules = "study design conditions create store server rating_page analysis agreement raters".split()
    modules += "metrics results report report_text command".split()
    code = "import sys, " + ", ".join(f"llama_exp.human.{name}" for name in modules)
    code += "; print(sorted({'torch', 'lightning', 'transformers', 'statsmodels', 'pandas'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
