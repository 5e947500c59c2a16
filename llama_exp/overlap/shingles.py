"""Shingles of words (shingles) of many texts at once, as hashes that are the same on every machine. Pure numpy."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np

TEMPLATE_SHARE = 0.05  # runs of words in more than this share of the distinct texts on both sides are the template's


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

    A rolling polynomial over word hashes (wraps around 2^64): no string is built per run. crc32 is the same on every
    machine, unlike Python's own hash.
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
    marked = total ^ (owner.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93))  # alike only within a text
    ordered = np.sort(marked)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    new = np.ones(len(total), bool)
    if len(repeated):
        at = np.minimum(np.searchsorted(repeated, marked), len(repeated) - 1)
        again = (repeated[at] == marked).nonzero()[0]
        new[again] = False
        new[again[np.unique(marked[again], return_index=True)[1]]] = True  # the first of each
    values, counts = np.unique(total[new], return_counts=True)
    return Shingles(total[new], owner[new], len(texts), values[counts > max(TEMPLATE_SHARE * len(texts), 20)])


def _rolling_hashes(codes: np.ndarray, length: int) -> np.ndarray:
    """The polynomial hash of every run of `length` codes."""
    total = np.zeros(max(len(codes) - length + 1, 0), np.uint64)
    for index in range(length):
        total *= np.uint64(0x9E3779B97F4A7C15)
        total += codes[index : index + len(total)]
    return total


@lru_cache(maxsize=4)
def _word_codes(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The codes of all words of all texts, and where each text's words end."""
    words = [text.split() for text in texts]
    codes = np.array([_word(word) for text in words for word in text], np.uint64)
    return codes, np.cumsum([len(text) for text in words], dtype=np.int64)


@lru_cache(maxsize=2**20)  # texts repeat their words
def _word(word: str) -> int:
    """A word's 62-bit code."""
    data = word.encode("utf-8", "surrogatepass")
    return (crc32(data) << 30) ^ crc32(data[::-1] + b"\x01")
