"""What a run tells the loggers that its config names. Every logger goes through `Tracker`, and all of them together
through `Trackers`, for which one that fails is no reason to stop.

    with tracking(run, config, "train") as trackers:
        trackers.log_metrics({"loss": 1.2}, step=3)

description    id, name, group, tags, config: the same in every process that goes on with a run
content        scores with intervals, a table of replies
tracker        any Lightning logger; wandb, tensorboard, mlflow, trackio hold more
"""

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from llama_exp.config.schema import Config
from llama_exp.config.targets import import_target
from llama_exp.config.trainer_keys import named_loggers
from llama_exp.errors import UserError
from llama_exp.processes import process_number
from llama_exp.records import Prediction
from llama_exp.runs.files import read_json_or_nothing, read_predictions
from llama_exp.runs.results import Results, read_results
from llama_exp.runs.run import Run
from llama_exp.runs.scores import SCORES, read_scores
from llama_exp.sanitize import as_dict, clean
from llama_exp.tracking.content import digest, replies_table, summary_of
from llama_exp.tracking.description import Description, describe, joins_sweep, remember
from llama_exp.tracking.tracker import Tracker
from llama_exp.tracking.wandb import is_disabled, mode


@dataclass(frozen=True, slots=True)
class Kind:
    """tracker: its import path; package: what must be installed; pip: how."""

    tracker: str
    package: str
    pip: str


KINDS = {  # by the name of the logger's class
    "WandbLogger": Kind("llama_exp.tracking.wandb.WandbTracker", "wandb", "wandb"),
    "TensorBoardLogger": Kind("llama_exp.tracking.tensorboard.TensorBoardTracker", "tensorboard", "tensorboard"),
    "MLFlowLogger": Kind("llama_exp.tracking.mlflow.MlflowTracker", "mlflow", "'llama_exp[mlflow]'"),
    "TrackioLogger": Kind("llama_exp.tracking.trackio.TrackioTracker", "trackio", "'llama_exp[trackio]'"),
}


def usable_loggers(config: Config) -> dict[str, dict[str, Any]]:
    """{name: settings} of the loggers to start.

    Raises UserError for one whose package is missing, or whose key is: before anything heavy is done.
    """
    found = {}
    for name, class_name, settings in wanted_loggers(config.logger):
        kind = KINDS.get(class_name)
        if kind and importlib.util.find_spec(kind.package) is None:
            raise UserError(f"logger={name} needs the package {kind.package}: pip install {kind.pip}")
        if class_name == "WandbLogger":
            mode(settings)  # raises without a key
        found[name] = settings
    return found


def wanted_loggers(logger: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, name of the class, settings) of the loggers that a config asks for: W&B is none where it is disabled."""
    for name, settings in named_loggers(dict(logger)).items():
        class_name = str(settings["_target_"]).rpartition(".")[2]
        if class_name != "WandbLogger" or not is_disabled(settings):
            yield name, class_name, settings


@contextlib.contextmanager
def tracking(run: Run, config: Config, job: str, examples: int | None = None) -> Iterator["Trackers"]:
    """The started loggers of a run while the block runs; `config` is the command's, which names them.

    Raises UserError where one cannot start.
    """
    wanted = usable_loggers(config)
    first = process_number() == 0
    described = describe(run, job, examples) if wanted and first else None
    trackers = Trackers(run, described, [])
    code = 1
    try:
        for name, settings in wanted.items():
            trackers.add(name, settings)
        yield trackers
        code = 0
    finally:
        trackers.finish(code)


def already_logged(run: Run, config: Config, evaluations: Mapping[str, Path]) -> bool:
    """Whether every logger has the stored results of these evaluations, {prefix: folder}: then none need be started."""
    logged = as_dict(read_json_or_nothing(run.folder / "tracking.json"), "logged")
    try:
        digests = {prefix: digest(read_results(folder)) for prefix, folder in evaluations.items()}
    except (OSError, ValueError, UserError):
        return False
    known = [as_dict(logged, name) for name in usable_loggers(config)]
    return not joins_sweep(run) and all(one.get(prefix) == of for one in known for prefix, of in digests.items())


class Trackers:
    """All loggers of a run. description: None where none is asked for, and in all processes but the first."""

    def __init__(self, run: Run, description: Description | None, trackers: list[Tracker]):
        self.run, self.description, self.trackers = run, description, trackers
        self.failed: set[tuple[str, str]] = set()

    @property
    def loggers(self) -> list[Any]:
        """Lightning's objects, for a Trainer."""
        return [tracker.logger for tracker in self.trackers]

    @property
    def show_figures(self) -> bool:
        """Whether one of them shows losses.png, which has to be there at the end of the training then."""
        mine = self.trackers if self.description else []
        return any(type(tracker).log_figure is not Tracker.log_figure for tracker in mine)

    def add(self, name: str, settings: Mapping[str, Any]) -> None:
        """Start one. Raises UserError where it cannot."""
        given = {key: value for key, value in settings.items() if key != "_target_"}
        kind = import_target(settings["_target_"], f"logger.{name}")
        tracker_class = tracker_for(kind)
        if not self.description and "save_dir" in inspect.signature(kind).parameters:  # it is wanted, and not used
            given = {"save_dir": str(self.run.folder), **given}
        try:
            tracker = tracker_class(name, kind, given, self.description)
            if self.description:
                tracker.start()
        except UserError:
            raise
        except Exception as error:
            advice = f" {tracker_class.advice}." if tracker_class.advice else " logger=none trains without it."
            why = clean(error, 600) or type(error).__name__
            raise UserError(f"The logger {name} could not start: {why.rstrip('.')}.{advice}") from error
        self.trackers.append(tracker)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._each("log_metrics", values, step)

    def log_earlier(self, rows: Sequence[Mapping[str, str]], have_all: bool) -> None:
        """The rows of metrics.csv before the step that a resumed run goes on from.

        have_all: an earlier process ended there by itself (stop_at), so that its loggers were closed with all of them.
        """
        numbers = [{key: float(value) for key, value in row.items() if value} for row in rows]
        self._each("log_earlier", numbers, have_all)

    def log_status(self, status: str) -> None:
        """How a training, or a part of one, ended."""
        self._each("log_status", status)

    def log_training(self) -> None:
        """What a training that ended well leaves: best loss, curves as figure and page, the adapter."""
        summary = self.run.summary
        loss = summary.loss if summary else {}
        if loss.get("best_validation") is not None:
            self._each("log_best", loss["best_validation"], loss["validation"])
        if summary:
            self.log_status(summary.status)
        self.log_losses()
        for tracker in self.trackers:
            if tracker.artifacts:
                self._try(tracker, "log_adapter", self.run)

    def log_losses(self) -> None:
        picture, page = self.run.folder / "losses.png", self.run.folder / "losses.html"
        if picture.is_file() and page.is_file():
            self._each("log_figure", "losses", picture, page)

    def log_evaluation(self, prefix: str, folder: Path, results: Results, template: str) -> None:
        """The scores of an evaluation with their intervals, and its replies; nothing where a logger has them
        already."""
        if not self.description or not self.trackers:
            return
        mine, logged = digest(results), self.description.logged
        lacking = [tracker for tracker in self.trackers if logged.get(tracker.name, {}).get(prefix) != mine]
        if not lacking:
            return
        predictions = read_predictions(folder / "predictions.jsonl")
        items = read_scores(folder, predictions) if (folder / SCORES).is_file() else {}
        table = replies_table(predictions, items, template)
        for tracker in lacking:
            if self._send_evaluation(tracker, prefix, folder, results, table):
                remember(self.description, tracker.name, prefix, mine)

    def _send_evaluation(self, tracker: Tracker, prefix: str, folder: Path, results: Results, table) -> bool:
        sent = self._try(tracker, "log_summary", summary_of(prefix, results))
        if results.generated:
            sent &= self._try(tracker, "log_table", f"{prefix}/replies", *table, None)
        if tracker.artifacts:
            sent &= self._try(tracker, "log_evaluation", self.run, folder, prefix)
        return sent

    def log_replies(self, name: str, predictions: list[Prediction], items, template: str, step: int) -> None:
        """Replies while training."""
        self._each("log_table", name, *replies_table(predictions, items, template), step)

    def finish(self, code: int) -> None:
        self._each("finish", code)

    def _each(self, method: str, *arguments: Any) -> None:
        for tracker in self.trackers:
            self._try(tracker, method, *arguments)

    def _try(self, tracker: Tracker, method: str, *arguments: Any) -> bool:
        """Whether it worked. A logger that fails is announced once for each thing that it fails at: the run's own files
        are complete without it."""
        if not self.description:
            return False
        try:
            getattr(tracker, method)(*arguments)
            return True
        except Exception as error:
            if (tracker.name, method) not in self.failed:
                self.failed.add((tracker.name, method))
                what = f"{tracker.name} failed at {method} ({clean(error, 300)})"
                print(f"The logger {what}; the run's folder is complete without it.", flush=True)
            return False


def tracker_for(kind: Any) -> type[Tracker]:
    """The Tracker of a logger's class, by its name or that of a class that it extends."""
    for one in getattr(kind, "__mro__", ()):
        if one.__name__ in KINDS:
            module, _, name = KINDS[one.__name__].tracker.rpartition(".")
            return getattr(import_module(module), name)
    return Tracker
