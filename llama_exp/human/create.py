"""Create a study from finished evaluations:

    llama-exp study create study=outputs/human/first items=50 raters=2 \
        tuned=outputs/squad/tiny-1000-r8-seed0/eval/squad-test-300 human=reference

Each rater's queue comes from the seed and their number alone.
"""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.human.conditions import read_conditions
from llama_exp.human.design import draw_items, rater_queue
from llama_exp.human.metrics import evaluated_metrics
from llama_exp.human.store import RatingStore
from llama_exp.human.study import Mode, Study, StudySettings, fingerprint, identical_replies, read_study, write_study
from llama_exp.runs.files import write_json


def create_study(folder: Path, conditions: Mapping[str, str], settings: StudySettings) -> Study:
    """Draw a study and write it to `folder`; a study that is there with the same settings may get more raters.

    conditions    {name: the folder of a finished evaluation, or "reference"}
    settings      by default those of conf/study.yaml
    """
    check_settings(settings)
    read = read_conditions(conditions, settings.mode)
    items, controls = draw_items({name: predictions for name, (predictions, _) in read.items()}, settings)
    queues = tuple(rater_queue(items, controls, list(read), settings, 1 + i) for i in range(settings.raters))
    if not queues[0]:
        raise UserError("Nothing to judge: the conditions gave the same answer to every item.")
    available = len(next(iter(read.values()))[0])
    study = Study(settings, {name: known for name, (_, known) in read.items()}, available, items, controls, queues)
    store, is_new = RatingStore(folder), not (folder / "study.json").is_file()
    study = dataclasses.replace(study, fingerprint=fingerprint(study))
    if not is_new:
        study = _add_raters(read_study(folder), study, folder)
    if store.path.is_file():
        store.check_study(study)  # before anything is written
    if is_new and (measured := evaluated_metrics(read, items)):
        write_json(folder / "metrics.json", measured)
    study = dataclasses.replace(study, fingerprint=fingerprint(study))
    write_study(folder, study)
    store.invite(len(study.queues))
    store.check_study(study)
    return study


def check_settings(settings: StudySettings) -> None:
    """Raise one UserError for all that is wrong with the settings."""
    problems = []
    for key in ("items", "raters"):
        if getattr(settings, key) < 1:
            problems.append(f"{key}={getattr(settings, key)}: wanted at least 1.")
    for key in ("repeats", "controls"):
        if not 0 <= getattr(settings, key) <= 1:
            problems.append(f"{key}={getattr(settings, key)}: wanted a share from 0 to 1.")
    if len(settings.scale_ends) != 2:
        problems.append(f"scale_ends={','.join(settings.scale_ends)}: wanted two texts, what 1 and 5 mean.")
    if settings.mode == Mode.scales and settings.control_scale not in settings.scales:
        problems.append(f"control_scale={settings.control_scale}: wanted one of {', '.join(settings.scales)}.")
    if problems:
        raise UserError("\n".join(problems))


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
            f"they were given in: name another folder, or type the settings that its study.json holds."
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
    return "\n".join([*lines, f"Next: llama-exp study serve study={shlex.quote(str(folder))}"])
