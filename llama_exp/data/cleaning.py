"""Cleaning rules, each with a name, a switch in YAML (`dataset.cleaning.urls=false`) and a count of what it did.

They are applied to what a model reads and learns, never to references: no switch can move a score by changing the
right answers. People who compare a reference with replies are shown it cleaned (human/study.py).
"""

import html
import re
from collections import Counter

from llama_exp.errors import UserError

# Where a tweet can end: with the text, or before the next tweet (`@handle …`), a link, a part count ("2/3", "(1/2)").
END = r"(?=\s*[.…]*\s*(?:$|\n|@\w|https?://|[(\[]?\d{1,2}/\d{1,2}\b))"
DAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|(?:Jan|Febr)uary|March|April|May\b|June|July|August|\w+ber\b|[AP]M\b"
# An agent signs at the end of a tweet. What stands before a dash tells a name from "take-off", "LAX-SFO", "9 - Friday".
SIGNATURE = re.compile(
    r"\s*(?:(?<!\d)|(?<=/\d))(?<!\^)\^ ?[A-Za-z][A-Za-z.]{0,11}(?: [A-Z]\b\.?| \.$)?(?![A-Za-z_^])"
    + END  # not 2^n
    + r"|(?<=\s)/[A-Z]{1,3}\b"
    + END  # … suggest /MC; not 24/7, Device/OS
    + r"|(?<=[\s.!?)])\*[A-Z][A-Za-z]{1,19}"
    + END  # … miles. *AMV; not *bold*, *140#
    + r"|(?:(?P<closing>(?i:\bthanks?|\bthank you|\bty|regards)|_|[^\s\w@#/+&%$€£-])\s*"  # Thanks-Floi; you? - Ed
    + r"|(?P<word>(?<=\s)[a-z][\w']*)(?:\s+|(?=[–—~])))"  # … for you - Ed
    + r"(?:--?|[–—~])\s?(?!"
    + DAY
    + r")[A-Z][A-Za-z]{0,11}"
    + END
)
ENTITY = re.compile(r"&#?\w{2,31};")
# The full stop after a link ends the sentence: it stays.
LINK = r"(?:https?://t\.co/\w+|(?<!\w)(?:https?://|www\.)\S+?(?=[.,;:!?…)\]\"'”’]*(?:\s|$)))"
URL = re.compile(rf"\({LINK}\)|\s+{LINK}(?=[.,;:!?])|{LINK}")
HANDLE = re.compile(r"(?<![\w@])@(?!\d{1,2}(?:[ap]m)?\b)\w+(?:['’]s\b)?", re.IGNORECASE)  # not a@b.org, @ 5, @5pm
SEPARATOR = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")  # control characters that stand between words or lines
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\u200b\u2060\ufeff]")  # not the joiner U+200D: it makes emoji
# "… the following:     - Fever.    -  Rash": a list that lost its lines.
ITEM = re.compile(r"(?<=\S)[ \t\xa0]{2,}-\s+(?=[^\W\d])")


def control_characters(text: str) -> str:
    return CONTROL.sub("", SEPARATOR.sub(" ", text))


def html_entities(text: str) -> str:
    """`&amp;` -> `&`. Only with its semicolon: `html.unescape` would also turn "&not" into "¬"."""
    return ENTITY.sub(lambda found: html.unescape(found.group()), text)


def signatures(text: str) -> str:
    return SIGNATURE.sub(lambda found: found["closing"] or found["word"] or "", text)


def urls(text: str) -> str:
    return URL.sub("", text)


def handles(text: str) -> str:
    """All of them, inside a sentence too: most are numbers that stand for a hidden name."""
    return HANDLE.sub("", text)


def whitespace(text: str) -> str:
    """Runs of blanks to one, at most one empty line, and a list's items on lines of their own again."""
    lines = (" ".join(line.split()) for line in ITEM.sub("\n- ", text).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


# In this order: entities may hide anything; a signature is known by the link or handle after it, so it goes first.
RULES = {
    "html_entities": html_entities,
    "control_characters": control_characters,
    "signatures": signatures,
    "urls": urls,
    "handles": handles,
    "whitespace": whitespace,
}
AGENTS_ONLY = {"signatures"}
KNOWN = (*RULES, "duplicates")  # duplicates drops whole Examples, so the data module applies it


class Cleaner:
    """The rules that are switched on, and what each one did: `counts == {"urls": {"rows": 812, "characters": 19004}}`.

    A row counts once for a rule, however many of its texts were changed. Characters are those taken out.
    Raises UserError for a switch that is no rule.
    """

    def __init__(self, switches: dict[str, bool]):
        unknown = sorted(set(switches) - set(KNOWN))
        if unknown:
            raise UserError(f"dataset.cleaning: unknown rule {', '.join(unknown)}; known: {', '.join(KNOWN)}.")
        self.rules = [(name, rule) for name, rule in RULES.items() if switches.get(name)]
        self.duplicates = bool(switches.get("duplicates"))
        self.counts = {name: {"rows": 0, "characters": 0} for name in KNOWN if switches.get(name)}
        self._row: Counter[str] = Counter()  # characters by rule, in the row being read

    def __call__(self, text: str, agent: bool = False) -> str:
        """The cleaned text. `agent`: whether an agent wrote it, who may have signed."""
        for name, rule in self.rules:
            if agent or name not in AGENTS_ONLY:
                cleaned = rule(text)
                if cleaned != text:
                    self._row[name] += len(text) - len(cleaned)
                    text = cleaned
        return text

    def end_row(self) -> None:
        """Book what was changed since the last call as one row."""
        for name, characters in self._row.items():
            self._book(name, characters)
        self._row.clear()

    def repeated(self, characters: int) -> None:
        """Book one dropped duplicate."""
        self._book("duplicates", characters)

    def _book(self, name: str, characters: int) -> None:
        self.counts[name]["rows"] += 1
        self.counts[name]["characters"] += characters
