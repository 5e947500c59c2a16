"""A study: which replies are judged, by whom, in which blind order. Everything but the ratings.

    evaluations -> Item (prompt, a reply per condition) -> Trial (left, right) x raters -> study.json

A *condition* is a finished evaluation, or `reference`: the first human reference. A study holds all its texts, so that
nothing that happens to the evaluations later can change it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

from llama_exp.config.options import REQUIRED, option
from llama_exp.errors import UserError
from llama_exp.records import Turn
from llama_exp.runs.files import parse_turns, read_json, remove_leftovers, write_json
from llama_exp.sanitize import clean

STUDY = "study.json"
REFERENCE = "reference"
KEEP_RATINGS = "Put study.json back from a copy. Keep ratings.sqlite beside it: it holds what raters gave."


class Mode(StrEnum):
    pairs = "pairs"
    scales = "scales"


@dataclass
class StudySettings:
    """What a study is made of. The defaults are in conf/study.yaml."""

    DEFAULTS: ClassVar = "study.yaml"

    items: int = option(REQUIRED, "held-out items, drawn by the seed; all of them where there are fewer")
    raters: int = option(REQUIRED, "links; all raters judge the same items, each in an order of their own")
    mode: Mode = option(REQUIRED, "pairs: which of two answers is better; scales: one answer at a time, rated 1 to 5")
    repeats: float = option(REQUIRED, "share of the trials shown a second time, sides swapped: a rater's consistency")
    controls: float = option(REQUIRED, "share of trials added with a known answer: a reference against another item's")
    seed: int = option(REQUIRED, "which items are drawn, and in which order each rater sees them")
    title: str = option(REQUIRED, "on top of the page")
    question: str = option(REQUIRED, "mode=pairs: what a rater is asked")
    consent: str = option(REQUIRED, "what raters read before they start")
    scales: dict[str, str] = option(REQUIRED, "mode=scales: what a rater is asked, '{fluency: Is it …?, …}'")
    scale_ends: list[str] = option(REQUIRED, "what 1 and 5 mean")
    control_scale: str = option(REQUIRED, "a control (an answer to another question) fails where this is rated above 3")


@dataclass(frozen=True, slots=True)
class Condition:
    """Where the replies of a condition come from: the folder of an evaluation, or REFERENCE, and what that measured."""

    folder: str
    metrics: list[str] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # {metric: encoder, layer …}


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and the replies to it. Those of a control are called "right" and "wrong".

    system, history    the system prompt and the conversation before the prompt: raters read both
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    group: str
    replies: dict[str, str]
    system: str = ""
    history: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One page of one rater. `left` and `right` name conditions; on scales there is only `left`.

    kind    "judged", "repeat" (seen before, sides swapped) or "control" (the answer is known)
    """

    kind: str
    item: str
    left: str
    right: str = ""

    @property
    def pair(self) -> tuple[str, ...]:
        """The conditions, whichever side they are on."""
        return tuple(sorted(name for name in (self.left, self.right) if name))


@dataclass(frozen=True, slots=True)
class Study:
    """`queues[0]` is what rater 1 sees, in order; `available` counts the items that could have been drawn.

    fingerprint    what study.json says of itself, "" in those of earlier versions; ratings.sqlite holds the same
    """

    settings: StudySettings
    conditions: dict[str, Condition]
    available: int
    items: dict[str, Item]
    controls: dict[str, Item]
    queues: tuple[tuple[Trial, ...], ...]
    fingerprint: str = ""

    @property
    def on_scales(self) -> bool:
        return self.settings.mode == Mode.scales

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two conditions, in the order in which they were named."""
        return list(combinations(self.conditions, 2))

    def item(self, trial: Trial) -> Item:
        return (self.controls if trial.kind == "control" else self.items)[trial.item]

    def answers(self, trial: Trial) -> list[str]:
        """The replies on a page, left first."""
        return [self.item(trial).replies[name] for name in (trial.left, trial.right) if name]


def identical_replies(item: Item, first: str, second: str) -> bool:
    """Whether two conditions gave the same words. Such a pair counts as a tie without being shown to anybody."""
    return item.replies[first].split() == item.replies[second].split()


def fingerprint(study: Study) -> str:
    """What ratings refer to, as a SHA-256: texts, scales and the order of pages. Further raters do not change it."""
    texts = {
        kind: [
            [
                id,
                item.system,
                [[turn.role, turn.text] for turn in item.history],
                item.prompt,
                sorted(item.replies.items()),
            ]
            for id, item in sorted(items.items())
        ]
        for kind, items in (("items", study.items), ("controls", study.controls))
    }
    pages = [[trial.kind, trial.item, trial.left, trial.right] for trial in study.queues[0]]
    scales = sorted(study.settings.scales) if study.on_scales else []
    return hashlib.sha256(json.dumps([texts, pages, scales], sort_keys=True).encode()).hexdigest()


def write_study(folder: Path, study: Study) -> None:
    write_json(folder / STUDY, dataclasses.asdict(study))


def read_study(folder: Path) -> Study:
    """The study in a folder. UserError, with the command that creates one, where there is none."""
    path = Path(folder) / STUDY
    if not path.is_file():
        create = f"llama-exp study create study={folder} NAME=EVALUATION NAME=EVALUATION"
        raise UserError(f"No study at {path}. Create it first: {create}")
    remove_leftovers(folder)
    try:
        stored = read_json(path)
        stored["settings"] = StudySettings(**stored["settings"])
        stored["conditions"] = {name: Condition(**fields) for name, fields in stored["conditions"].items()}
        for key in ("items", "controls"):
            stored[key] = {id: _parse_item(fields) for id, fields in stored[key].items()}
        stored["queues"] = tuple(tuple(Trial(**trial) for trial in queue) for queue in stored["queues"])
        study = Study(**stored)
        now = fingerprint(study)
    except (OSError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a study ({clean(error, 200)}). {KEEP_RATINGS} If there is no copy, remove study.json alone "
            "and type the command that created the study: it is the same study again if nothing it read has changed."
        ) from None
    if study.fingerprint not in ("", now):
        raise UserError(
            f"{path} was changed after the study was created: its texts, scales or pages do not have its fingerprint. "
            f"{KEEP_RATINGS}"
        )
    return study


def _parse_item(fields: dict[str, Any]) -> Item:
    """An Item from JSON; studies of earlier versions have no history."""
    history = parse_turns(fields.get("history", ()))
    return Item(**{**fields, "references": tuple(fields["references"]), "history": history})


if __name__ == "__main__":  # until 0.3
    from llama_exp.cli.main import run_old_name

    run_old_name("llama_exp.human.study", "study create")
