"""Create a study from finished evaluations:

    python -m llama_exp.human.study study=outputs/human/first items=50 raters=2 \
        tuned=outputs/squad/tiny-1000-r8-seed0/eval/squad-test-300 human=reference

Each rater's queue comes from the seed and their number alone.
"""

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llama_exp.cli.main import run_command
from llama_exp.config.compose import CONF
from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.human.conditions import read_conditions
from llama_exp.human.design import draw_items, rater_queue
from llama_exp.human.keys import given
from llama_exp.human.metrics import evaluated_metrics
from llama_exp.human.store import RatingStore
from llama_exp.human.study import Mode, Study, StudySettings, identical_replies, read_study, write_study
from llama_exp.runs.files import write_json


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
    settings = parse_settings(options)
    read = read_conditions(conditions, settings.mode)
    items, controls = draw_items({name: predictions for name, (predictions, _) in read.items()}, settings)
    queues = tuple(rater_queue(items, controls, list(read), settings, 1 + i) for i in range(settings.raters))
    if not queues[0]:
        raise UserError("Nothing to judge: the conditions gave the same answer to every item.")
    available = len(next(iter(read.values()))[0])
    study = Study(settings, {name: known for name, (_, known) in read.items()}, available, items, controls, queues)
    if (folder / "study.json").is_file():
        study = _add_raters(read_study(folder), study, folder)
    elif measured := evaluated_metrics(read, items):
        write_json(folder / "metrics.json", measured)
    write_study(folder, study)
    RatingStore(folder).invite(len(study.queues))
    return study


def parse_settings(options: Mapping[str, str]) -> StudySettings:
    """conf/study.yaml with these options; one UserError tells all that is wrong with them."""
    merged = OmegaConf.merge(OmegaConf.structured(StudySettings), OmegaConf.load(CONF / "study.yaml"))
    problems = []
    for key, value in options.items():
        if key in ("scales", "scale_ends"):
            problems.append(f"{key}={value}: {key} is set in conf/study.yaml, not on the command line.")
            continue
        try:
            merged[key] = value
        except OmegaConfBaseException as error:
            problems.append(f"{key}={value}: {str(error).splitlines()[0]}")
    settings = OmegaConf.to_object(merged)
    for key in ("items", "raters"):
        if getattr(settings, key) < 1:
            problems.append(f"{key}={getattr(settings, key)}: wanted at least 1.")
    for key in ("repeats", "controls"):
        if not 0 <= getattr(settings, key) <= 1:
            problems.append(f"{key}={getattr(settings, key)}: wanted a share from 0 to 1.")
    if settings.mode == Mode.scales and settings.control_scale not in settings.scales:
        problems.append(f"control_scale={settings.control_scale}: wanted one of {', '.join(settings.scales)}.")
    if problems:
        raise UserError("\n".join(problems))
    return settings


def _add_raters(old: Study, new: Study, folder: Path) -> Study:
    """The study in `folder` with the further raters of `new`. UserError where anything else differs."""
    before, after = dataclasses.asdict(old.settings), dataclasses.asdict(new.settings)
    different = [key for key in after if key != "raters" and before[key] != after[key]]
    if {n: c.folder for n, c in old.conditions.items()} != {n: c.folder for n, c in new.conditions.items()}:
        different.append("conditions")
    if not different and (old.items, old.controls) != (new.items, new.controls):
        different.append("replies (the evaluations were made again)")
    if different:
        raise UserError(
            f"{folder} holds another study; it differs in {', '.join(different)}. Ratings belong to the study "
            f"they were given in: name another folder, or delete this one."
        )
    if len(new.queues) <= len(old.queues):
        return old
    return dataclasses.replace(old, settings=new.settings, queues=old.queues + new.queues[len(old.queues) :])


def describe_study(folder: Path, study: Study) -> str:
    """What was created, and what to type next."""
    kinds = [trial.kind for trial in study.queues[0]]
    identical = sum(identical_replies(item, *pair) for item in study.items.values() for pair in study.pairs)
    lines = [
        f"{folder}: {len(study.items)} of {study.available} items, {' against '.join(study.conditions)}; "
        f"{plural(len(study.queues), 'rater')}, {len(kinds)} pages each: {kinds.count('judged')} judged, "
        f"{plural(kinds.count('repeat'), 'repeat')}, {plural(kinds.count('control'), 'control')}."
    ]
    if identical and not study.on_scales:
        lines.append(
            f"  {identical} pairs of answers are word for word the same: they count as ties and are not shown."
        )
    if study.settings.controls and not study.controls:
        lines.append("  No controls: they need references that differ, from at least two groups.")
    return "\n".join([*lines, f"Next: python -m llama_exp.human.app study={shlex.quote(str(folder))}"])
