"""The report's page as a reader meets it: at any width, in the light and in the dark, by keyboard, without scripts."""

import io
import json
import re
from itertools import pairwise
from types import SimpleNamespace

import pytest
from rich.console import Console

from llama_exp.formatting import with_range
from llama_exp.report import items
from llama_exp.report.analyse import analyse
from llama_exp.report.compare import comparisons
from llama_exp.report.figures import style, training
from llama_exp.report.figures.scores import AHEAD, draw_scores
from llama_exp.report.load import load_runs
from llama_exp.report.page import split_sentences
from llama_exp.report.write import write_report
from tests.test_curves import contrast
from tests.test_report import Page, write_grid, write_run


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """(folder, its page as a file) of 3 sizes x 2 ranks and the untuned model."""
    outputs = tmp_path_factory.mktemp("grid") / "outputs"
    write_grid(outputs)
    return outputs, report(outputs)[0]


def report(outputs, first=()):
    """(the page, what the terminal showed)."""
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    page = write_report(outputs, console=console, first=first)
    return page, console.file.getvalue()


def written_answer(outputs):
    return json.loads((outputs / "report" / "answer.json").read_text())["answers"][0]


def test_the_large_numbers_are_those_of_the_answer_rounded_alike(grid):
    outputs, page = grid
    answer, text = written_answer(outputs), Page(page).text
    found, gain = answer["recommended"], answer["more_data"][0]["gain"]
    score, interval = with_range(*found["score"].values()).rstrip(")").split(" (")
    assert f"rank {found['rank']}, {found['examples']:,} examples within 1 point of the best" in text
    assert f"Expected F1 {score} {interval} (95 % interval)" in text and f"F1 {score} ({interval})" in text
    bought, interval = with_range(*gain.values(), sign=True).rstrip(")").split(" (")
    assert f"F1 from twice the data, 2,000 examples {bought} {interval} (95 % interval)" in text


def test_where_luck_alone_is_known_the_large_numbers_are_the_spread_and_the_runs_needed(tmp_path):
    for seed, lift in enumerate((-6, -3, -1, 1, 3, 6)):
        write_run(tmp_path, sample=1000, seed=seed, f1=60.0 + lift)
    text = Page(report(tmp_path)[0]).text
    luck = written_answer(tmp_path)["luck"]
    value, interval = with_range(*luck["spread"].values()).rstrip(")").split(" (")
    assert f"F1: luck of a run {value} {interval} (95 % interval) standard deviation of 6 runs of one cell" in text
    for one in luck["seeds_needed"]:
        assert f"To find a difference of {one['difference']:.2g} {one['seeds']:,} runs" in text


def test_with_one_size_what_twice_the_data_buys_is_not_known(tmp_path):
    write_grid(tmp_path, samples=(300,))
    assert "F1 from twice the data not known" in Page(report(tmp_path)[0]).text


def test_a_gain_is_one_number_wherever_the_page_names_it(grid):
    outputs, page = grid
    answer, text = written_answer(outputs), Page(page).text
    row = text.partition(f"rank {answer['recommended']['rank']} Twice the data, ")[2][:300]
    for gain in answer["more_data"]:
        number = with_range(*gain["gain"].values(), sign=True)
        assert number in row and number in text.partition("Run next")[0], "in the answer and in the table of gains"


def test_how_many_cells_the_best_was_chosen_from_is_said_once(grid):
    assert re.findall(r"best of (\d+) cells", Page(grid[1]).text) == ["7"]


def test_the_command_to_run_next_is_a_block_that_is_broken_at_spaces_only(grid, browse):
    outputs, page = grid
    shown = browse(page.as_uri(), viewport={"width": 390, "height": 800}, java_script_enabled=False)
    block = shown.locator("article pre.command").first
    assert block.inner_text() == written_answer(outputs)["next"]["command"]
    lines = "words => words.map(word => word.getClientRects().length)"
    with_scripts = browse(page.as_uri(), viewport={"width": 390, "height": 800}).locator(".command .word")
    assert set(with_scripts.evaluate_all(lines)) == {1} and with_scripts.count() > 5


def test_an_answer_whose_sentence_does_not_hold_its_command_shows_both():
    answer = SimpleNamespace(next=SimpleNamespace(command="python train.py"), sentences=("One.", "Two."))
    assert split_sentences(answer) == (("One.", "Two."), ("", "python train.py", ""))
    answer.sentences = ("One.", "Run next: python train.py (soon)")
    assert split_sentences(answer) == (("One.",), ("Run next", "python train.py", "(soon)"))


@pytest.mark.parametrize("width", [1280, 1920])
def test_the_answer_its_command_and_its_figure_are_on_one_screen_over_the_full_width(grid, browse, width):
    page = browse(grid[1].as_uri(), viewport={"width": width, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for shown in (".numbers", ".answer", ".command", ".score svg"):
        box = page.locator(f"article {shown} >> visible=true").first.bounding_box()
        assert box["y"] + box["height"] <= 1000, shown
    right = page.locator("article *").evaluate_all("all => Math.max(...all.map(o => o.getBoundingClientRect().right))")
    assert right > 0.95 * width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_words_in_figures_are_large_enough_and_stand_out(grid, browse, scheme, width):
    page = browse(grid[1].as_uri(), viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width, "the page itself never scrolls sideways"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    found = page.locator(".score svg text, .time svg text").evaluate_all(
        """all => all.filter(o => o.checkVisibility())
           .map(o => [o.textContent, o.getBoundingClientRect().height, getComputedStyle(o).fill])"""
    )
    assert len(found) > 30
    for text, height, ink in found:
        assert height >= 9 and contrast(ink, paper) >= 4.5, (text, height, ink)


@pytest.mark.parametrize("ink", style.RANKS)
def test_the_name_of_a_rank_can_be_read_in_its_colour(ink):
    assert contrast("rgb({}, {}, {})".format(*bytes.fromhex(ink[1:])), "rgb(255, 255, 255)") >= 4.5


def test_one_title_headings_in_order_and_every_table_and_figure_has_a_name(grid, browse):
    page = browse(grid[1].as_uri())
    levels = [int(tag[1]) for tag in Page(grid[1]).tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.locator("table").count() == page.locator("table > caption").count() > 5
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("svg:not([aria-label])").count() == page.locator("[tabindex]:not([aria-label])").count() == 0


def test_the_figure_of_the_best_setting_is_beside_the_answer_and_the_others_follow_side_by_side(tmp_path, browse):
    for warmup, lift in ((0.0, -9), (0.03, 0), (0.2, -5)):
        for size in (100, 1000):
            keys = {"name": f"{warmup}-{size}", "optimizer.warmup": warmup}
            write_run(tmp_path, sample=size, f1=40 + size / 50 + lift, **keys)
    page = browse(report(tmp_path)[0].as_uri(), viewport={"width": 1280, "height": 1000})
    assert page.locator(".answer + .score h3").inner_text() == "warmup 0.03"
    assert page.locator("h4").all_inner_texts() == ["warmup 0.0", "warmup 0.2"]
    left, right = (one.bounding_box() for one in page.locator("figure:has(h4)").all())
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    cut = "tables => tables.map(t => t.scrollWidth - t.parentElement.clientWidth).filter(over => over > 0)"
    assert page.locator("table >> visible=true").evaluate_all(cut) == []


def test_the_keyboard_shows_where_it_is(grid, browse):
    page = browse(grid[1].as_uri())
    page.keyboard.press("Tab")
    outline = "[getComputedStyle(document.activeElement).outlineStyle, document.activeElement.tagName]"
    assert page.evaluate(outline)[0] == "solid" and page.evaluate(outline)[1] != "BODY"


def test_a_mark_says_its_score_and_runs_on_hover_without_scripts(grid):
    titles = re.findall(r"<title>([^<]*)</title>", grid[1].read_text())[1:]
    assert "F1 54.7 (95 % CI 50.7 to 58.7), rank 16 on 1,000 examples: squad/tiny-1000-r16-seed0" in titles
    assert "hover: " not in grid[1].read_text()


def analysed(outputs):
    (comparison,) = comparisons(load_runs(outputs)[0])
    return analyse(comparison, lambda evaluation: items.load_items(evaluation, None))


def test_the_bands_of_the_curves_end_within_the_figure(grid):
    comparison = analysed(grid[0])
    (panel,) = comparison.panels
    low, high = draw_scores(panel, comparison).axes[0].get_ylim()
    for curve in panel.curves.values():
        for band in curve.predict_many([curve.sizes[0], curve.sizes[-1], curve.sizes[-1] * AHEAD]):
            assert low <= band.low and band.high <= high
    assert high <= 106, "within the scale, and room for a mark"


def test_stages_too_short_to_be_seen_are_not_in_the_legend():
    stages = dict.fromkeys(style.STAGES, 0.001) | {"train": 90.0, "evaluate": 10.0}
    (legend,) = training.draw_times([("a", stages)]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "evaluation"]


@pytest.fixture
def two_datasets(tmp_path):
    """The folders of the two runs of each: evaluations of other sizes are other comparisons."""
    folders = []
    for size, more in ((100, {}), (100, {"seed": 1})):
        folders.append(write_run(tmp_path, sample=size, f1=50.0, **more))
    for size in (100, 300):
        asked = {"evaluation": {"items": 300, "groups": 300}}
        folders.append(write_run(tmp_path, sample=size, f1=60.0, seed=7, **asked))
    return tmp_path, folders


def test_several_comparisons_have_a_table_of_contents_that_leads_to_each(two_datasets):
    page = Page(report(two_datasets[0])[0])
    ids = {value for _, name, value in page.attributes if name == "id"}
    links = [value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href") and value[0] == "#"]
    assert {"comparison-1", "comparison-2", "losses", "time"} <= set(links) <= ids
    assert page.text.index("2 comparisons") < page.text.index("Scores")


def test_the_sweep_that_has_just_ended_comes_first_and_is_alone_in_the_terminal(two_datasets):
    outputs, folders = two_datasets
    for mine, seeds in ((folders[:2], ("seed0", "seed1")), (folders[2:], ("seed7",))):
        page, printed = report(outputs, first=mine)
        first = Page(page).text.partition("The runs of each cell")[2][:200]
        assert all(seed in first for seed in seeds)
        assert f"1 other comparison: llama-exp report outputs={outputs}" in printed
        assert printed.count("test split") == 1
    _, printed = report(outputs)
    assert printed.count("test split") == 2 and "other comparison" not in printed


def test_a_sweep_without_a_score_prints_every_comparison(two_datasets):
    _, printed = report(two_datasets[0], first=[two_datasets[0] / "squad" / "nothing"])
    assert printed.count("test split") == 2
