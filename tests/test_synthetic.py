"""The invented rows: schema, exact offsets, nothing shared between splits, same seed same rows."""

import itertools
import json
import re
import time

import pytest

from llama_exp.data.synthetic import MAKERS, SPLITS, prose, rows
from llama_exp.data.synthetic.world import KINDS, SIDES, names

COLUMNS = {  # as the hub serves them
    "squad": ["id", "title", "context", "question", "answers"],
    "guanaco": ["text"],
    "tweetsumm": ["original dialog id", "new dialog id", "dialog index", "original dialog info", "log", "prompt"],
    "medical": ["qtype", "Question", "Answer"],
    "pubmedqa": ["pubid", "question", "context", "long_answer", "final_decision"],
}
CAPITALISED = re.compile(r"[A-Z][a-z]+")


def text_of(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False)


@pytest.mark.parametrize("dataset", MAKERS)
def test_a_row_has_the_columns_of_the_hub(dataset):
    for row in rows(dataset, "train", 200, seed=0):
        assert list(row) == COLUMNS[dataset]


@pytest.mark.parametrize("dataset", MAKERS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(dataset, split):
    once, again, other = (list(rows(dataset, split, 300, seed=seed)) for seed in (3, 3, 4))
    assert once == again
    assert once != other


@pytest.mark.parametrize("dataset", MAKERS)
def test_a_longer_list_begins_with_the_shorter_one(dataset):
    assert list(rows(dataset, "train", 1000, seed=0))[:100] == list(rows(dataset, "train", 100, seed=0))


@pytest.mark.parametrize("dataset", MAKERS)
def test_at_least_5000_rows_a_second(dataset):
    def seconds() -> float:
        start = time.process_time()
        assert sum(1 for _ in rows(dataset, "train", 5000, seed=0)) == 5000
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1.0


def test_no_name_has_two_sides():
    for one, other in itertools.combinations(SIDES, 2):
        assert not set(names(one)) & set(names(other))
    assert min(len(names(side)) for side in SIDES) > 5_000


@pytest.mark.parametrize("side", SIDES)
def test_the_text_of_a_side_holds_no_name_of_another_side(side):
    if side == "pretraining":
        text = "\n".join(prose(3_000, seed=0))
    else:
        text = "\n".join(text_of(row) for dataset in MAKERS for row in rows(dataset, side, 1_500, seed=0))
    found = set(CAPITALISED.findall(re.sub(r"https://t.co/\w+", "", text)))  # links are random letters
    assert len(found & set(names(side))) > 1_000  # the search does find names
    others = set().union(*(names(other) for other in SIDES if other != side))
    assert found & others == set()


def test_titles_are_of_one_split_only():
    titles = {split: {row["title"] for row in rows("squad", split, 5_000, seed=0)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not titles[one] & titles[other]
    assert all(len(of_split) > 300 for of_split in titles.values())


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_stands_at_its_offset(split):
    for row in rows("squad", split, 5_000, seed=1):
        answers = row["answers"]
        assert len(answers["text"]) == len(answers["answer_start"]) >= 1
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert text and row["context"][start : start + len(text)] == text


def test_paragraphs_have_60_to_150_words_and_3_to_5_questions():
    paragraphs = itertools.groupby(rows("squad", "train", 20_000, seed=0), key=lambda row: row["context"])
    counts = [(len(context.split()), len(list(asked))) for context, asked in paragraphs]
    assert min(words for words, _ in counts) >= 60
    assert max(words for words, _ in counts) <= 150
    assert {asked for _, asked in counts[:-1]} == {3, 4, 5}


def test_train_has_one_answer_a_question_and_test_up_to_three():
    counts = {split: {len(row["answers"]["text"]) for row in rows("squad", split, 500, 0)} for split in SPLITS}
    assert counts == {"train": {1}, "validation": {1, 2, 3}, "test": {1, 2, 3}}


def test_no_two_questions_of_a_paragraph_ask_for_one_fact():
    for _, asked in itertools.groupby(rows("squad", "train", 5_000, seed=0), key=lambda row: row["context"]):
        starts = [row["answers"]["answer_start"][0] for row in asked]
        assert len(set(starts)) == len(starts)


def test_every_wording_has_its_blanks():
    for kind in KINDS.values():
        for relation in kind.relations:
            assert all("{s}" in wording for wording in (*relation.clauses, *relation.asks))
            assert all(says.count("{s}") == says.count("{v}") == 1 for says in relation.says)
            assert all(ask.endswith("?") for ask in relation.asks)
            assert len(set(relation.asks)) == len(relation.asks) >= 6


def test_guanaco_rows_are_whole_turns_in_llama_2_markup():
    turn = r"<s>\[INST\] (?:(?!\[INST\]|</?s>)[\s\S])+ \[/INST\] (?:(?!\[/?INST\]|</?s>)[\s\S])+ </s>"
    turns = [row["text"].count("<s>") for row in rows("guanaco", "train", 1_000, seed=0)]
    for row in rows("guanaco", "train", 1_000, seed=0):
        assert re.fullmatch(f"(?:{turn})+", row["text"]), row["text"]
    assert 0.25 < sum(count > 1 for count in turns) / len(turns) < 0.45


def test_tweetsumm_rows_hold_one_to_three_summaries_and_the_quirks_that_cleaning_meets():
    made = list(rows("tweetsumm", "validation", 1_000, seed=0))
    counts = {len(json.loads(row["original dialog info"])["summaries"]["abstractive_summaries"]) for row in made}
    assert counts == {1, 2, 3}
    assert made[4]["new dialog id"] == "TweetSumm--val--5"
    said = "\n".join(turn["system response"] + "\n" + turn["user utterance"] for row in made for turn in row["log"])
    for quirk in (
        r"^@\d{6} ",
        r"@[A-Z][a-z]+Help",
        r" \^[A-Z]{2}$",
        r"https://t\.co/\w{10}",
        "&amp;",
        "&gt;&gt;",
        r"\S  :\(",
    ):
        assert re.search(quirk, said, re.MULTILINE), quirk
    for row in made:
        for before, turn in itertools.pairwise(row["log"]):
            assert turn["dialog history"].endswith(f"<SYSTEM> {before['system response']}")


def test_a_pubmedqa_decision_follows_from_its_results():
    for row in rows("pubmedqa", "test", 500, seed=0):
        treated, control = map(int, re.findall(r"(\d+)%", row["context"]["contexts"][2]))
        decision = "yes" if treated - control >= 20 else "maybe" if treated > control else "no"
        assert row["final_decision"] == decision
        assert len(row["context"]["contexts"]) == len(row["context"]["labels"])


def test_prose_asks_nothing_and_prompts_nothing():
    asks = {ask.replace("{s}", "") for kind in KINDS.values() for relation in kind.relations for ask in relation.asks}
    for document in prose(3_000, seed=0):
        assert "?" not in document
        assert "INST" not in document
        assert "Question:" not in document and "Context:" not in document
        assert not any(ask.rstrip("?").strip() in document for ask in asks if ask.startswith(("Who ", "How ")))


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("sqad", "train", "unknown synthetic dataset 'sqad'; known: squad, guanaco, tweetsumm, medical, pubmedqa"),
        ("squad", "dev", "unknown split 'dev'; known: train, validation, test"),
    ],
)
def test_unknown_names_list_the_known_ones(dataset, split, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rows(dataset, split, 1, seed=0)
