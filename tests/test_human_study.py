"""A study is drawn blind, fair and the same every time; evaluations that do not fit together are refused by name."""

import json
import sqlite3
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest

from llama_exp.cli.options import parse_options
from llama_exp.errors import UserError
from llama_exp.human.command import CreateOptions, create
from llama_exp.human.design import MIN_GAP
from llama_exp.human.report import report_study
from llama_exp.human.server import serve_study
from llama_exp.human.store import RatingStore
from llama_exp.human.study import Study, StudySettings, read_study, write_study
from llama_exp.records import Prediction, Rating, Turn
from llama_exp.runs.files import write_json, write_jsonl

TOWNS = ("Rennes", "Turin", "Gdansk", "Porto", "Bergen", "Ghent", "Graz", "Malmo", "Brno", "Cork")
HOSTILE = {
    "ident1": "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "ident2": "a\x1b[31mred\x07 \u202egnirts\u202c \x00 end",
    "ident3": '=HYPERLINK("http://example.org","click")',
}


def predictions(items: int, wording: str, **changed: str) -> list[Prediction]:
    """Questions about towns, four to a group; `wording` makes the replies of one model."""
    made = []
    for n in range(items):
        town, year = TOWNS[n % 10], str(1400 + 7 * n)
        prompt = f"Context: The town hall of {town} {n} was built in {year} by masons.\n\nQuestion: When was it built?"
        reply = changed.get(f"ident{n}", wording.format(year=year, n=n))
        made.append(Prediction(f"ident{n}", prompt, (year, f"in {year}"), reply, f"article{n // 4}"))
    return made


def evaluation(folder: Path, made: list[Prediction]) -> Path:
    """An evaluation folder as evaluate.py leaves it, as far as a study reads it."""
    write_jsonl(folder / "predictions.jsonl", made)
    write_json(folder / "results.json", {"metrics": ["squad"], "scores": {"squad/f1": 50.0}})
    return folder


def make(words: dict[str, str]) -> tuple[Path, Study]:
    """`llama-exp study create` with these options; returns the folder and the study in it."""
    options, rest = parse_options(CreateOptions, [f"{key}={value}" for key, value in words.items()])
    assert rest == []
    create(options)
    return Path(options.study), read_study(Path(options.study))


def two(tmp_path: Path, items: int = 24) -> dict[str, str]:
    """The words of a study of a tuned and an untuned model."""
    tuned = evaluation(tmp_path / "Tuned7", predictions(items, "{year}", **HOSTILE))
    untuned = evaluation(tmp_path / "Untuned7", predictions(items, "I think that it was a long time ago, case {n}."))
    return {"study": str(tmp_path / "study"), "zebra_tuned": str(tuned), "zebra_plain": str(untuned)}


def test_all_raters_judge_the_same_items_each_in_their_own_order_and_the_sides_are_balanced(tmp_path):
    _, study = make({**two(tmp_path, 40), "items": "30", "raters": "3", "repeats": "0.2", "controls": "0.1"})
    judged = [[t for t in queue if t.kind == "judged"] for queue in study.queues]
    assert len(study.items) == 30 and study.available == 40
    assert all({t.item for t in one} == set(study.items) for one in judged)
    assert len({tuple(t.item for t in one) for one in judged}) == 3
    for queue, one in zip(study.queues, judged, strict=True):
        assert Counter(t.left for t in one) == {"zebra_tuned": 15, "zebra_plain": 15}
        assert Counter(t.kind for t in queue) == {"judged": 30, "repeat": 6, "control": 3}


def test_a_repeat_comes_later_with_its_sides_swapped_and_a_control_has_one_right_answer(tmp_path):
    _, study = make({**two(tmp_path), "repeats": "0.3", "controls": "0.2"})
    for queue in study.queues:
        place = {t.item: n for n, t in enumerate(queue) if t.kind == "judged"}
        for n, trial in enumerate(queue):
            if trial.kind == "repeat":
                first = queue[place[trial.item]]
                assert n - place[trial.item] >= MIN_GAP and (trial.left, trial.right) == (first.right, first.left)
    assert len(study.controls) == 5
    for item in study.controls.values():
        assert item.replies["right"] == item.references[0]
        assert item.replies["wrong"] not in item.references and item.replies["wrong"] not in item.prompt


def test_controls_are_drawn_from_items_that_are_not_judged_while_there_are_some(tmp_path):
    _, study = make({**two(tmp_path), "items": "16", "controls": "0.3"})
    assert len(study.controls) == 5 and not study.controls.keys() & study.items.keys()


def test_the_same_words_give_the_same_study_and_more_raters_join_without_touching_the_others(tmp_path):
    words = two(tmp_path)
    _, first = make(dict(words))
    links = RatingStore(tmp_path / "study").raters()
    _, again = make({**words, "raters": "4"})
    assert again.queues[:2] == first.queues and len(again.queues) == 4
    assert RatingStore(tmp_path / "study").raters()[:2] == links
    assert len(make({**words, "raters": "1"})[1].queues) == 4, "nobody is sent away"
    assert read_study(tmp_path / "study") == make(dict(words))[1]


def test_another_study_in_the_same_folder_is_refused_by_what_differs(tmp_path):
    words = two(tmp_path)
    make(dict(words))
    with pytest.raises(UserError, match="differs in seed, question"):
        make({**words, "seed": "3", "question": "Which is shorter?"})
    evaluation(tmp_path / "Tuned7", predictions(24, "now {year}"))
    with pytest.raises(UserError, match="the evaluations were made again"):
        make(dict(words))


def test_answers_that_are_word_for_word_the_same_are_not_asked_about(tmp_path):
    words = two(tmp_path)
    evaluation(tmp_path / "Untuned7", predictions(24, "something else", ident5="  1435 \n", ident6="1442"))
    _, study = make(words)
    asked = {t.item for t in study.queues[0] if t.kind == "judged"}
    assert set(study.items) - asked == {"ident5", "ident6"}


def test_three_conditions_give_three_pairs_and_scales_give_one_answer_a_page(tmp_path):
    words = {**two(tmp_path), "human": "reference", "items": "8", "controls": "0", "repeats": "0"}
    _, study = make(dict(words))
    pairs = [("zebra_tuned", "zebra_plain"), ("zebra_tuned", "human"), ("zebra_plain", "human")]
    assert study.pairs == pairs
    assert {t.pair for t in study.queues[0]} <= {tuple(sorted(pair)) for pair in pairs}
    assert all(item.replies["human"] == item.references[0] for item in study.items.values())
    _, study = make({**words, "study": str(tmp_path / "scales"), "mode": "scales", "controls": "0.1"})
    assert Counter(t.kind for t in study.queues[0]) == {"judged": 24, "control": 3}
    assert all(t.right == "" for t in study.queues[0])
    assert {len(study.answers(t)) for t in study.queues[0]} == {1}


TALK = (Turn("user", "@12 my <b>parcel</b>?"), Turn("assistant", "Which number?"))


def conversation(n: int, reply: str, **lacking) -> Prediction:
    """A turn in a conversation: the reference as it was written, and cleaned as models learn it."""
    whole = Prediction(
        f"ident{n}",
        f"It is {n}.",
        (f"@{n} It left on day {n} https://t.co/a{n} ^AB",),
        reply,
        f"article{n}",
        response=f"It left on day {n}",
        system="You are an agent.",
        history=TALK,
    )
    return replace(whole, **lacking)


def test_raters_get_the_conversation_and_a_reference_that_is_as_clean_as_the_answers(tmp_path):
    tuned = evaluation(tmp_path / "a", [conversation(n, f"yes {n}") for n in range(8)])
    folder, study = make({"study": str(tmp_path / "s"), "tuned": str(tuned), "human": "reference", "items": "4"})
    shown = [*study.items.values(), *study.controls.values()]
    assert len(shown) > 4 and {(item.system, item.history) for item in shown} == {("You are an agent.", TALK)}
    assert all(item.replies["human"] == f"It left on day {item.id[5:]}" for item in study.items.values())
    assert not [text for item in shown for text in item.replies.values() if "@" in text or "t.co" in text]
    assert all(item.references[0].endswith("^AB") for item in shown), "scores are over what was written"
    assert read_study(folder) == study


def test_what_an_evaluation_of_an_earlier_version_lacks_comes_from_another_or_is_said_to_be_missing(tmp_path, capsys):
    lacking = {"response": "", "system": "", "history": ()}
    old = evaluation(tmp_path / "old", [conversation(n, "no", **lacking) for n in range(8)])
    new = evaluation(tmp_path / "new", [conversation(n, "yes") for n in range(8)])
    words = {"tuned": str(old), "human": "reference", "untuned": str(new)}
    _, study = make({"study": str(tmp_path / "s"), **words})
    assert {item.history for item in study.items.values()} == {
        TALK
    } and "earlier version" not in capsys.readouterr().out
    _, study = make({"study": str(tmp_path / "t"), "tuned": str(old), "human": "reference"})
    assert {item.history for item in study.items.values()} == {()} and "@3 It left" in study.items["ident3"].replies[
        "human"
    ]
    assert "raters see the last message of a conversation alone" in capsys.readouterr().out
    kept = json.loads((tmp_path / "t" / "study.json").read_text())
    for item in kept["items"].values():
        del item["system"], item["history"]
    write_json(tmp_path / "t" / "study.json", kept)
    assert read_study(tmp_path / "t") == study
    other = (*TALK, Turn("user", "Well?"), Turn("assistant", "Wait."))
    evaluation(tmp_path / "old", [conversation(n, "no", history=other) for n in range(8)])
    with pytest.raises(UserError, match="the prompts of tuned and untuned differ in 8 items"):
        make({"study": str(tmp_path / "u"), **words})


def test_a_study_of_an_earlier_version_is_read_or_refused_in_words(tmp_path):
    folder, study = make(two(tmp_path))
    path = folder / "study.json"
    stored = json.loads(path.read_text())
    for condition in stored["conditions"].values():
        del condition["facts"]
    write_json(path, stored)
    assert read_study(folder) == study
    for changed in (
        {"settings": {key: value for key, value in stored["settings"].items() if key != "control_scale"}},
        {"settings": {**stored["settings"], "later": 1}},
        {"conditions": list(stored["conditions"])},
        {"later": 1},
    ):
        write_json(path, {**stored, **changed})
        with pytest.raises(
            UserError, match=r"study.json: not a study \(.*\). Put study.json back .* Keep ratings.sqlite"
        ):
            read_study(folder)


def rate(folder, raters: int = 2) -> None:
    for number in range(1, raters + 1):
        RatingStore(folder).save(number, 1, Rating(str(number), "1", "left"), complete=True)


def without_fingerprint(folder) -> None:
    """What an earlier version left: a study and ratings that do not name each other."""
    stored = json.loads((folder / "study.json").read_text())
    del stored["fingerprint"]
    write_json(folder / "study.json", stored)
    with sqlite3.connect(folder / "ratings.sqlite") as db:
        db.executescript("DROP TABLE study; DROP TABLE requests")


def test_ratings_are_not_counted_for_another_study_and_nothing_is_deleted(tmp_path):
    folder, study = make(two(tmp_path))
    rate(folder)
    (folder / "study.json").unlink()
    with pytest.raises(UserError, match=r"holds 2 ratings of another study.*Keep ratings.sqlite.*study=FOLDER"):
        make({**two(tmp_path), "seed": "5"})
    assert not (folder / "study.json").exists() and not (folder / "report").exists()
    assert make(two(tmp_path))[1] == study, "the same settings make the same study again"
    assert len(report_study(folder).sentences) > 1
    write_study(folder, make({**two(tmp_path), "study": str(tmp_path / "other"), "seed": "5"})[1])
    for open_study in (report_study, partial(serve_study, port=0)):
        with pytest.raises(UserError, match="2 ratings of another study"):
            open_study(folder)
    assert len(RatingStore(folder).ratings(1)) == 1


def test_a_study_json_with_other_texts_than_it_was_created_with_is_refused(tmp_path):
    folder, _ = make(two(tmp_path))
    stored = json.loads((folder / "study.json").read_text())
    stored["items"]["ident4"]["replies"]["zebra_plain"] = "another answer"
    write_json(folder / "study.json", stored)
    with pytest.raises(UserError, match=r"was changed after the study was created.*Keep ratings.sqlite"):
        read_study(folder)


def test_a_study_from_before_fingerprints_takes_one_only_where_its_ratings_fit(tmp_path):
    folder, study = make(two(tmp_path))
    rate(folder)
    without_fingerprint(folder)
    assert len(report_study(folder).sentences) > 1
    assert make({**two(tmp_path), "raters": "3"})[1].queues[:2] == study.queues
    without_fingerprint(folder)
    RatingStore(folder).save(2, 999, Rating("2", "999", "left"), complete=True, request="")
    with pytest.raises(UserError, match="3 ratings of another study"):
        report_study(folder)
    (folder / "study.json").unlink()
    with pytest.raises(UserError, match="3 ratings of another study"):
        make(two(tmp_path))  # made anew over ratings that do not name theirs: nobody can know


def test_evaluations_with_different_items_are_refused_saying_which_differ(tmp_path):
    words = two(tmp_path)
    evaluation(tmp_path / "Untuned7", predictions(26, "x")[3:])
    with pytest.raises(UserError) as caught:
        make(words)
    told = str(caught.value)
    assert (
        "only zebra_tuned has 3 items (ident0, ident1, ident2)" in told
        and "only zebra_plain has 2 items (ident24, ident25)" in told
    )
    other = [
        Prediction(p.id, p.prompt + " Say it shortly.", p.references, p.reply, p.group) for p in predictions(24, "x")
    ]
    evaluation(tmp_path / "Untuned7", other)
    with pytest.raises(
        UserError,
        match=r"the prompts of zebra_tuned and zebra_plain differ in 24 items "
        r"\(ident0, ident1, ident10, ident11, ident12, …\)",
    ):
        make(two(tmp_path) | {"zebra_plain": str(evaluation(tmp_path / "third", other))})


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"itms": "50"}, "itms=50: itms is not an option, so it names a condition"),
        ({"item": "12"}, "there is no such folder. Did you mean items=12?"),
        ({"items": "many"}, "items=many"),
        ({"items": "0"}, "items=0: wanted at least 1"),
        ({"repeats": "1.5"}, "repeats=1.5: wanted a share from 0 to 1"),
        ({"mode": "rank"}, "mode=rank"),
        ({"zebra_plain": "reference", "zebra_tuned": "reference"}, "at least one of them an evaluation"),
        ({"zebra_plain": "nowhere"}, "zebra_plain=nowhere: wanted a finished evaluation, with predictions.jsonl"),
        ({"mode": "scales", "control_scale": "wit"}, "wanted one of fluency, faithfulness, helpfulness"),
    ],
)
def test_bad_words_are_told(tmp_path, changed, told):
    with pytest.raises(UserError) as caught:
        make({**two(tmp_path), **changed})
    assert told in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_an_evaluation_that_is_not_finished_and_one_that_is_named_twice_are_refused(tmp_path):
    words = two(tmp_path)
    (tmp_path / "Tuned7" / "results.json").unlink()
    with pytest.raises(UserError, match="with results.json in it; finish it"):
        make(dict(words))
    with pytest.raises(UserError, match="the same evaluation"):
        make({**two(tmp_path), "zebra_tuned": str(tmp_path / "Untuned7")})


def test_damaged_results_are_refused_with_the_reason(tmp_path):
    words = two(tmp_path)
    for text, why in (("{", "not whole JSON"), ('{"scores": {"squad/f1": "high"}}', "not a number: squad/f1 = high")):
        (tmp_path / "Tuned7" / "results.json").write_text(text)
        with pytest.raises(UserError, match=f"results.json is damaged \\({why}.*evaluate.py"):
            make(dict(words))
    assert not (tmp_path / "study").exists()


def test_a_runs_folder_is_refused_naming_the_evaluations_below_it(tmp_path):
    words = two(tmp_path)
    run = tmp_path / "a run"
    with pytest.raises(UserError, match=r"there is no such folder"):
        make({**words, "zebra_plain": str(run)})
    run.mkdir()
    with pytest.raises(UserError, match=r"there is none: make one with python evaluate.py"):
        make({**words, "zebra_plain": str(run)})
    for name in ("squad-test-24", "squad-test-8"):
        evaluation(run / "eval" / name, predictions(24, "x"))
    with pytest.raises(UserError) as caught:
        make({**words, "zebra_plain": str(run)})
    assert f"type 'zebra_plain={run}/eval/squad-test-24' (or another of 2)" in str(caught.value)
    make({**words, "zebra_plain": str(run / "eval" / "squad-test-24")})


def test_help_lists_every_word_with_its_default(command):
    told = command("llama-exp", "study", "create", "--help").stdout
    assert all(
        f"    {word} " in told for word in ("items=50", "raters=2", "mode=pairs", "seed=0", "control_scale=helpfulness")
    )
    assert {line.split("=")[0].strip() for line in told.splitlines()[2:]} >= {f.name for f in fields(StudySettings)}
    for module, words in (
        ("serve", ("host=127.0.0.1", "port=8765", "open=false", "address=URL")),
        ("report", ("metrics=",)),
    ):
        told = command("llama-exp", "study", module, "--help").stdout
        assert all(f"    {word}" in told for word in words)


def test_the_command_says_what_was_made_and_what_to_type_next(tmp_path, command):
    words = two(tmp_path)
    done = command("llama-exp", "study", "create", *(f"{key}={value}" for key, value in words.items()), "raters=2")
    assert (
        "24 of 24 items, zebra_tuned against zebra_plain; 2 raters, 30 pages each: 24 judged, 3 repeats, 3 controls"
        in done.stdout
    )
    assert f"llama-exp study serve study={words['study']}" in done.stdout
    assert command("llama-exp", "study", "create", "study=x", "oops", check=None).returncode == 2
    kept = json.loads((tmp_path / "study" / "study.json").read_text())
    assert kept["items"]["ident1"]["replies"]["zebra_tuned"] == HOSTILE["ident1"], (
        "stored as it came; made harmless where shown"
    )
