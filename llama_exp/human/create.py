"""Make a study from finished evaluations: the command behind `python -m llama_exp.human.study`."""

import dataclasses
import difflib
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llama_exp.cli.main import run_command
from llama_exp.config.compose import CONF
from llama_exp.errors import UserError
from llama_exp.human import study as design
from llama_exp.human.keys import given
from llama_exp.human.metrics import carried
from llama_exp.human.store import Store
from llama_exp.human.study import REFERENCE, Study
from llama_exp.records import Prediction
from llama_exp.runs.files import write_json
from llama_exp.statistics.words import count_of


class Mode(Enum):
    pairs = "pairs"
    scales = "scales"


@dataclass
class StudySettings:
    """The types of conf/study.yaml."""

    items: int
    raters: int
    mode: Mode
    repeats: float
    controls: float
    seed: int
    title: str
    question: str
    consent: str
    scales: dict[str, str]
    scale_ends: list[str]
    control_scale: str


def main() -> None:
    run_command(lambda: print(describe_study(*make(given(sys.argv[1:], "llama_exp.human.study")))))


def make(words: dict[str, str]) -> tuple[Path, Study]:
    folder = Path(words.pop("study"))
    names = {field.name for field in dataclasses.fields(StudySettings)}
    options = {key: value for key, value in words.items() if key in names}
    return folder, create_study(folder, {key: path for key, path in words.items() if key not in names}, options)


def create_study(folder: Path, conditions: Mapping[str, str], options: Mapping[str, str]) -> Study:
    """Draw a study and write it to `folder`; a study that is there with the same settings may get more raters.

    conditions    {name: the folder of a finished evaluation, or "reference"}
    options       what differs from conf/study.yaml, as text
    """
    settings = settled(options)
    read = read_conditions(conditions, settings)
    items, controls = design.draw({name: predictions for name, (predictions, _) in read.items()}, settings)
    about = {name: known for name, (_, known) in read.items()}
    queues = tuple(design.queue(items, controls, list(about), settings, 1 + i) for i in range(settings["raters"]))
    if not queues[0]:
        raise UserError("Nothing to judge: the conditions gave the same answer to every item.")
    made = Study(settings, about, len(next(iter(read.values()))[0]), items, controls, queues)
    if (folder / "study.json").is_file():
        made = grown(design.read(folder), made, folder)
    elif measured := carried(read, items):
        write_json(folder / "metrics.json", measured)
    design.write(made, folder)
    Store(folder).invite(len(made.queues))
    return made


def settled(words: Mapping[str, str]) -> dict[str, Any]:
    """conf/study.yaml and the words, typed; several problems come in one message."""
    defaults = OmegaConf.merge(OmegaConf.structured(StudySettings), OmegaConf.load(CONF / "study.yaml"))
    problems = []
    for key, value in words.items():
        try:
            if key in ("scales", "scale_ends"):
                raise UserError(f"{key} is set in conf/study.yaml, not on the command line.")
            defaults[key] = value
        except (OmegaConfBaseException, UserError) as error:
            problems.append(f"{key}={value}: {str(error).splitlines()[0]}")
    settings = {**dataclasses.asdict(OmegaConf.to_object(defaults))}
    settings["mode"] = settings["mode"].value
    problems += [f"{key}={settings[key]}: wanted at least 1." for key in ("items", "raters") if settings[key] < 1]
    problems += [
        f"{key}={settings[key]}: wanted a share from 0 to 1."
        for key in ("repeats", "controls")
        if not 0 <= settings[key] <= 1
    ]
    if settings["mode"] == "scales" and settings["control_scale"] not in settings["scales"]:
        problems.append(f"control_scale={settings['control_scale']}: wanted one of {', '.join(settings['scales'])}.")
    if problems:
        raise UserError("\n".join(problems))
    return settings


def read_conditions(places: Mapping[str, str], settings: dict[str, Any]) -> dict[str, tuple[list[Prediction], dict]]:
    """{name: (predictions, what is known of it)}, the human reference among them where it was asked for."""
    for name, place in places.items():
        near = difflib.get_close_matches(name, [field.name for field in dataclasses.fields(StudySettings)], n=1)
        if near and place != REFERENCE and not Path(place).is_dir():
            raise UserError(
                f"{name}={place}: wanted a finished evaluation, as every word that is no setting names a condition, and "
                f"there is no such folder. Did you mean {shlex.quote(f'{near[0]}={place}')}?"
            )
    needed = 1 if settings["mode"] == "scales" else 2
    evaluations = [name for name, place in places.items() if place != REFERENCE]
    if len(places) < needed or not evaluations:
        raise UserError(
            f"mode={settings['mode']} compares {needed} or more conditions, at least one of them an "
            f"evaluation; got {', '.join(places) or 'none'}. Type for example tuned=outputs/…/eval/… "
            f"untuned=outputs/…/eval/… or human={REFERENCE}."
        )
    where = [str(Path(place).resolve()) if place != REFERENCE else place for place in places.values()]
    if len(set(where)) < len(where):
        raise UserError("Two conditions are the same evaluation: nothing to compare. Name different ones.")
    read = completed({name: design.read_condition(name, places[name]) for name in evaluations})
    base = read[evaluations[0]][0]
    lost = {p.id for p in base if not p.references} if REFERENCE in places.values() else set()
    if lost:
        raise UserError(f"There is no human reference for {design.listed(lost)}.")
    if not any(p.has_context for p in base):
        print(
            "  The evaluations are of an earlier version: raters see the last message of a conversation alone, and references\n"
            "  as written. To have them see all of it, delete these folders and evaluate again."
        )
    written = [dataclasses.replace(p, reply=design.human(p)) for p in base if p.references]
    about = {"folder": REFERENCE, "metrics": [], "scores": {}}
    return {name: read.get(name, (written, about)) for name in places}


def completed(read: dict[str, tuple[list[Prediction], dict]]) -> dict[str, tuple[list[Prediction], dict]]:
    """The same, where evaluations of an earlier version lack what came before a prompt taken from one that has it."""
    whole = {(p.id, p.prompt): p for predictions, _ in read.values() for p in predictions if p.has_context}

    def full(p: Prediction) -> Prediction:
        known = p if p.has_context else whole.get((p.id, p.prompt), p)
        return dataclasses.replace(p, response=known.response, system=known.system, history=known.history)

    return {name: ([full(p) for p in predictions], about) for name, (predictions, about) in read.items()}


def grown(old: Study, new: Study, folder: Path) -> Study:
    """The study that is there, with the further raters of `new`. UserError where anything else differs."""
    differ = [key for key in new.settings if key != "raters" and old.settings.get(key) != new.settings[key]]
    if {n: c["folder"] for n, c in old.conditions.items()} != {n: c["folder"] for n, c in new.conditions.items()}:
        differ.append("conditions")
    if not differ and (old.items, old.controls) != (new.items, new.controls):
        differ.append("replies (the evaluations were made again)")
    if differ:
        raise UserError(
            f"{folder} holds another study; it differs in {', '.join(differ)}. Ratings belong to the study "
            f"they were given in: name another folder, or delete this one."
        )
    if len(new.queues) <= len(old.queues):
        return old
    return dataclasses.replace(old, settings=new.settings, queues=old.queues + new.queues[len(old.queues) :])


def describe_study(folder: Path, study: Study) -> str:
    """What was created, and what to type next."""
    kinds = [trial.kind for trial in study.queues[0]]
    equal = sum(design.same(item, *pair) for item in study.items.values() for pair in study.pairs)
    lines = [
        f"{folder}: {len(study.items)} of {study.available} items, {' against '.join(study.conditions)}; "
        f"{count_of(len(study.queues), 'rater')}, {len(kinds)} pages each: {kinds.count('judged')} judged, "
        f"{count_of(kinds.count('repeat'), 'repeat')}, {count_of(kinds.count('control'), 'control')}."
    ]
    if equal and not study.on_scales:
        lines.append(f"  {equal} pairs of answers are word for word the same: nobody is asked, they count as ties.")
    if study.settings["controls"] and not study.controls:
        lines.append("  No controls: they need references that differ, from at least two groups.")
    return "\n".join([*lines, f"Next: python -m llama_exp.human.app study={shlex.quote(str(folder))}"])
