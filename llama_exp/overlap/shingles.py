"""Shingles of words (shingles) of many texts at once, as hashes that are the same on every machine. Pure numpy."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

TEMPLATE_SHARE = 0.05  # runs of words in more than this share of the distinct texts on both sides are the template's
PLAIN = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}  # of ASCII
PIECE = 2**18  # bytes whose words are hashed at once, with forty bytes of memory each
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
MIXER = 0xD6E8FEB86659FD93  # as odd, to spread what is alike over all bits


@lru_cache(maxsize=2**17)  # the cells of a sweep are measured on the same items
def normalise(text: str) -> str:
    """Lower case, no accents, no punctuation, single spaces: `Où est-ce ?` -> `ou est ce`."""
    if text.isascii():
        return " ".join(text.translate(PLAIN).split())
    text = unicodedata.normalize("NFKD", text)
    for accent in filter(unicodedata.combining, set(text)):
        text = text.replace(accent, "")
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


@dataclass(frozen=True, slots=True)
class Shingles:
    """Hashed runs of words of all texts, in the order of the texts, distinct within each.

    One array for all texts, so that numpy compares all of them in one operation.

    values      (R,) uint64
    owner       (R,) the text that each belongs to
    texts       how many texts there are
    frequent    values in more than 5 % of the texts and in at least 20: a handful of texts has no template to find
    """

    values: np.ndarray
    owner: np.ndarray
    texts: int
    frequent: np.ndarray

    def select(self, mask: np.ndarray) -> "Shingles":
        return Shingles(self.values[mask], self.owner[mask], self.texts, self.frequent[:0])

    def sizes(self) -> np.ndarray:
        return np.bincount(self.owner, minlength=self.texts)

    def of_text(self, text: int) -> np.ndarray:
        return self.values[slice(*np.searchsorted(self.owner, (text, text + 1)))]


@lru_cache(maxsize=4)  # the cells of a sweep are measured on the same items
def shingles(texts: tuple[str, ...], length: int) -> Shingles:
    """Every text's runs of `length` words, as 64-bit hashes; a shorter text is one run.

    A rolling polynomial over word hashes (wraps around 2^64), which are the same on every machine: no string is built
    per run.
    """
    codes, ends = _word_codes(texts)
    sizes = np.diff(ends, prepend=0)
    runs = np.maximum(sizes - length + 1, np.minimum(sizes, 1))
    owner = np.repeat(np.arange(len(texts)), runs)
    starts = np.arange(len(owner)) + np.repeat(ends - sizes - (np.cumsum(runs) - runs), runs)
    whole = _rolling_hashes(codes, length)
    total = whole[np.minimum(starts, len(whole) - 1)] if len(whole) else np.zeros(len(owner), np.uint64)
    for run in (sizes[owner] < length).nonzero()[0]:  # a text of fewer words
        total[run] = _rolling_hashes(codes[starts[run] : ends[owner[run]]], sizes[owner[run]])[0]
    total ^= total >> np.uint64(31)
    marked = total ^ (owner.astype(np.uint64) * np.uint64(MIXER))  # alike only within a text
    ordered = np.sort(marked)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    new = np.ones(len(total), bool)
    again = positions_in(repeated, marked)
    new[again] = False
    new[again[np.unique(marked[again], return_index=True)[1]]] = True  # the first of each
    values, counts = np.unique(total[new], return_counts=True)
    return Shingles(total[new], owner[new], len(texts), values[counts > max(TEMPLATE_SHARE * len(texts), 20)])


def positions_in(pool: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where in `values` the hashes are that the sorted `pool` holds, too. Their first bits rule out most others."""
    if not len(pool):
        return np.empty(0, np.int64)
    first = np.zeros(2**20, bool)
    first[pool >> np.uint64(44)] = True
    likely = first[values >> np.uint64(44)].nonzero()[0]
    at = np.minimum(np.searchsorted(pool, values[likely]), len(pool) - 1)
    return likely[pool[at] == values[likely]]


def _rolling_hashes(codes: np.ndarray, length: int) -> np.ndarray:
    """The polynomial hash of every run of `length` codes."""
    total = np.zeros(max(len(codes) - length + 1, 0), np.uint64)
    for index in range(length):
        total *= np.uint64(MULTIPLIER)
        total += codes[index : index + len(total)]
    return total


@lru_cache(maxsize=4)
def _word_codes(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes of all words of all texts (as `normalise` leaves them), and where each text's words end."""
    data = np.frombuffer("\n".join([*texts, ""]).encode("utf-8", "surrogatepass"), np.uint8)
    ends = (data <= ord(" ")).nonzero()[0]
    starts = np.concatenate([[0], ends + 1])[:-1]
    is_word = ends > starts  # an empty text has none
    words = np.cumsum(is_word)[data[ends] == ord("\n")]
    starts, ends = starts[is_word], ends[is_word]
    pieces = np.searchsorted(starts, np.arange(0, len(data) + PIECE, PIECE))
    codes = [_hashes(data, starts[one:end], ends[one:end]) for one, end in pairwise(pieces) if one < end]
    return np.concatenate([np.empty(0, np.uint64), *codes]), words


def _hashes(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A hash of each stretch of bytes: the polynomial of its bytes, as the difference of two sums over all before."""
    first = starts[0]
    data = data[first : ends[-1]].astype(np.uint64)
    powers, inverse = _powers(max(2 * PIECE, 1 << len(data).bit_length()))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((data + np.uint64(1)) * powers[: len(data)])])
    hashes = (sums[ends - first] - sums[starts - first]) * inverse[starts - first]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(MIXER)
    return hashes ^ (hashes >> np.uint64(32))


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of MULTIPLIER, and of its inverse, modulo 2^64."""
    powers, inverse = (np.full(count, base, np.uint64) for base in (MULTIPLIER, pow(MULTIPLIER, -1, 2**64)))
    return np.cumprod(powers, dtype=np.uint64), np.cumprod(inverse, dtype=np.uint64)
