"""Does the training set hold the test's answers? Overlap of train with held-out items, four ways and by group.

    same group    the item's article, dialogue ... is on both sides
    exact         its prompt occurs in train, letter for letter
    normalised    the same after case, accents, punctuation and spacing are gone; or a long response does
    ngram         at least half of its runs of 13 words occur in train
    near          80 % of its runs of 5 words are those of one training text (Jaccard)

Wording that many items of both sides share (the prompt's template) is left out of the last two. 13 words follow GPT-3
(Brown et al. 2020, appendix C), 5-word shingles and 0.8 the deduplication of Lee et al. (2022). Pure text; no torch.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llama_exp.overlap.shingles import Shingles, normalise, positions_in, shingles

Row = tuple[str, Hashable, str, str]  # id, group, prompt, response

NGRAM = 13
SHINGLE = 5
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


def audit(train: Iterable[Row], held_out: Iterable[Row], ngram_share: float = 0.5, jaccard: float = 0.8) -> Audit:
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
    known, tested = Texts(train), Texts(held_out)
    found = {
        "same group": _same_group(train, held_out),
        "exact": _same_key([row[2] for row in train], [row[2] for row in held_out]),
        "normalised": _normalised(known, tested),
        **dict(zip(("ngram", "near"), _overlaps(known, tested, ngram_share, jaccard), strict=True)),
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
        tested.repeats,
    )


class Texts:
    """One side's rows, normalised once; equal texts are compared once."""

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


def _normalised(known: Texts, tested: Texts) -> dict[int, int]:
    """The prompt recurs; or the response does, if it is too long (13 words) to recur by chance, as "1998" would."""

    def long(responses: Sequence[str]) -> list[str]:
        return [text if len(text.split()) >= NGRAM else "" for text in responses]

    answers = _same_key(long(known.responses), long(tested.responses))
    return answers | _same_key(known.prompts, tested.prompts)


def _overlaps(known: Texts, tested: Texts, ngram_share: float, jaccard: float) -> tuple[dict[int, int], dict[int, int]]:
    """(ngram, near): held-out position -> training position."""
    origin, texts = known.first_row(), tested.distinct
    learnt, questions = tuple(known.distinct), tuple(texts)
    ngram = _ngram(*_without_template(shingles(learnt, NGRAM), shingles(questions, NGRAM)), ngram_share)
    near = _near(*_without_template(shingles(learnt, SHINGLE), shingles(questions, SHINGLE)), jaccard)
    number = {text: index for index, text in enumerate(texts)}
    indices = [number[text] for text in tested.whole]

    def rows(hit: dict[int, int]) -> dict[int, int]:
        return {i: origin[hit[index]] for i, index in enumerate(indices) if index in hit}

    return rows(ngram), rows(near)


def _without_template(train: Shingles, held_out: Shingles) -> tuple[Shingles, Shingles]:
    """Drop runs common on both sides: they are the prompt's wording, not the item."""
    common = np.intersect1d(train.frequent, held_out.frequent, assume_unique=True)
    if not len(common):
        return train, held_out
    return _without(common, train), _without(common, held_out)


def _without(common: np.ndarray, texts: Shingles) -> Shingles:
    kept = np.ones(len(texts.values), bool)
    kept[positions_in(common, texts.values)] = False
    return texts.select(kept)


def _ngram(train: Shingles, held_out: Shingles, share: float) -> dict[int, int]:
    """Held-out texts of whose runs at least `share` occur in train, with the training text of the first of them."""
    pool, first = np.unique(train.values, return_index=True)
    found = {}
    for index in _mostly_in(pool, held_out, share):
        own = held_out.of_text(index)
        at = np.minimum(np.searchsorted(pool, own), len(pool) - 1)
        shared = at[pool[at] == own]
        found[index] = int(train.owner[first[shared[0]]])
    return found


def _near(train: Shingles, held_out: Shingles, jaccard: float) -> dict[int, int]:
    """Held-out texts and the training text that each resembles most, if by `jaccard` or more.

    Only texts that could be are compared, with all training texts that share a run with them: at least `jaccard` of a
    near duplicate's runs occur somewhere in train.
    """
    order = np.argsort(train.values, kind="stable")
    values, owners = train.values[order], train.owner[order]
    sizes = train.sizes()
    found = {}
    for index in _mostly_in(values, held_out, jaccard):
        text = held_out.of_text(index)
        first, last = (np.searchsorted(values, text, side) for side in ("left", "right"))
        sharing = np.concatenate([owners[one:end] for one, end in zip(first, last, strict=True)])
        shared = np.bincount(sharing, minlength=train.texts)
        alike = shared / (len(text) + sizes - shared)
        best = int(np.argmax(alike))  # of several, the first
        if alike[best] >= jaccard:
            found[index] = best
    return found


def _mostly_in(pool: np.ndarray, texts: Shingles, share: float) -> list[int]:
    """Indices of the texts of whose runs at least `share` are in the pool of runs."""
    if not len(pool):
        return []
    sizes = texts.sizes()
    known = np.bincount(texts.owner[positions_in(pool, texts.values)], minlength=texts.texts)
    return [int(index) for index in ((sizes > 0) & (known >= share * sizes)).nonzero()[0]]


def _by_group(held_out: Sequence[Row], leaks: set[int]) -> tuple[tuple[str, int, int], ...]:
    items, touched = Counter(str(row[1]) for row in held_out), Counter(str(held_out[i][1]) for i in leaks)
    return tuple((group, items[group], touched[group]) for group in sorted(items, key=lambda g: (-touched[g], g)))
