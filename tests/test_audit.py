"""The audit finds what was planted, names it, and leaves clean items clean."""

import random
import time

import pytest

from llama_exp.overlap.detect import audit
from llama_exp.overlap.shingles import _word_codes, normalise, shingles

WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def text(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


TRAIN = [(f"t{i}", f"book{i % 4}", text(i), text(1000 + i, 5)) for i in range(40)]


def held(prompt: str, response: str = "an answer", group: str = "other", id: str = "h0"):
    return [(id, group, prompt, response), ("fresh", "elsewhere", text(999), "nothing shared")]


def kinds(result) -> set[str]:
    return {kind for kind, count in result.counts if count}


def changed(seed: int, every: int) -> str:
    """A training prompt with every n-th word replaced."""
    return " ".join("CHANGED" if i % every == every - 1 else word for i, word in enumerate(text(seed).split()))


@pytest.mark.parametrize(
    "prompt, group, expected",
    [
        pytest.param(text(3), "other", {"exact", "normalised", "ngram", "near"}, id="the very prompt"),
        pytest.param(text(3).upper() + " ?!", "other", {"normalised", "ngram", "near"}, id="case and punctuation"),
        pytest.param(text(3, 60) + " " + text(77, 40), "other", {"ngram"}, id="a training prompt inside a longer one"),
        pytest.param(changed(3, 50), "other", {"ngram"}, id="one word of sixty changed, and the response"),
        pytest.param(changed(3, 6), "other", set(), id="every sixth word changed: another text"),
        pytest.param(text(500), "book1", {"same group"}, id="another question on the same book"),
        pytest.param(text(500), "other", set(), id="nothing shared"),
        pytest.param("", "", set(), id="an empty prompt matches nothing"),
    ],
)
def test_each_kind_of_overlap_is_found_and_nothing_else(prompt, group, expected):
    result = audit(TRAIN, held(prompt, group=group))
    assert kinds(result) == expected
    assert result.clean == (("fresh",) if expected else ("h0", "fresh"))


def test_one_word_changed_is_a_near_duplicate():
    assert kinds(audit(TRAIN, held(changed(3, 50), response=TRAIN[3][3]))) == {"ngram", "near"}


def test_a_long_response_seen_in_training_is_a_leak_and_a_short_one_is_not():
    train = [("t0", "a", text(1), text(2, 13)), ("t1", "b", text(3), "1998")]
    assert kinds(audit(train, held(text(4), response=text(2, 13)))) == {"normalised"}
    assert kinds(audit(train, held(text(4), response="1998"))) == set()


def test_the_prompts_template_is_not_an_overlap():
    wording = text(7, 40) + " "
    train = [(f"t{i}", f"g{i}", wording + text(i, 30), "a") for i in range(100, 160)]
    test = [(f"h{i}", f"k{i}", wording + text(i, 30), "a") for i in range(200, 260)]
    assert kinds(audit(train, test)) == set()
    assert kinds(audit(train, [*test, ("leak", "x", wording + text(100, 30), "a")])) >= {"exact", "ngram", "near"}


def test_groups_are_listed_with_their_leaks_and_examples_name_both_ids():
    test = [("h0", "x", TRAIN[5][2], "a"), ("h1", "x", text(600), "a"), ("h2", "y", text(601), "a")]
    result = audit(TRAIN, test)
    assert result.by_group == (("x", 2, 1), ("y", 1, 0))
    assert ("exact", "h0", "t5") in result.examples
    assert str(result).startswith("1 of 3 held-out items (33.3 %) overlap with training: exact 1, normalised 1")


def test_repeats_within_a_side_are_counted():
    result = audit([TRAIN[0], ("again", "g", TRAIN[0][2].title(), TRAIN[0][3]), TRAIN[1]], held(text(500)))
    assert (result.repeated_train, result.repeated_held_out) == (1, 0)


def test_a_missing_group_is_not_shared():
    assert kinds(audit([("t", "", text(1), "a")], [("h", "", text(2), "a")])) == set()


def test_two_held_out_items_with_one_id_are_refused():
    with pytest.raises(ValueError, match=r"1 held-out ids occur more than once \(first: h0\)"):
        audit(TRAIN, [*held("a"), held("b")[0]])


def test_nothing_to_audit_says_so():
    assert str(audit(TRAIN, [])) == "No held-out items to audit."
    assert audit([], held("a")).clean == ("h0", "fresh")


def test_normalising_drops_case_accents_punctuation_and_spacing():
    assert normalise("  Où est-ce,\n n'est-ce PAS?_ ") == "ou est ce n est ce pas"
    assert normalise("東京 2020") == "東京 2020"


def test_runs_are_the_same_on_every_machine_and_short_texts_are_one_run():
    found = shingles(("a b c d e f", "a b", "", "a b c d e", "x x x x x x x"), 5)
    assert found.sizes().tolist() == [2, 1, 0, 1, 1]
    assert found.of_text(3).tolist() == found.of_text(0).tolist()[:1] == [18395931522300228805]
    assert shingles(("a b c d e",), 5).values.tolist() == [18395931522300228805]
    assert shingles(("a b",), 5).values.tolist() == found.of_text(1).tolist() and not len(shingles(("",), 5).values)


def test_it_is_the_same_twice_and_fast():
    train = [(f"t{i}", "", text(i, 120), text(-i, 10)) for i in range(1500)]
    test = [(f"h{i}", "", text(i, 120) if i % 10 == 0 else text(10_000 + i, 120), "a") for i in range(1000)]
    start = time.perf_counter()
    first = audit(train, test)
    seconds = time.perf_counter() - start
    assert first == audit(train, test)
    assert dict(first.counts)["exact"] == 100 and len(first.clean) == 900
    assert seconds < 10


def test_near_duplicates_are_those_that_comparing_all_pairs_finds():
    """The words are few, and most texts are changed ones of others, so that many pairs lie about the threshold."""
    rng = random.Random(5)
    bases = [rng.choices(WORDS, k=rng.randint(3, 60)) for _ in range(40)]

    def changed_a_little() -> str:
        words = list(rng.choice(bases))
        for _ in range(rng.randint(0, 2)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        return " ".join(words)

    train = [(f"t{i}", f"t{i}", changed_a_little(), "") for i in range(80)]
    test = [(f"h{i}", f"h{i}", changed_a_little(), "") for i in range(200)]

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}

    def jaccard(one: str, other: str) -> float:
        return len(runs(one) & runs(other)) / len(runs(one) | runs(other))

    alike = {row[0]: [jaccard(row[2], other[2]) for other in train] for row in test}
    near = {name: f"t{of.index(max(of))}" for name, of in alike.items() if max(of) >= 0.8}
    result = audit(train, test)
    assert dict(result.counts)["near"] == len(near) and 30 < len(near) < 160
    found = [(mine, theirs) for kind, mine, theirs in result.examples if kind == "near"]
    assert found == list(near.items())[:5]


def test_runs_of_words_have_the_same_hash_wherever_they_stand_and_others_have_another(monkeypatch):
    texts = tuple(
        normalise(text) for text in ["", "a", "ab", "a b ab", "", "Ünï cödé 日本語 x1", "b" * 300, "\ud800 b"]
    )
    found: dict[str, int] = {}
    for length in (1, 2, 5):
        for size in (1, 7, 2**18):
            monkeypatch.setattr("llama_exp.overlap.shingles.PIECE", size)
            for cached in (shingles, _word_codes):
                cached.cache_clear()
            hashed = shingles(tuple(map(normalise, texts)), length)
            for index, text in enumerate(texts):
                words = normalise(text).split()
                runs = [" ".join(words[i : i + length]) for i in range(max(1, len(words) - length + 1)) if words]
                for run, value in zip(dict.fromkeys(runs), hashed.of_text(index).tolist(), strict=True):
                    assert found.setdefault(run, value) == value
    assert len(set(found.values())) == len(found) > 10


def test_plain_text_is_normalised_as_any_other():
    text = "".join(map(chr, range(128))) * 2 + " It's  A_B-c\tMIXED\nCase, 1.5!"
    assert normalise(text) == normalise(text + "é").removesuffix("e").strip()


def test_shares_of_nothing_and_no_training_rows_are_no_error():
    test = held(text(3))
    assert kinds(audit([], test, ngram_share=0.0, jaccard=0.0)) == set()
    assert dict(audit(TRAIN, held(text(500)), jaccard=0.01).counts)["near"] == 0
