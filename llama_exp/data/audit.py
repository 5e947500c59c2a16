"""Does the training set hold the test's answers? Overlap of train with held-out items, four ways and by group.

    same group    the item's article, dialogue ... is on both sides
    exact         its prompt stands in train, letter for letter
    normalised    the same after case, accents, punctuation and spacing are gone; or a long response does
    ngram         at least half of its runs of 13 words stand in train
    near          80 % of its runs of 5 words are those of one training text (Jaccard; MinHash finds, sets verify)

Wording that many items of both sides share (the prompt's template) is left out of the last two. 13 words follow GPT-3
(Brown et al. 2020, appendix C), 5-word shingles and 0.8 the deduplication of Lee et al. (2022). Pure text; no torch.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from datasketch import MinHash

Row = tuple[str, Hashable, str, str]  # id, group, prompt, response

NGRAM = 13
SHINGLE = 5
TEMPLATE = 0.05  # runs of words in more than this share of the distinct texts on both sides are the template's
KINDS = ("same group", "exact", "normalised", "ngram", "near")


@dataclass(frozen=True, slots=True)
class Audit:
    """What training and held-out items have in common.

    counts      (kind, held-out items it touches); an item may count under several
    by_group    (group of the held-out items, items, items that leak by any kind), most leaks first
    examples    (kind, held-out id, training id): up to five each, to look at
    clean       ids of held-out items that no kind touches: the subset to score beside the full set
    repeated_train, repeated_held_out
                items that repeat an earlier prompt and response of their own side (normalised)
    """

    train_items: int
    held_out_items: int
    counts: tuple[tuple[str, int], ...]
    by_group: tuple[tuple[str, int, int], ...]
    examples: tuple[tuple[str, str, str], ...]
    clean: tuple[str, ...]
    repeated_train: int
    repeated_held_out: int

    def __str__(self) -> str:
        leaks = self.held_out_items - len(self.clean)
        if not self.held_out_items:
            return "No held-out items to audit."
        if not leaks:
            head = f"None of {self.held_out_items:,} held-out items overlaps with {self.train_items:,} training items."
        else:
            shown = ", ".join(f"{kind} {count:,}" for kind, count in self.counts if count)
            head = (
                f"{leaks:,} of {self.held_out_items:,} held-out items ({100 * leaks / self.held_out_items:.1f} %) "
                f"overlap with training: {shown}."
            )
        return f"{head} Repeats: {self.repeated_train:,} within train, {self.repeated_held_out:,} within held-out."


def audit(
    train: Iterable[Row],
    held_out: Iterable[Row],
    ngram_share: float = 0.5,
    jaccard: float = 0.8,
    permutations: int = 64,
) -> Audit:
    """Compare held-out items with all training items.

    train, held_out   rows of (id, group, prompt, response); `response` of a held-out item is its reference
    ngram_share       share of an item's 13-word runs found anywhere in train that makes it a leak
    jaccard           overlap with one training text that makes it a near duplicate
    Raises ValueError when an id occurs twice on the held-out side, because clean items are named by id.
    A group of None or "" belongs to no one and never counts as shared.
    """
    train, held_out = list(train), list(held_out)
    ids = [row[0] for row in held_out]
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} held-out ids occur more than once (first: {', '.join(map(str, twice[:3]))})")
    known, asked = Texts(train), Texts(held_out)
    found = {
        "same group": _same_group(train, held_out),
        "exact": _same_key([row[2] for row in train], [row[2] for row in held_out]),
        "normalised": _normalised(known, asked),
        **dict(zip(("ngram", "near"), _overlaps(known, asked, ngram_share, jaccard, permutations), strict=True)),
    }
    leaks = set().union(*found.values())
    return Audit(
        len(train),
        len(held_out),
        tuple((kind, len(found[kind])) for kind in KINDS),
        _by_group(held_out, leaks),
        tuple((kind, str(ids[i]), str(train[j][0])) for kind in KINDS for i, j in sorted(found[kind].items())[:5]),
        tuple(ids[i] for i in range(len(ids)) if i not in leaks),
        known.repeats,
        asked.repeats,
    )


class Texts:
    """One side's rows, normalised once; items with the same words are compared once."""

    def __init__(self, rows: Sequence[Row]):
        plain = {prompt: normalise(prompt) for prompt in {row[2] for row in rows}}
        self.prompts = [plain[row[2]] for row in rows]
        self.responses = [normalise(row[3]) for row in rows]
        self.whole = [
            f"{prompt} {response}".strip() for prompt, response in zip(self.prompts, self.responses, strict=True)
        ]
        self.distinct = list(dict.fromkeys(self.whole))
        self.repeats = len(self.whole) - len(self.distinct)

    def first_row(self) -> list[int]:
        """For every distinct text, the first row that has it."""
        first: dict[str, int] = {}
        for row, text in enumerate(self.whole):
            first.setdefault(text, row)
        return [first[text] for text in self.distinct]


@lru_cache(maxsize=2**17)  # the cells of a sweep are measured on the same items
def normalise(text: str) -> str:
    """Lower case, no accents, no punctuation, single spaces: `Où est-ce ?` -> `ou est ce`."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        for accent in filter(unicodedata.combining, set(decomposed)):
            decomposed = decomposed.replace(accent, "")
        text = decomposed
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


@dataclass(frozen=True, slots=True)
class Runs:
    """Hashes of all texts' runs of words, one text after the other, distinct within each: one operation on all
    instead of one on each. values (R,) uint64; owner (R,): which text each is of; texts: how many there are; frequent:
    values in more than 5 % of the texts and in at least 20, because a handful of texts has no template to find."""

    values: np.ndarray
    owner: np.ndarray
    texts: int
    frequent: np.ndarray

    def only(self, kept: np.ndarray) -> "Runs":
        return Runs(self.values[kept], self.owner[kept], self.texts, self.frequent[:0])

    def sizes(self) -> np.ndarray:
        return np.bincount(self.owner, minlength=self.texts)

    def of(self, text: int) -> np.ndarray:
        return self.values[slice(*np.searchsorted(self.owner, (text, text + 1)))]


@lru_cache(maxsize=4)  # the cells of a sweep are measured on the same items
def runs(texts: tuple[str, ...], length: int) -> Runs:
    """Every text's runs of `length` words, as 64-bit hashes; a shorter text is one run.

    A rolling polynomial over word hashes (wraps around 2^64): no string is built per run. crc32 is the same on every
    machine, unlike Python's own hash.
    """
    codes, ends = _codes(texts)
    sizes = np.diff(ends, prepend=0)
    owner = np.repeat(np.arange(len(texts)), np.maximum(sizes - length + 1, np.minimum(sizes, 1)))
    first = np.searchsorted(owner, owner)  # where the runs of the same text begin
    starts = (ends - sizes)[owner] + np.arange(len(owner)) - first
    whole = _rolled(codes, length)
    total = whole[np.minimum(starts, len(whole) - 1)] if len(whole) else np.zeros(len(owner), np.uint64)
    for run in (sizes[owner] < length).nonzero()[0]:  # a text of fewer words
        total[run] = _rolled(codes[starts[run] : ends[owner[run]]], sizes[owner[run]])[0]
    total ^= total >> np.uint64(31)
    marked = total ^ (owner.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93))  # alike only within a text
    order = np.argsort(marked)
    begins = np.ones(len(total), bool)
    begins[1:] = marked[order[1:]] != marked[order[:-1]]
    new = np.sort(np.minimum.reduceat(order, begins.nonzero()[0])) if len(total) else order
    values, counts = np.unique(total[new], return_counts=True)
    return Runs(total[new], owner[new], len(texts), values[counts > max(TEMPLATE * len(texts), 20)])


def _rolled(codes: np.ndarray, length: int) -> np.ndarray:
    """The polynomial hash of every run of `length` codes."""
    total = np.zeros(max(len(codes) - length + 1, 0), np.uint64)
    for place in range(length):
        total *= np.uint64(0x9E3779B97F4A7C15)
        total += codes[place : place + len(total)]
    return total


@lru_cache(maxsize=4)
def _codes(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The codes of all words of all texts, and where each text's words end."""
    words = [text.split() for text in texts]
    codes = np.array([_word(word) for text in words for word in text], np.uint64)
    return codes, np.cumsum([len(text) for text in words], dtype=np.int64)


@lru_cache(maxsize=2**20)  # texts repeat their words
def _word(word: str) -> int:
    """A word's 62-bit code."""
    data = word.encode("utf-8", "surrogatepass")
    return (crc32(data) << 30) ^ crc32(data[::-1] + b"\x01")


def _same_key(train: Sequence[str], held_out: Sequence[str]) -> dict[int, int]:
    """held-out position -> first training position with the same text; the empty text matches nothing."""
    first: dict[str, int] = {}
    for position, text in enumerate(train):
        if text:
            first.setdefault(text, position)
    return {i: first[text] for i, text in enumerate(held_out) if text in first}


def _same_group(train: Sequence[Row], held_out: Sequence[Row]) -> dict[int, int]:
    first: dict[Hashable, int] = {}
    for position, row in enumerate(train):
        first.setdefault(row[1], position)
    return {i: first[row[1]] for i, row in enumerate(held_out) if row[1] not in (None, "") and row[1] in first}


def _normalised(known: Texts, asked: Texts) -> dict[int, int]:
    """The prompt recurs; or the response does, if it is too long (13 words) to recur by chance, as "1998" would."""

    def long(responses: Sequence[str]) -> list[str]:
        return [text if len(text.split()) >= NGRAM else "" for text in responses]

    answers = _same_key(long(known.responses), long(asked.responses))
    return answers | _same_key(known.prompts, asked.prompts)


def _overlaps(
    known: Texts, asked: Texts, ngram_share: float, jaccard: float, permutations: int
) -> tuple[dict[int, int], dict[int, int]]:
    """(ngram, near): held-out position -> training position."""
    origin, texts = known.first_row(), asked.distinct
    learnt, questions = tuple(known.distinct), tuple(texts)
    ngram = _ngram(*_without_template(runs(learnt, NGRAM), runs(questions, NGRAM)), ngram_share)
    near = _near(*_without_template(runs(learnt, SHINGLE), runs(questions, SHINGLE)), jaccard, permutations)
    number = {text: place for place, text in enumerate(texts)}
    places = [number[text] for text in asked.whole]
    return tuple({i: origin[hit[place]] for i, place in enumerate(places) if place in hit} for hit in (ngram, near))


def _without_template(train: Runs, held_out: Runs) -> tuple[Runs, Runs]:
    """Drop runs common on both sides: they are the prompt's wording, not the item."""
    common = np.intersect1d(train.frequent, held_out.frequent, assume_unique=True)
    if not len(common):
        return train, held_out
    return tuple(side.only(~np.isin(side.values, common)) for side in (train, held_out))


def _ngram(train: Runs, held_out: Runs, share: float) -> dict[int, int]:
    """Held-out texts of whose runs at least `share` stand in train, with the training text of the first of them."""
    pool, first = _distinct(train.values)
    found = {}
    for place in _mostly_in(pool, held_out, share):
        own = held_out.of(place)
        at = np.minimum(np.searchsorted(pool, own), len(pool) - 1)
        shared = at[pool[at] == own]
        found[place] = int(train.owner[first[shared[0]]])
    return found


def _near(train: Runs, held_out: Runs, jaccard: float, permutations: int) -> dict[int, int]:
    """MinHash proposes, the sets themselves decide, so that no estimate is reported as a duplicate.

    The index is asked for a little less than `jaccard`, because it misses pairs just at its threshold. It is asked only
    about texts that could be: at least `jaccard` of a near duplicate's runs stand somewhere in train.
    """
    wanted = _mostly_in(_distinct(train.values)[0], held_out, jaccard)
    if not wanted:
        return {}
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=max(jaccard - 0.1, 0.1), num_perm=permutations)
    blank = MinHash(num_perm=permutations, seed=1, hashfunc=_low)
    known = np.split(train.values, np.cumsum(train.sizes())[:-1])
    with index.insertion_session() as session:
        for place, text in enumerate(known):
            if len(text):
                session.insert(place, _signature(text, blank))
    found = {}
    for place in wanted:
        text = held_out.of(place)
        candidates = index.query(_signature(text, blank))
        best = max(((_jaccard(text, known[other]), -other) for other in candidates), default=None)
        if best is not None and best[0] >= jaccard:
            found[place] = -best[1]
    return found


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct values and where each stands first: by sorting, several times as fast as numpy's table of hashes."""
    return np.unique(values, return_index=True)


def _mostly_in(pool: np.ndarray, texts: Runs, share: float) -> list[int]:
    """Places of the texts of whose runs at least `share` stand in the pool of runs."""
    sizes = texts.sizes()
    if not len(pool):
        return []
    at = np.minimum(np.searchsorted(pool, texts.values), len(pool) - 1)
    known = np.bincount(texts.owner[pool[at] == texts.values], minlength=texts.texts)
    return [int(place) for place in ((sizes > 0) & (known >= share * sizes)).nonzero()[0]]


def _low(run: int) -> int:
    """The runs are hashes already: MinHash wants 32 bits of them."""
    return int(run) & 0xFFFFFFFF


def _signature(text: np.ndarray, blank: "MinHash") -> "MinHash":
    signature = blank.copy()
    signature.update_batch(text)
    return signature


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _by_group(held_out: Sequence[Row], leaks: set[int]) -> tuple[tuple[str, int, int], ...]:
    items, touched = Counter(str(row[1]) for row in held_out), Counter(str(held_out[i][1]) for i in leaks)
    return tuple((group, items[group], touched[group]) for group in sorted(items, key=lambda g: (-touched[g], g)))
