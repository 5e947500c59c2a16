"""Rows to Examples, and Examples to three splits and a sample."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import cache

import pytest

from llama_exp.config.compose import default_config
from llama_exp.config.schema import Source
from llama_exp.data import DATASETS
from llama_exp.data import datamodule as data_module
from llama_exp.data.cache import DataCache
from llama_exp.data.datasets.guanaco import turns
from llama_exp.data.datasets.tweetsumm import summaries
from llama_exp.data.sources import from_hub
from llama_exp.data.splitting import carve, components, shuffled
from llama_exp.data.synthetic import MAKERS
from llama_exp.errors import UserError
from llama_exp.records import Example, Turn


@cache
def shipped(name):
    return default_config({"dataset": name}).dataset


def data_of(name, changes=None, **arguments):
    """The dataset's module; synthetic rows unless `path` is among the changes."""
    changes = {"rows": 300, "source": Source.synthetic, **(changes or {})}
    if "path" in changes:
        changes["source"] = Source.hub
    return DATASETS[name](dataclasses.replace(shipped(name), **changes), **arguments)


def set_up(name, changes=None, **arguments):
    data = data_of(name, changes, **arguments)
    data.setup()
    return data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def squad_row(number, title="Lake", answers=("miners",), context="It was dug by miners.", question="Who dug it?"):
    return {
        "id": f"q{number}",
        "title": title,
        "context": context,
        "question": question,
        "answers": {"text": list(answers), "answer_start": [0] * len(answers)},
    }


def squad_rows(titles=20, each=5):
    return [squad_row(f"{t}-{n}", f"Title_{t}") for t in range(titles) for n in range(each)]


SPLITS = ("train", "validation", "test")


# -- the table ---------------------------------------------------------------------------------------------------------


def test_importing_the_table_imports_nothing_heavy():
    code = "import sys, llama_exp.data; print([m for m in ('torch', 'lightning', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_unknown_dataset_lists_the_known_ones():
    with pytest.raises(
        UserError, match="Unknown dataset 'sqaud'; known: guanaco, medical, pubmedqa, squad, .*tweetsumm"
    ):
        DATASETS["sqaud"]
    assert "squad" in DATASETS and "sqaud" not in DATASETS


def test_the_modules_are_public_names_of_the_package():
    from llama_exp.data import SquadDataModule

    assert DATASETS["squad"] is SquadDataModule


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_squad_row_becomes_a_question_with_all_its_references():
    row = squad_row(1, "Lake_Erren", ["miners", "miners", "by miners "])
    [example] = data_of("squad").read(row)
    assert example == Example(
        id="q1",
        prompt="Answer the question with words from the context.\n\n"
        "Context: It was dug by miners.\n\nQuestion: Who dug it?",
        response="miners",
        references=("miners", "miners", "by miners "),
        group="Lake_Erren",
        context="It was dug by miners.",
        tags={"question_word": "who", "answer_words": "1"},
    )


def test_a_conversation_becomes_one_example_per_assistant_turn():
    data = data_of("guanaco")
    first, second = data.read({"text": "<s>[INST] Hello [/INST] Hi </s><s>[INST] And? [/INST] Bye </s>"})
    assert (first.prompt, first.response, first.history) == ("Hello", "Hi", ())
    assert (second.prompt, second.response) == ("And?", "Bye")
    assert second.history == (Turn("user", "Hello"), Turn("assistant", "Hi"))
    assert first.group == second.group and first.id.removesuffix("-1") == second.id.removesuffix("-2")


def test_a_system_prompt_is_taken_out_of_the_first_message():
    [example] = data_of("guanaco").read({"text": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hi </s>"})
    assert (example.system, example.prompt) == ("Be brief.", "Hello")


@pytest.mark.parametrize(
    "markup",
    [
        "",
        "no markup",
        "<s>[INST] a [/INST] b",
        "<s>[INST] a [/INST] b </s> tail",
        "x <s>[INST] a [/INST] b </s>",
        "<s>[INST] a b </s>",
        "<s>[INST] a [INST] c [/INST] b </s>",
        "[INST] a [/INST] b </s>",
        "<s>[INST] a [/INST] b </s><s>[INST] c </s>",
    ],
)
def test_broken_markup_is_dropped_and_counted(markup):
    data = data_of("guanaco")
    assert turns(markup) == []
    assert data.read({"text": markup}) == []
    assert dict(data._dropped) == {"not [INST] … [/INST] … markup": 1}


def test_a_conversation_ends_where_a_turn_is_empty():
    data = data_of("guanaco")
    markup = "<s>[INST] a [/INST] b </s><s>[INST]  [/INST] c </s><s>[INST] d [/INST] e </s>"
    assert [example.response for example in data.read({"text": markup})] == ["b"]
    assert dict(data._dropped) == {"empty message or answer in the conversation": 2}


TWEETS = {
    "new dialog id": "T--1",
    "original dialog id": "abc",
    "original dialog info": {"summaries": {"abstractive_summaries": [["Asks.", " Replies. "], ["Second."], []]}},
    "log": [
        {
            "user utterance": "@12345 where is it?? https://t.co/x\n\nhelp &amp; fast",
            "system response": "@998 Sorry! ^AB",
        },
        {"user utterance": "", "system response": "/MC is a signature /MC"},
    ],
}


def test_a_twitter_conversation_becomes_clean_lines_and_its_first_summary():
    [example] = data_of("tweetsumm").read(TWEETS)
    assert example.context == "Customer: where is it?? help & fast\nAgent: Sorry!\nAgent: /MC is a signature"
    assert example.prompt.endswith("Conversation:\n" + example.context)
    assert (example.response, example.references) == ("Asks. Replies.", ("Asks. Replies.", "Second."))
    assert (example.id, example.group) == ("T--1", "abc")


def test_a_twitter_conversation_may_come_as_json_in_strings():
    row = {**TWEETS, **{column: json.dumps(TWEETS[column]) for column in ("original dialog info", "log")}}
    assert data_of("tweetsumm").read(row) == data_of("tweetsumm").read(TWEETS)


@pytest.mark.parametrize(
    "info", [None, "", "not json", {}, "{}", {"summaries": None}, {"summaries": {"abstractive_summaries": [[], [""]]}}]
)
def test_a_conversation_without_a_summary_is_dropped(info):
    data = data_of("tweetsumm")
    assert summaries(info) == ()
    assert data.read({**TWEETS, "original dialog info": info}) == []
    assert dict(data._dropped) == {"no summary": 1}


def test_a_medical_answer_is_learnt_clean_and_judged_as_written():
    answer = "Signs:        - Fever.    - Rash &amp; pain."
    [example] = data_of("medical").read({"qtype": "symptoms", "Question": "What is  it ?", "Answer": answer})
    assert (example.prompt, example.response) == ("What is it ?", "Signs:\n- Fever.\n- Rash & pain.")
    assert example.references == (answer,) and example.tags == {"qtype": "symptoms"}


def test_the_conclusion_of_an_abstract_is_never_shown():
    row = {
        "pubid": 7,
        "question": "Does it?",
        "context": {"contexts": ["One.", "Two."]},
        "final_decision": "Yes",
        "long_answer": "It does.",
    }
    [example] = data_of("pubmedqa").read(row)
    assert "It does." not in example.prompt and example.context == "One.\nTwo."
    assert (example.id, example.response, example.references) == ("7", "yes", ("Yes",))


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("squad", squad_row(1, answers=["", " "]), "no answer"),
        ("squad", {**squad_row(1), "answers": None}, "no answer"),
        ("squad", squad_row(1, question=" "), "no question or context"),
        ("medical", {"qtype": "x", "Question": "q", "Answer": None}, "no answer"),
        ("medical", {"qtype": "x", "Question": "", "Answer": "a"}, "no question"),
        (
            "pubmedqa",
            {"pubid": 1, "question": "q", "context": {"contexts": ["c"]}, "final_decision": None},
            "no answer",
        ),
        ("pubmedqa", {"pubid": 1, "question": "q", "context": None, "final_decision": "no"}, "no question or context"),
        ("tweetsumm", {**TWEETS, "log": []}, "no conversation"),
        ("guanaco", {"text": None}, "not [INST] … [/INST] … markup"),
    ],
)
def test_a_row_without_an_answer_is_dropped_and_counted(name, row, reason):
    data = data_of(name)
    assert data.read(row) == [] and dict(data._dropped) == {reason: 1}


@pytest.mark.parametrize("name", MAKERS)
def test_the_context_is_a_part_of_the_prompt_and_ids_are_unique(name):
    data = set_up(name)
    examples = data.available + data.validation + data.test
    assert len(examples) > 300
    assert all(example.context in example.prompt and example.response and example.references for example in examples)
    assert len({example.id for example in examples}) == len(examples)
    assert all(example.context for example in examples) == (name not in ("guanaco", "medical"))


def test_braces_in_the_data_survive_the_template():
    [example] = data_of("squad").read(squad_row(1, context="f(x) = {x | x > 0} {context}"))
    assert example.context == "f(x) = {x | x > 0} {context}" and example.context in example.prompt


def test_a_template_without_the_context_leaves_nothing_to_shorten(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", squad_rows())
    data = set_up("squad", {"path": path, "test": 0.1, "template": "{question}"})
    assert data.train[0].prompt == "Who dug it?" and data.train[0].context == ""


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{passage}: {question}", r"names \{passage\}; the fields there are: \{context\}, \{question\}"),
        ("{}", r"names \{\}"),
        ("{question", "brace"),
    ],
)
def test_a_wrong_template_names_the_fields_there_are(template, said):
    with pytest.raises(UserError, match=said):
        data_of("squad", {"template": template})


def test_an_unknown_task_or_cleaning_rule_lists_the_known_ones():
    with pytest.raises(UserError, match="Unknown dataset.task=translation for squad; known: answer"):
        data_of("squad", {"task": "translation"})
    with pytest.raises(UserError, match="unknown rule emoji; known: html_entities"):
        data_of("squad", {"cleaning": {"emoji": True}})


def test_the_configured_system_prompt_is_in_every_example():
    data = set_up("squad", {"system": "Be brief.", "rows": 50})
    assert {example.system for example in data.train + data.validation + data.test} == {"Be brief."}


def test_cleaning_switches_never_change_references():
    off = set_up("tweetsumm", {"cleaning": {}})
    on = set_up("tweetsumm")
    assert {e.id: e.references for e in off.test} == {e.id: e.references for e in on.test}
    assert {e.id: e.prompt for e in off.test} != {e.id: e.prompt for e in on.test}


def test_duplicates_are_dropped_from_train_rather_than_from_the_held_out(tmp_path):
    rows = [{"qtype": "x", "Question": f"q{n}", "Answer": f"answer {n}"} for n in range(20)]
    jsonl(tmp_path / "med" / "train.jsonl", rows + [rows[0] | {"Answer": "answer   0"}])
    jsonl(tmp_path / "med" / "test.jsonl", [{"qtype": "x", "Question": "q3", "Answer": "answer 3"}])
    data = set_up("medical", {"path": str(tmp_path / "med")})
    assert data.counts["cleaning"]["duplicates"] == {"rows": 2, "characters": 2 * len("q0answer 0")}
    assert [e.prompt for e in data.test] == ["q3"]
    assert "q3" not in {e.prompt for e in data.available + data.validation}


def test_equal_rows_get_ids_of_their_own_where_duplicates_stay(tmp_path):
    rows = [{"qtype": "x", "Question": f"q{n % 10}", "Answer": "a"} for n in range(20)]
    data = set_up("medical", {"path": jsonl(tmp_path / "r.jsonl", rows), "cleaning": {"duplicates": False}})
    examples = data.available + data.validation + data.test
    assert len({e.id for e in examples}) == len(examples) == 20


# -- splits and samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_no_group_is_on_two_sides(name):
    data = set_up(name)
    groups = [{example.group for example in getattr(data, split)} for split in SPLITS]
    assert all(groups)
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_no_article_is_on_two_sides_although_the_source_says_so(tmp_path):
    folder = tmp_path / "squad"
    jsonl(folder / "train.jsonl", squad_rows(titles=20))
    jsonl(folder / "validation.jsonl", [squad_row("dev", "Title_3"), squad_row("dev2", "Other")])
    data = set_up("squad", {"path": str(folder)})
    assert {e.group for e in data.test} == {"Title_3", "Other"}
    assert "Title_3" not in {e.group for e in data.available + data.validation}
    dropped = data.counts["dropped"]
    assert sum(reasons.get("group is held out elsewhere", 0) for reasons in dropped.values()) == 5


def test_validation_that_was_carved_gives_up_the_articles_of_the_test_set_and_says_how_many(tmp_path):
    jsonl(tmp_path / "squad/train.jsonl", squad_rows(titles=20))
    jsonl(tmp_path / "squad/validation.jsonl", [squad_row(f"dev{n}", f"Title_{n}") for n in range(15)])
    data = set_up("squad", {"path": str(tmp_path / "squad"), "validation": 0.4})
    dropped = data.counts["dropped"]
    assert dropped["validation"] == {"group is held out elsewhere": 40 - len(data.validation)}
    assert not {e.group for e in data.validation} & {e.group for e in data.test}


def test_carving_takes_whole_groups_up_to_the_share():
    examples = [
        Example(f"{g}-{n}", "p", "r", ("r",), g)
        for g, size in zip("abcdef", (1, 2, 3, 4, 5, 50), strict=True)
        for n in range(size)
    ]
    for seed in range(10):
        kept, carved = carve(examples, 6, seed)
        assert 0 < len(carved) <= 6 and len(kept) + len(carved) == 65
        assert not {e.group for e in kept} & {e.group for e in carved}
    assert len({tuple(e.id for e in carve(examples, 6, seed)[1]) for seed in range(10)}) > 1


def test_carving_takes_the_smallest_group_where_all_overshoot_and_none_where_there_is_one():
    examples = [Example(f"{g}{n}", "p", "r", ("r",), g) for g in "aab" for n in range(5)]
    assert {e.group for e in carve(examples, 1, 0)[1]} == {"b"}
    assert carve(examples[:10], 1, 0) == (examples[:10], [])


def test_held_out_splits_depend_on_no_seed_but_the_split_seed_and_not_on_the_order_of_rows(tmp_path):
    rows = squad_rows()
    one = set_up("squad", {"path": jsonl(tmp_path / "a.jsonl", rows), "test": 0.2, "validation": 0.2})
    other = set_up(
        "squad",
        {"path": jsonl(tmp_path / "b.jsonl", rows[::-1]), "test": 0.2, "validation": 0.2},
        sample=3,
        seed=5,
        data_seed=7,
        eval_seed=9,
    )
    for split in ("validation", "test"):
        assert {e.id for e in getattr(one, split)} == {e.id for e in getattr(other, split)}
    assert len(one.test) == len(one.validation) == 20
    moved = set_up("squad", {"path": str(tmp_path / "a.jsonl"), "test": 0.2, "validation": 0.2, "split_seed": 1})
    assert {e.id for e in moved.test} != {e.id for e in one.test}


def test_samples_nest_and_do_not_depend_on_the_order_of_rows(tmp_path):
    rows = squad_rows()
    changes = {"path": jsonl(tmp_path / "a.jsonl", rows), "test": 0.1}
    ten, thirty, all_of_it = (set_up("squad", changes, sample=sample, data_seed=3) for sample in (10, 30, None))
    ids = [[e.id for e in data.train] for data in (ten, thirty, all_of_it)]
    assert [len(of) for of in ids] == [10, 30, 85]
    assert ids[0] == ids[1][:10] and ids[1] == ids[2][:30]
    backwards = set_up("squad", {**changes, "path": jsonl(tmp_path / "b.jsonl", rows[::-1])}, sample=10, data_seed=3)
    assert [e.id for e in backwards.train] == ids[0]
    assert [e.id for e in set_up("squad", changes, sample=10, data_seed=4).train] != ids[0]


def test_asking_for_more_than_there_is_says_so_and_counts_what_is_used(tmp_path):
    data = set_up("squad", {"path": jsonl(tmp_path / "a.jsonl", squad_rows()), "test": 0.1}, sample=10_000)
    assert data.counts["sample"] == {"asked": 10_000, "available": 85, "used": 85}
    assert "sample=10,000 is more than the 85 there are: all 85 are used" in data.describe()
    assert "sample=" not in set_up("squad", {"rows": 50}, sample=10).describe()


def test_a_held_out_sample_is_drawn_by_the_eval_seed_alone():
    data = set_up("squad", sample=5, data_seed=1)
    other = set_up("squad", sample=50, data_seed=2)
    assert data.held_out("test", 20) == other.held_out("test", 20) == data.held_out("test", 30)[:20]
    assert data.held_out("test") == data.test
    assert set_up("squad", eval_seed=1).held_out("test", 20) != data.held_out("test", 20)


def test_shuffling_starts_from_the_sorted_ids():
    examples = [Example(str(n), "p", "r", ("r",), "g") for n in range(9)]
    assert shuffled(examples, 0) == shuffled(examples[::-1], 0) != shuffled(examples, 1)


def test_components_join_what_shares_a_key_through_others_too():
    assert components([{"a"}, {"a", "b"}, {"b"}, {"c"}]) == [0, 0, 0, 3]
    assert components([{1}, {2}, {3}, {1, 3}, set()]) == [0, 1, 0, 0, 4]


def test_medical_rows_that_share_a_question_or_a_long_sentence_are_one_group(tmp_path):
    long = "The parents of an affected person each carry one copy of the gene."
    answers = {"A ?": f"First. {long}", "a": "Own words only.", "B ?": f"Other start. {long}", "C ?": "Own words only."}
    rows = [{"qtype": "x", "Question": q, "Answer": a} for q, a in answers.items()]
    rows += [{"qtype": "x", "Question": f"q{n}", "Answer": f"answer {n}"} for n in range(20)]
    data = set_up("medical", {"path": jsonl(tmp_path / "r.jsonl", rows)})
    group = {e.prompt: e.group for e in data.available + data.validation + data.test}
    assert group["A ?"] == group["a"] == group["B ?"] == "a"
    assert group["C ?"] == "c"  # "Own words only." is short: anyone may write it


def test_setting_up_twice_changes_nothing():
    data = set_up("tweetsumm")
    before, counts = data.train, json.dumps(data.counts)
    data.setup("fit")
    assert data.train is before and json.dumps(data.counts) == counts


def test_synthetic_rows_fill_all_three_splits_with_the_numbers_asked():
    data = set_up("squad", {"rows": 120})
    assert data.counts["rows"] == {"train": 120, "validation": 120, "test": 120}
    assert set_up("squad", {"rows": 500}).counts["rows"] == {"train": 500, "validation": 400, "test": 400}


def test_encoding_is_asked_for_once_and_its_counts_are_kept(monkeypatch):
    asked = []

    def encode_all(examples, tokenizer, max_length, max_new_tokens, answers_in_context):
        asked.append((len(examples), tokenizer, max_length, max_new_tokens))
        return ["tokens"], {"encoded": 1}

    monkeypatch.setattr(data_module, "encode_all", encode_all)
    cache = DataCache()
    data = set_up("squad", tokenizer="tok", max_length=99, sample=7, validation_sample=11, cache=cache)
    assert data.encoded("train") == data.encoded("train") == data.encoded("validation") == ["tokens"]
    assert asked == [(7, "tok", 99, 32), (11, "tok", 99, 32)]
    assert data.counts["encoded"] == {"train": {"encoded": 1}, "validation": {"encoded": 1}}
    arguments = {"tokenizer": "tok", "max_length": 99, "sample": 7, "validation_sample": 11, "cache": cache}
    again = set_up("squad", **arguments)  # the next cell of a sweep
    assert again.encoded("train") is data.encoded("train") and again.encoded("validation") and len(asked) == 2
    assert again.counts["encoded"] == data.counts["encoded"] and again.counts is not data.counts
    for changed in ({"sample": 8}, {"max_length": 98}, {"tokenizer": "other"}, {"data_seed": 1}):
        set_up("squad", **{**arguments, **changed}).encoded("train")
    assert len(asked) == 6
    set_up("squad", **{**arguments, "cache": DataCache()}).encoded("train")
    assert len(asked) == 7, "another cache shares nothing"


def test_the_source_is_read_once_for_all_that_share_a_cache(monkeypatch):
    read = []
    rows_of = data_module.sources.synthetic
    monkeypatch.setattr(data_module.sources, "synthetic", lambda dataset: read.append(dataset) or rows_of(dataset))
    cache = DataCache()
    one, other = (set_up("squad", sample=sample, cache=cache) for sample in (5, 10))
    assert len(read) == 1 and one.available == other.available and one.counts is not other.counts
    set_up("squad", {"split_seed": 1}, cache=cache)
    set_up("squad", cache=cache)
    assert len(read) == 3, "only the last source is kept"
    cache.clear()
    set_up("squad", cache=cache)
    set_up("squad")
    assert len(read) == 5


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_mistyped_path_is_not_taken_for_a_repository(tmp_path):
    with pytest.raises(UserError, match=r"dataset.path=.*typo: there is no such folder or file"):
        set_up("squad", {"path": str(tmp_path / "typo")})
    with pytest.raises(UserError, match=r"wanted a folder, or a file ending in .parquet, .json"):
        (tmp_path / "notes.pdf").write_text("x")
        set_up("squad", {"path": str(tmp_path / "notes.pdf")})


def test_missing_columns_are_named_with_those_there_are(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"id": "1", "question": "q", "text": "t"}])
    with pytest.raises(
        UserError,
        match="wanted the columns id, title, context, question, answers; "
        "missing title, context, answers; there are id, question, text",
    ):
        set_up("squad", {"path": path})


def test_an_unreadable_folder_says_what_was_wanted(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match="Could not load dataset.path=.*no data file in this folder.\nWanted files ending in .parquet"
    ):
        set_up("squad", {"path": str(tmp_path / "empty")})


ROW = json.dumps(squad_row(1))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train.jsonl": ""}, "train.jsonl: the file is empty (0 bytes)."),
        ({"train.csv": ""}, "train.csv: the file is empty (0 bytes)."),
        ({"train.csv": "id,title\n"}, "train.csv: the file has a header and no rows."),
        ({"train.jsonl": ROW, "validation.jsonl": ""}, "validation.jsonl: the file is empty (0 bytes)."),
        ({"train.jsonl": f"{ROW}\n\n{ROW}\n{{bad\n"}, "train.jsonl: line 4 is not JSON (Expecting property name"),
        ({"train.json": f"[{ROW},\n{ROW},"}, "train.json: line 2 is not JSON (Expecting value)."),
        ({"train.parquet": "PAR1, not"}, "train.parquet: ArrowInvalid: Parquet magic bytes not found"),
    ],
)
def test_the_file_that_is_empty_or_broken_is_named_with_what_is_wrong_in_it(files, said, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as raised:
        set_up("squad", {"path": str(tmp_path)})
    assert str(raised.value).startswith(f"Could not load dataset.path={tmp_path}: {said}"), raised.value


def test_a_row_of_another_shape_is_named(tmp_path):
    rows = [{**squad_row(1), "answers": "miners"}]
    with pytest.raises(UserError, match="squad: r.jsonl, line 1 has not the shape wanted"):
        set_up("squad", {"path": jsonl(tmp_path / "r.jsonl", rows)})


def test_an_unreachable_hub_says_so_and_names_the_path_key(tmp_path):
    code = (
        "from llama_exp.data.sources import from_hub\nfrom llama_exp.errors import UserError\n"
        "try: from_hub('nobody/nothing', None, None, ())\nexcept UserError as problem: print(problem)"
    )
    away = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=away, check=True)
    assert "Loading nobody/nothing from the hub's cache (HF_HUB_OFFLINE is set) …" in done.stderr
    assert "Could not load nobody/nothing from the hub: " in done.stdout
    assert "dataset.path=FOLDER" in done.stdout and "HF_HUB_OFFLINE is set" in done.stdout


def test_a_gated_repository_is_named_with_what_the_hub_said(monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub.\nMore.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match="DatasetNotFoundError: Dataset 'a/b' is a gated dataset on the Hub.\nGive a"):
        from_hub("a/b", None, None, ())


@pytest.mark.parametrize(("revision", "part"), [(None, {"name": "T"}), ("refs/convert/parquet", {"data_dir": "T"})])
def test_a_subset_is_a_folder_in_the_hubs_own_conversion(monkeypatch, revision, part):
    import datasets

    asked = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda hub, **how: asked.update(how) or {})
    from_hub("a/b", "T", revision, ())
    assert asked == {"revision": revision, **part}


def test_a_missing_split_that_nothing_is_carved_for_says_what_to_type(tmp_path):
    path = jsonl(tmp_path / "r.jsonl", squad_rows())
    with pytest.raises(UserError, match="squad: the source has no test split.*dataset.test=0.1"):
        set_up("squad", {"path": path})


def test_too_few_groups_and_empty_splits_are_problems(tmp_path):
    one_article = jsonl(tmp_path / "one.jsonl", squad_rows(titles=1))
    with pytest.raises(UserError, match="no test split can be carved out of train, which is one group of 5"):
        set_up("squad", {"path": one_article, "test": 0.1})
    no_answers = jsonl(tmp_path / "none.jsonl", [squad_row(n, answers=[""]) for n in range(5)])
    with pytest.raises(UserError, match=r"(?s)No Example is left for train of squad.*from train: 5 \(no answer\)"):
        set_up("squad", {"path": no_answers, "test": 0.1})


# -- shapes on disk ----------------------------------------------------------------------------------------------------


def test_files_and_folders_of_every_kind_give_the_same_examples(tmp_path):
    import datasets

    rows = squad_rows()
    table = datasets.Dataset.from_list(rows)
    (tmp_path / "folder").mkdir()
    table.to_parquet(tmp_path / "folder" / "train.parquet")
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    places = [jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.json", tmp_path / "folder", tmp_path / "saved"]
    read = [set_up("squad", {"path": str(place), "test": 0.1}) for place in places]
    assert len(read[0].train) == 85
    assert all((data.train, data.test) == (read[0].train, read[0].test) for data in read[1:])


def test_medical_rows_may_come_as_csv(tmp_path):
    lines = ["qtype,Question,Answer"] + [f'x,q{n},"a, {n}"' for n in range(20)] + ["x,q,"]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    data = set_up("medical", {"path": str(tmp_path / "rows.csv")})
    assert {e.response for e in data.available + data.validation + data.test} == {f"a, {n}" for n in range(20)}
    assert data.counts["dropped"]["train"] == {"no answer": 1}


def test_tweetsumm_reads_one_object_keyed_by_the_dialogue(tmp_path):
    row = {key: value for key, value in TWEETS.items() if key != "new dialog id"}
    for name, count in (("train", 3), ("val", 1), ("test", 2)):
        rows = {f"T--{name}--{n}": {**row, "original dialog id": f"{name}{n}"} for n in range(count)}
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    data = set_up("tweetsumm", {"path": str(tmp_path), "cleaning": {"duplicates": False}})
    assert data.counts["examples"] == {"train": 3, "validation": 1, "test": 2}
    assert {e.id for e in data.test} == {"T--test--0", "T--test--1"}
    one = set_up(
        "tweetsumm",
        {"path": str(tmp_path / "train.json"), "test": 0.3, "validation": 0.3, "cleaning": {"duplicates": False}},
    )
    assert one.counts["examples"] == {"train": 1, "validation": 1, "test": 1}
