"""A study: which replies are judged, by whom, in which blind order. No web here, and no ratings.

    python -m llama_exp.human.study study=outputs/human/first items=50 raters=2 \
        tuned=outputs/squad/tiny-1000-r8-seed0/eval/squad-test-300 human=reference

    evaluations -> Item (prompt, a reply per condition) -> Trial (left, right) x raters -> study.json

A *condition* is a finished evaluation or `reference`, the first human reference. A study holds all its texts, so that
nothing that happens to the evaluations later can change it. Each rater's queue comes from the seed and their number.
"""

import dataclasses
import json
import math
import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from llama_exp.errors import UserError
from llama_exp.records import Prediction, Turn
from llama_exp.runs.files import parse_turns, read_predictions, write_json

REFERENCE = "reference"
GAP = 10  # trials between an item and its repeat, where the queue is long enough


@dataclass(frozen=True, slots=True)
class Item:
    """What is asked, and the replies to it. Of a control the replies are "right" and "wrong".

    system, history    what the model was told it is, and the conversation before the prompt: raters read both
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
    """Everything but the ratings. `queues[0]` is what rater 1 sees, in order."""

    settings: dict[str, Any]
    conditions: dict[str, dict[str, Any]]  # name -> folder, metrics, scores
    available: int  # items that could have been drawn
    items: dict[str, Item]
    controls: dict[str, Item]
    queues: tuple[tuple[Trial, ...], ...]

    @property
    def on_scales(self) -> bool:
        return self.settings["mode"] == "scales"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two conditions, in the order in which they were named."""
        return list(combinations(self.conditions, 2))

    def item(self, trial: Trial) -> Item:
        return (self.controls if trial.kind == "control" else self.items)[trial.item]

    def texts(self, trial: Trial) -> list[str]:
        """The answers as they stand on the page, left first."""
        return [self.item(trial).replies[name] for name in (trial.left, trial.right) if name]


def same(item: Item, one: str, other: str) -> bool:
    """Whether two conditions gave the same words: nobody is asked, and it counts as a tie."""
    return item.replies[one].split() == item.replies[other].split()


def item_of(p: Prediction, replies: dict[str, str]) -> Item:
    return Item(p.id, p.prompt, p.references, p.group, replies, p.system, p.history)


def human(p: Prediction) -> str:
    """The first human reference as raters see it: cleaned like what models learn, or its @handles and links would tell
    whose it is. Scores are over the references as written."""
    return p.response or (p.references[0] if p.references else "")


def draw(conditions: dict[str, Sequence[Prediction]], settings: dict[str, Any]) -> tuple[dict, dict]:
    """(items, controls) of a study: a seeded sample of what all conditions answered. UserError where they differ."""
    check_items(conditions)
    first = next(iter(conditions.values()))
    order = list(range(len(first)))
    random.Random(f"items-{settings['seed']}").shuffle(order)
    places = {name: {p.id: p for p in predictions} for name, predictions in conditions.items()}

    def made(p: Prediction) -> Item:
        return item_of(p, {name: found[p.id].reply for name, found in places.items()})

    items = {first[i].id: made(first[i]) for i in order[: settings["items"]]}
    spare = [first[i] for i in order[settings["items"] :]] + [first[i] for i in order[: settings["items"]]]
    return items, draw_controls(spare, settings, len(items) * pages_an_item(len(conditions), settings))


def pages_an_item(conditions: int, settings: dict[str, Any]) -> int:
    return conditions if settings["mode"] == "scales" else math.comb(conditions, 2)


def draw_controls(spare: Sequence[Prediction], settings: dict[str, Any], pages: int) -> dict[str, Item]:
    """Items with a known answer: their own reference is right, that of an item of another group is wrong.

    `spare` is in the order of preference: items that are not judged come first. Of 20 candidates the wrong answer is
    the one with the fewest words of the prompt and the references, so that it cannot be half right.
    """
    rng = random.Random(f"controls-{settings['seed']}")
    answered = [p for p in spare if human(p).strip()]
    controls: dict[str, Item] = {}
    for prediction in answered:
        if len(controls) == math.ceil(settings["controls"] * pages):
            break
        before = [turn.text for turn in prediction.history]
        known = words(" ".join([*before, prediction.prompt, *prediction.references]))
        others = [human(p) for p in answered if p.group != prediction.group]
        others = rng.sample(others, min(20, len(others)))
        others = [text for text in others if words(text) - words(" ".join(prediction.references))]
        if others:
            wrong = min(others, key=lambda text: len(words(text) & known) / len(words(text)))
            controls[prediction.id] = item_of(prediction, {"right": human(prediction), "wrong": wrong})
    return controls


def words(text: str) -> set[str]:
    return set(text.lower().split())


def check_items(conditions: dict[str, Sequence[Prediction]]) -> None:
    """UserError, naming the ids, where the conditions did not answer the same items with the same words before them."""
    (name, first), *others = conditions.items()
    wanted = {p.id: (p.prompt, p.system, p.history) for p in first}
    told = []
    for other, predictions in others:
        got = {p.id: (p.prompt, p.system, p.history) for p in predictions}
        for who, missing in ((name, wanted.keys() - got.keys()), (other, got.keys() - wanted.keys())):
            if missing:
                told.append(f"only {who} has {listed(missing)}")
        asked = {i for i in wanted.keys() & got.keys() if wanted[i] != got[i]}
        if asked:
            told.append(f"{name} and {other} were asked differently in {listed(asked)}")
    if told:
        advice = "Evaluate all of them on the same: the same dataset, split, eval_sample and eval_seed."
        raise UserError(f"The evaluations hold different items: {'; '.join(told)}. {advice}")


def listed(ids: set[str]) -> str:
    shown = ", ".join(sorted(ids)[:5])
    return f"{len(ids)} item{'s' if len(ids) > 1 else ''} ({shown}{', …' if len(ids) > 5 else ''})"


def queue(
    items: dict[str, Item], controls: dict[str, Item], names: Sequence[str], settings: dict[str, Any], rater: int
) -> tuple[Trial, ...]:
    """What one rater sees: shuffled; each pair of conditions as often one way round as the other."""
    rng = random.Random(f"rater-{settings['seed']}-{rater}")
    if settings["mode"] == "scales":
        trials = [Trial("judged", i, name) for i in items for name in names]
        known = [Trial("control", i, "wrong") for i in controls]
    else:
        trials = []
        for pair in combinations(names, 2):
            judged = [i for i, item in items.items() if not same(item, *pair)]
            trials += [
                Trial("judged", i, *sides) for i, sides in zip(judged, swapped(pair, len(judged), rng), strict=True)
            ]
        ways = swapped(("right", "wrong"), len(controls), rng)
        known = [Trial("control", i, *sides) for i, sides in zip(controls, ways, strict=True)]
    rng.shuffle(trials)
    placed = [(float(place), trial) for place, trial in enumerate(trials)]
    gap = min(GAP, len(trials) // 2)
    early = range(len(trials) - gap)
    for place in rng.sample(early, min(len(early), math.ceil(settings["repeats"] * len(trials)))):
        trial = trials[place]
        turned = (trial.right, trial.left) if trial.right else (trial.left, "")
        placed.append((rng.uniform(place + gap, len(trials)), Trial("repeat", trial.item, *turned)))
    placed += [(rng.uniform(0.5, len(trials)), trial) for trial in known]
    return tuple(trial for _, trial in sorted(placed, key=lambda at: at[0]))


def swapped(pair: tuple[str, str], count: int, rng: random.Random) -> list[tuple[str, str]]:
    """`count` copies of a pair, half of them (within one) the other way round, shuffled."""
    ways = [pair, pair[::-1]]
    rng.shuffle(ways)
    sides = [ways[i % 2] for i in range(count)]
    rng.shuffle(sides)
    return sides


def write(study: Study, folder: Path) -> None:
    write_json(folder / "study.json", dataclasses.asdict(study))


def read(folder: Path) -> Study:
    """The study in a folder. UserError, with the command that makes one, where there is none."""
    path = Path(folder) / "study.json"
    if not path.is_file():
        make = f"python -m llama_exp.human.study study={folder} NAME=EVALUATION NAME=EVALUATION"
        raise UserError(f"No study at {path}. Make it first: {make}")
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        for key in ("items", "controls"):
            kept[key] = {
                i: Item(**{**v, "references": tuple(v["references"]), "history": parse_turns(v.get("history", ()))})
                for i, v in kept[key].items()
            }
        kept["queues"] = tuple(tuple(Trial(**trial) for trial in each) for each in kept["queues"])
        return Study(**kept)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a study ({error}). Delete its folder and make it again.") from None


def instead(name: str, folder: Path) -> str:
    """What to type for a condition whose folder is no finished evaluation."""
    if not folder.is_dir():
        return "there is no such folder"
    finished = sorted(
        path.parent for path in folder.glob("**/results.json") if path.with_name("predictions.jsonl").is_file()
    )
    if finished:  # a run's folder, or one of several runs
        more = f" (or another of {len(finished)})" if len(finished) > 1 else ""
        return f"evaluations lie below that folder: type {shlex.quote(f'{name}={finished[0]}')}{more}"
    if (folder / "predictions.jsonl").is_file():
        return "finish it with the same python evaluate.py …"
    return "it holds none: make one with python evaluate.py …"


def read_condition(name: str, place: str) -> tuple[list[Prediction], dict[str, Any]]:
    """The predictions of a finished evaluation, and what is known of it."""
    folder = Path(place)
    for file in ("predictions.jsonl", "results.json"):
        if not (folder / file).is_file():
            raise UserError(
                f"{name}={place}: wanted a finished evaluation, with {file} in it; {instead(name, folder)}. "
                f"Or {name}={REFERENCE}, the human reference."
            )
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    about = {
        "folder": str(folder),
        "metrics": results.get("metrics", []),
        "scores": results.get("scores", {}),
        "facts": results.get("facts", {}),
    }
    return read_predictions(folder / "predictions.jsonl"), about


if __name__ == "__main__":
    from llama_exp.human.create import main

    main()
