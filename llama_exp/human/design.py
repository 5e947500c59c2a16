"""The design of a study: the items and controls, and the balanced random order in which each rater sees them.

Everything follows from the seed and the rater's number, so the same command gives the same study, and raters who join
later change nothing for the others.
"""

import math
import random
from collections.abc import Mapping, Sequence
from itertools import combinations

from llama_exp.human.study import Item, Mode, StudySettings, Trial, identical_replies
from llama_exp.records import Prediction

MIN_GAP = 10  # trials between an item and its repeat, where the queue is long enough
CANDIDATES = 20  # references that are considered as the wrong answer of a control

Predictions = Mapping[str, Sequence[Prediction]]  # condition -> its predictions, all of the same items


def human_reference(prediction: Prediction) -> str:
    """The first reference as raters see it: cleaned like the responses that models learn.

    Its @handles and links would tell that a person wrote it. Scores are computed with the references as written.
    """
    return prediction.response or (prediction.references[0] if prediction.references else "")


def draw_items(conditions: Predictions, settings: StudySettings) -> tuple[dict[str, Item], dict[str, Item]]:
    """(items, controls): a seeded sample of what all conditions answered."""
    first = list(next(iter(conditions.values())))
    random.Random(f"items-{settings.seed}").shuffle(first)
    replies = {name: {p.id: p.reply for p in predictions} for name, predictions in conditions.items()}
    drawn, rest = first[: settings.items], first[settings.items :]
    items = {p.id: _item(p, {name: by_id[p.id] for name, by_id in replies.items()}) for p in drawn}
    pages_per_item = len(conditions) if settings.mode == Mode.scales else math.comb(len(conditions), 2)
    controls = math.ceil(settings.controls * len(items) * pages_per_item)
    return items, _draw_controls(rest + drawn, controls, settings.seed)


def _item(prediction: Prediction, replies: dict[str, str]) -> Item:
    p = prediction
    return Item(p.id, p.prompt, p.references, p.group, replies, p.system, p.history)


def _draw_controls(candidates: Sequence[Prediction], count: int, seed: int) -> dict[str, Item]:
    """Items with a known answer: their own reference is right, that of an item of another group is wrong.

    Items that are not judged come first among the candidates. The wrong answer is the one that shares the fewest words
    with the prompt and the references, so that it cannot be half right.
    """
    rng = random.Random(f"controls-{seed}")
    answered = [p for p in candidates if human_reference(p).strip()]
    controls: dict[str, Item] = {}
    for prediction in answered:
        if len(controls) == count:
            break
        right = _words(*prediction.references)
        context = right | _words(prediction.prompt, *(turn.text for turn in prediction.history))
        others = [human_reference(p) for p in answered if p.group != prediction.group]
        others = rng.sample(others, min(CANDIDATES, len(others)))
        others = [text for text in others if _words(text) - right]
        if others:
            wrong = min(others, key=lambda text: len(_words(text) & context) / len(_words(text)))
            controls[prediction.id] = _item(prediction, {"right": human_reference(prediction), "wrong": wrong})
    return controls


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in text.lower().split()}


def rater_queue(
    items: Mapping[str, Item], controls: Mapping[str, Item], names: Sequence[str], settings: StudySettings, rater: int
) -> tuple[Trial, ...]:
    """What one rater sees: shuffled, with each pair of conditions as often one way round as the other.

    Repeats come MIN_GAP trials or more after the first showing; controls lie anywhere but at the very start.
    """
    rng = random.Random(f"rater-{settings.seed}-{rater}")
    if settings.mode == Mode.scales:
        trials = [Trial("judged", item, name) for item in items for name in names]
        known = [Trial("control", item, "wrong") for item in controls]
    else:
        trials = []
        for pair in combinations(names, 2):
            different = [id for id, item in items.items() if not identical_replies(item, *pair)]
            trials += _pair_trials("judged", different, pair, rng)
        known = _pair_trials("control", list(controls), ("right", "wrong"), rng)
    rng.shuffle(trials)
    queue = [(float(position), trial) for position, trial in enumerate(trials)]
    gap = min(MIN_GAP, len(trials) // 2)
    early = range(len(trials) - gap)
    for position in rng.sample(early, min(len(early), math.ceil(settings.repeats * len(trials)))):
        trial = trials[position]
        left, right = (trial.right, trial.left) if trial.right else (trial.left, "")
        queue.append((rng.uniform(position + gap, len(trials)), Trial("repeat", trial.item, left, right)))
    queue += [(rng.uniform(0.5, len(trials)), trial) for trial in known]
    return tuple(trial for _, trial in sorted(queue, key=lambda entry: entry[0]))


def _pair_trials(kind: str, items: Sequence[str], pair: tuple[str, str], rng: random.Random) -> list[Trial]:
    """A trial per item, half of them (within one) the other way round."""
    orders = [pair, pair[::-1]]
    rng.shuffle(orders)
    sides = [orders[i % 2] for i in range(len(items))]
    rng.shuffle(sides)
    return [Trial(kind, item, *side) for item, side in zip(items, sides, strict=True)]
