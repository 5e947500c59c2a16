"""Read what a study compares: finished evaluations and the human reference, all of the same items."""

import dataclasses
import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.human.design import human_reference
from llama_exp.human.study import REFERENCE, Condition, Mode, StudySettings
from llama_exp.programs import program
from llama_exp.records import Prediction
from llama_exp.runs.files import read_predictions
from llama_exp.runs.results import read_results
from llama_exp.sanitize import reason

WITHOUT_CONVERSATION = """\
  The evaluations are of an earlier version: raters see the last message of a conversation alone, and references
  as written. To have them see all of it, move the evaluations elsewhere and evaluate again."""

Conditions = dict[str, tuple[list[Prediction], Condition]]  # name -> its predictions, and what is known of it


def read_conditions(folders: Mapping[str, str], mode: Mode) -> Conditions:
    """The conditions of a study, in the order of `folders`: {name: folder of an evaluation, or "reference"}.

    Raises UserError where one is no finished evaluation, there are too few, or they answered different items.
    """
    _check_names(folders, mode)
    evaluations = {name: read_evaluation(name, Path(f)) for name, f in folders.items() if f != REFERENCE}
    evaluations = _with_conversations(evaluations)
    first, _ = next(iter(evaluations.values()))
    missing = [p.id for p in first if not p.references]
    if missing and REFERENCE in folders.values():
        raise UserError(f"There is no human reference for {_items(missing)}.")
    if not any(p.has_context for p in first):
        print(WITHOUT_CONVERSATION)
    reference = [dataclasses.replace(p, reply=human_reference(p)) for p in first]
    read = {name: evaluations.get(name, (reference, Condition(REFERENCE))) for name in folders}
    _check_same_items({name: predictions for name, (predictions, _) in read.items()})
    return read


def _check_names(folders: Mapping[str, str], mode: Mode) -> None:
    settings = [field.name for field in dataclasses.fields(StudySettings)]
    for name, folder in folders.items():
        near = difflib.get_close_matches(name, settings, n=1)
        if near and folder != REFERENCE and not Path(folder).is_dir():
            raise UserError(
                f"{name}={folder}: {name} is not an option, so it names a condition, which must be the folder of a "
                f"finished evaluation; there is no such folder. Did you mean {shlex.quote(f'{near[0]}={folder}')}?"
            )
    needed = 1 if mode == Mode.scales else 2
    if len(folders) < needed or not any(folder != REFERENCE for folder in folders.values()):
        raise UserError(
            f"mode={mode} compares {needed} or more conditions, at least one of them an "
            f"evaluation; got {', '.join(folders) or 'none'}. Type for example tuned=outputs/…/eval/… "
            f"untuned=outputs/…/eval/… or human={REFERENCE}."
        )
    different = {folder if folder == REFERENCE else str(Path(folder).resolve()) for folder in folders.values()}
    if len(different) < len(folders):
        raise UserError("Two conditions are the same evaluation: nothing to compare. Name different ones.")


def read_evaluation(name: str, folder: Path) -> tuple[list[Prediction], Condition]:
    """The predictions of a finished evaluation, and what is known of it."""
    for file in ("predictions.jsonl", "results.json"):
        if not (folder / file).is_file():
            raise UserError(
                f"{name}={folder}: wanted a finished evaluation, with {file} in it; {_advice(name, folder)}. "
                f"Or {name}={REFERENCE}, the human reference."
            )
    try:
        results = read_results(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}={folder}: results.json is damaged ({reason(error)}). Score the replies again with the same "
            f"{program('evaluate')} …"
        ) from None
    about = Condition(str(folder), results.metrics, results.scores, results.facts)
    return read_predictions(folder / "predictions.jsonl"), about


def _advice(name: str, folder: Path) -> str:
    """What to type for a folder that holds no finished evaluation itself."""
    if not folder.is_dir():
        return "there is no such folder"
    below = [path.parent for path in folder.glob("**/results.json") if path.with_name("predictions.jsonl").is_file()]
    if below:  # the folder of a run, or of several
        more = f" (or another of {len(below)})" if len(below) > 1 else ""
        return f"there are evaluations below that folder: type {shlex.quote(f'{name}={min(below)}')}{more}"
    if (folder / "predictions.jsonl").is_file():
        return f"finish it with the same {program('evaluate')} …"
    return f"there is none: make one with {program('evaluate')} …"


def _with_conversations(evaluations: Conditions) -> Conditions:
    """The same; an evaluation that lacks the conversation before a prompt gets it from one that has it."""
    known = {(p.id, p.prompt): p for predictions, _ in evaluations.values() for p in predictions if p.has_context}

    def complete(p: Prediction) -> Prediction:
        source = p if p.has_context else known.get((p.id, p.prompt), p)
        return dataclasses.replace(p, response=source.response, system=source.system, history=source.history)

    return {name: ([complete(p) for p in predictions], about) for name, (predictions, about) in evaluations.items()}


def _check_same_items(conditions: Mapping[str, Sequence[Prediction]]) -> None:
    """UserError, naming the ids, where the conditions answered different items or after different words."""
    asked = {
        name: {p.id: (p.prompt, p.system, p.history) for p in predictions} for name, predictions in conditions.items()
    }
    first, *others = asked
    problems = []
    for other in others:
        for name, extra in ((first, asked[first].keys() - asked[other]), (other, asked[other].keys() - asked[first])):
            if extra:
                problems.append(f"only {name} has {_items(extra)}")
        changed = {id for id in asked[first].keys() & asked[other] if asked[first][id] != asked[other][id]}
        if changed:
            problems.append(f"the prompts of {first} and {other} differ in {_items(changed)}")
    if problems:
        raise UserError(
            f"The evaluations hold different items: {'; '.join(problems)}. "
            "Evaluate all of them on the same: the same dataset, split, eval_sample and eval_seed."
        )


def _items(ids: Iterable[str]) -> str:
    """`7 items (a, b, c, d, e, …)`."""
    ids = sorted(ids)
    return f"{plural(len(ids), 'item')} ({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})"
