"""The evaluations that a training with evaluate=true ends with. Light: they are checked before anything is trained."""

import dataclasses
import difflib
from pathlib import Path

from llama_exp.config.checksums import content_hash
from llama_exp.config.compose import choices, default_config, limit_answer_length
from llama_exp.config.schema import Config, Source, Split
from llama_exp.data import sources
from llama_exp.data.synthetic import MAKERS
from llama_exp.errors import UserError
from llama_exp.evaluation.request import EvaluationRequest
from llama_exp.runs.run import Run


def with_validation(config: Config) -> list[Config]:
    """The evaluations that training with evaluate=true ends with: first of validation Examples, by whose scores a
    report chooses a cell, then of those that it reports.

    The first are validation_sample, no more than the second ones; validations=0 leaves them out.
    """
    if config.split is not Split.test or config.validations == 0:
        return [config]
    size = _choosing_size(config)
    return [dataclasses.replace(config, split=Split.validation, eval_sample=size, forgetting=None), config]


def forgetting_request(run: Run, config: Config) -> EvaluationRequest | None:
    """How likely the responses of another dataset are, as config.forgetting names it; None where it names none.

    That dataset is synthetic where the run's own is. Raises UserError for a name that is neither a dataset nor a file.
    """
    name = config.forgetting
    if not name:
        return None
    if name == run.config.dataset.name:
        raise UserError(f"forgetting={name} is what the run is tuned on. Name another dataset, or a file.")
    path = None if name in choices("dataset") else Path(name).expanduser()
    if path and not path.exists():
        near = difflib.get_close_matches(name, choices("dataset"), n=1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise UserError(
            f"forgetting={name}: no such file, and no such dataset. {meant}Known: {', '.join(choices('dataset'))}."
        )
    if path and run.config.dataset.path and path.resolve() == Path(run.config.dataset.path).expanduser().resolve():
        raise UserError(f"forgetting={name} is the file that the run is tuned on. Name another one, or a dataset.")
    kind = _kind_of_file(path) if path else name
    dataset = dataclasses.replace(default_config({"dataset": kind, "model": config.model.name}).dataset, metrics=[])
    if path:  # a file that has changed is another one: its content is part of what the evaluation is named by
        dataset = dataclasses.replace(dataset, path=name, revision=content_hash(path))
    if kind in MAKERS and run.config.dataset.source is Source.synthetic:
        dataset = dataclasses.replace(dataset, source=Source.synthetic)
    sources.check(dataset)
    other = dataclasses.replace(
        run.config, dataset=dataset, split=Split.test, eval_sample=_choosing_size(config), trainer=config.trainer
    )
    return EvaluationRequest(run, limit_answer_length(other), generate=False)


def _kind_of_file(path: Path) -> str:
    """The dataset that reads a file, or a folder of files."""
    files = [path] if path.is_file() else list(path.iterdir())
    return "text" if any(file.suffix.lower() == ".txt" for file in files) else "table"


def _choosing_size(config: Config) -> int | None:
    return min((size for size in (config.validation_sample, config.eval_sample) if size), default=None)
