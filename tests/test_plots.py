"""The figures hold what they say: lines, bands, colours and labels, read back from matplotlib and from the SVG."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from llama_exp.formatting import format_duration
from llama_exp.report import captions
from llama_exp.report.compare import comparisons, group_runs
from llama_exp.report.figures import style, training
from llama_exp.report.figures.costs import draw_costs
from llama_exp.report.figures.scores import apart, draw_scores
from llama_exp.report.load import EvaluationRecord, RunRecord, StoredInterval, TrainingCurve
from llama_exp.runs.summary import Summary

METRIC = "squad/f1"


def run(rank=8, examples=100, f1=None, half=4.0, seed=0, model="tiny", **more):
    """A run in memory, evaluated where `f1` is given."""
    name = f"{model}-{examples}-r{rank}-{seed}-{more}"
    interval = {METRIC: StoredInterval(f1 - half, f1 + half, "clustered t")} if f1 is not None and half else {}
    folder = Path("/runs", name)
    evaluations = ()
    if f1 is not None:
        at = folder / "eval" / "squad-test-300"
        evaluations = (EvaluationRecord(at, at.name, "squad", "squad", "test", 300, 75, {METRIC: f1}, interval),)
    summary = Summary(seconds={"import": 7, "load": 2, "train": examples / 10, "evaluate": 11}) if rank else Summary()
    return RunRecord(
        folder,
        name,
        "squad",
        model,
        rank,
        examples if rank else None,
        examples if rank else None,
        None,
        seed,
        0,
        "finished" if rank else "untuned",
        "",
        {"lora.r": rank, "model.name": model, **more},
        summary,
        evaluations,
    )


def panel_of(runs):
    (comparison,) = comparisons(runs)
    return comparison.panels[0], comparison


@pytest.fixture
def grid():
    scores = {(8, 100): 30.0, (8, 1000): 50.0, (64, 100): 28.0, (64, 1000): 60.0}
    return [run(r, n, f1) for (r, n), f1 in scores.items()] + [run(0, 0, 5.0, half=1.0)]


def test_a_line_per_rank_through_the_scores_on_a_log_axis(grid):
    axes = draw_scores(*panel_of(grid)).axes[0]
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [list(line.get_ydata()) for line in solid] == [[30.0, 50.0], [28.0, 60.0]]
    assert axes.get_xscale() == "log"
    assert {label.get_text() for label in axes.get_xticklabels()} == {"100", "1,000"}
    assert solid[0].get_xdata() == pytest.approx([100, 1000], rel=0.06)  # beside each other, so that whiskers show


def test_ranks_stand_beside_each_other_without_mixing_two_sizes():
    runs = [run(r, n, 50.0) for r in (4, 8, 16, 64) for n in (50, 3200, 3800)]
    axes = draw_scores(*panel_of(runs)).axes[0]
    lines = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "-"]
    assert max(x[1] for x in lines) < min(x[2] for x in lines)
    assert len({round(x[0], 3) for x in lines}) == 4


def test_the_untuned_model_is_a_dashed_line_with_its_band_at_every_size(grid):
    axes = draw_scores(*panel_of(grid)).axes[0]
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(dashed.get_ydata()) == [5.0, 5.0] and list(dashed.get_xdata()) == [0, 1]  # the whole width
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (4.0, 2.0)
    assert {text.get_text() for text in axes.texts} == {"rank 8", "rank 64", "untuned model"}


def test_several_seeds_are_points_and_their_mean_is_the_line():
    runs = [run(8, 100, f1, seed=i) for i, f1 in enumerate((30.0, 33.0, 36.0))]
    axes = draw_scores(*panel_of(runs)).axes[0]
    line, points = axes.lines[:2]
    assert list(line.get_ydata()) == [33.0]
    assert list(points.get_ydata()) == [30.0, 33.0, 36.0]


def test_a_rank_keeps_its_colour_in_all_figures_and_in_a_report_with_other_ranks(grid):
    more = [*grid, *(run(r, n, 40.0) for r in (1, 4, 16, 32) for n in (100, 1000))]
    for runs in (grid, more):
        panel, comparison = panel_of(runs)
        scores = draw_scores(panel, comparison).axes[0]
        seen = {t.get_text(): t.get_color() for t in scores.texts}
        assert (seen["rank 8"], seen["rank 64"]) == (style.RANKS[3], style.RANKS[6])
    curves = {r.folder: TrainingCurve(((1, 3.0), (2, 2.0)), ((2, 2.5),)) for r in grid}
    (losses,) = training.draw_losses(group_runs(grid)[0], curves)
    tiles = {axes.get_title("left"): axes.lines[0].get_color() for axes in losses.axes if axes.get_visible()}
    assert tiles == {f"{n} examples, rank {r}": style.colour(r) for n in ("100", "1,000") for r in (8, 64)}
    assert len({style.colour(2**k) for k in range(8)}) == 8
    assert style.colour(12) not in (style.colour(8), style.colour(16))


def test_panels_of_one_comparison_share_their_height_so_that_they_can_be_compared():
    runs = [run(8, n, f1, **{"optimizer.lr": lr}) for lr, f1 in ((0.1, 20.0), (0.2, 60.0)) for n in (100, 1000)]
    (comparison,) = comparisons(runs)
    limits = {draw_scores(p, comparison).axes[0].get_ylim() for p in comparison.panels}
    assert len(comparison.panels) == 2 and len(limits) == 1
    assert limits.pop() == pytest.approx((0, 67.84))


def test_labels_that_would_lie_on_each_other_are_moved_apart_around_their_middle():
    assert apart([0.1, 0.5], 0.1) == [0.1, 0.5]
    assert apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert apart([0.40, 0.45, 0.5], 0.1) == pytest.approx([0.35, 0.45, 0.55])
    assert apart([0.1, 0.1, 0.25], 0.1) == pytest.approx([0.05, 0.15, 0.25])
    assert apart([], 0.1) == []


def test_a_tile_per_size_and_rank_and_what_was_not_run_leaves_a_hole(grid):
    runs = [r for r in grid if (r.rank, r.examples) != (64, 1000)]
    curves = {r.folder: TrainingCurve(((1, 3.0), (9, 2.0)), ((9, 2.5),)) for r in runs}
    (figure,) = training.draw_losses(group_runs(runs)[0], curves)
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]


def test_a_first_spike_does_not_press_the_losses_flat():
    spiky = TrainingCurve(tuple((i, 1000.0 if i == 0 else 2.0 + i / 1000) for i in range(100)), ((50, 2.5), (99, 2.2)))
    assert training.loss_limits([spiky.train], [spiky.validation]) == pytest.approx((1.976, 2.525), abs=0.01)


def test_the_fall_of_a_short_run_does_not_hide_what_validation_does():
    falling = TrainingCurve(tuple((i, max(12.0 - 2 * i, 0.5)) for i in range(65)), ((20, 0.81), (42, 0.90), (64, 0.86)))
    assert training.loss_limits([falling.train], [falling.validation])[1] < 1.2


def test_long_curves_are_drawn_by_the_means_of_their_stretches():
    x, y = training.thinned([(i, 1.0 if i % 2 else 3.0) for i in range(3200)])
    assert len(x) == training.POINTS and x[0] == 9.5 and set(y) == {2.0}
    assert training.thinned([]) == ([], [])


def test_bars_are_means_over_seeds_and_the_words_name_the_largest_stage(grid):
    bars = training.stage_times([*grid, run(8, 1000, 50.0, seed=1)])
    assert [name for name, _ in bars][:2] == ["1,000 examples, rank 8", "1,000 examples, rank 64"]
    assert bars[0][1] == {"import": 7, "load": 2, "data": 0, "train": 100, "save": 0, "evaluate": 11}
    assert captions.time_caption(bars, 40) == (
        "Training took most of the time: 73 % of 5 min 00 s over all bars; evaluation 15 %, start-up 9 % and model "
        "loading 3 %. A bar is the mean over seeds."
    )
    axes = training.draw_times(bars).axes[0]
    assert axes.texts[0].get_text() == "2 min 00 s"


def test_a_cost_axis_has_at_least_two_numbers_however_close_the_costs():
    panel, c = panel_of([run(8, 100, 30.0), run(16, 100, 34.0)])
    points = [(panel, setting, seconds) for setting, seconds in zip(panel.cells, (22.1, 23.4), strict=True)]
    axes = draw_costs(points, {panel.cells[0].key}, c, "seconds").axes[0]
    low, high = axes.get_xlim()
    assert len([t for t in axes.get_xticks() if low <= t <= high]) >= 3


def test_the_svg_is_whole_xml_with_variables_for_colours_and_its_own_ids(grid):
    text = style.svg(draw_scores(*panel_of(grid)), 7, 'a "label" & <more>')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'a "label" & <more>'
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids and all(i.startswith("f7-") for i in ids)
    assert "var(--rank3)" in text and "var(--muted)" in text
    assert style.RANKS[3] not in text and style.MUTED not in text
    assert "rank 64" in text  # text stays text: it can be searched, copied and read aloud


def test_a_name_with_a_dollar_or_markup_is_drawn_as_it_is():
    runs = [run(8, 100, 30.0, model="$a_b^{"), run(8, 100, 30.0, model="<script>中")]
    (comparison,) = comparisons(runs)
    for panel in comparison.panels:
        figure = draw_scores(panel, comparison)
        ElementTree.fromstring(style.svg(figure, 1, panel.model))
        assert style.png(figure).startswith(b"\x89PNG")
        assert panel.model in figure.axes[0].get_title("left")


def test_words_say_what_the_picture_shows(grid):
    panel, comparison = panel_of(grid)
    assert captions.scores_caption(panel, comparison) == (
        "Rank 64 scores 28.0 ± 4.0 with 100 and 60.0 ± 4.0 with 1,000 examples: more data helped. With 1,000 examples, "
        "rank 64 is best (60.0 ± 4.0) and rank 8 worst (50.0 ± 4.0): their intervals do not overlap."
    )
    close = [run(8, 100, 30.0), run(8, 1000, 33.0), run(16, 1000, 34.0)]
    panel, comparison = panel_of(close)
    assert captions.scores_caption(panel, comparison) == (
        "Rank 8 scores 30.0 ± 4.0 with 100 and 33.0 ± 4.0 with 1,000 examples: their intervals overlap. With 1,000 "
        "examples, rank 16 is best (34.0 ± 4.0) and rank 8 worst (33.0 ± 4.0): their intervals overlap."
    )


def test_words_for_losses_name_the_run_that_rose_most():
    def curve(*validation):
        return TrainingCurve((), tuple(enumerate(validation)))

    assert captions.losses_caption({"a": curve(3.0, 2.0, 2.5), "b": curve(3.0, 2.0, 2.1), "c": curve(3.0, 2.0)}) == (
        "Validation loss rose again before the end in 2 of 3 runs, most in a: from 2.00 to 2.50."
    )
    assert captions.losses_caption({"a": curve(3.0, 2.0)}) == (
        "Validation loss ended within 2 % of its best in the one run."
    )
    assert captions.losses_caption({}) == "No validation loss was measured."


SAID = {0.14: "0.1 s", 9.99: "10.0 s", 42.4: "42 s", 75: "1 min 15 s", 7265: "2 h 01 min", None: "–"}


@pytest.mark.parametrize("value, said", SAID.items())
def test_durations_are_said_as_people_say_them(value, said):
    assert format_duration(value) == said
