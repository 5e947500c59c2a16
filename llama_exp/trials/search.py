"""Ask Optuna for trials, launch each to its next rung, report what it measured there, prune it or go on.

A trial needs no talk with the process that trains it: it is launched with stop_at=, which ends it with a checkpoint,
and launched again from there. As many trials run at a time as the launcher has workers.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from optuna.trial import FrozenTrial, Trial, TrialState

from llama_exp.adaptive.search import MOST_FAILURES, workers_of
from llama_exp.config.schema import Config
from llama_exp.formatting import percent, plural
from llama_exp.report.loss_page import points
from llama_exp.runs.lock import lock_folder
from llama_exp.runs.metrics import read_metrics
from llama_exp.runs.run import Outcome
from llama_exp.runs.summary import find_summary
from llama_exp.trials.space import Space
from llama_exp.trials.study import LOSS, Settings, open_study, step_of, trials_of


@dataclass
class Active:
    """A trial that goes on; rung: how many it has behind it."""

    trial: Trial
    rung: int = 0


class Search:
    def __init__(self, space: Space, settings: Settings, launcher: Launcher, config: Config, name: str) -> None:
        self.space, self.settings, self.launcher, self.config = space, settings, launcher, config
        self.name = settings.study_name or name
        self.active: list[Active] = []
        self.returns: list[JobReturn] = []
        self.failed = 0  # in this command
        self.in_a_row = 0
        self.busy = 0

    def run(self) -> list[JobReturn]:
        outputs = Path(self.config.outputs)
        with lock_folder(outputs / ".launch" / f"optuna-{self.name}"):  # another command would tell the same trials
            self.study = open_study(self.settings, outputs, self.name)
            self.revive()
            workers = workers_of(self.launcher)
            while True:
                while len(self.active) < workers and self.wanted() > 0:
                    self.active.append(Active(self.study.ask(self.space.drawn)))
                if not self.active:
                    break
                self.launch()
            self.conclude()
        return self.returns

    def wanted(self) -> int:
        """Trials that are still to be begun."""
        if self.in_a_row >= MOST_FAILURES:
            return 0
        done = len(trials_of(self.study, "COMPLETE", "PRUNED"))
        return self.settings.n_trials - done - len(self.active) - self.failed - self.busy

    def revive(self) -> None:
        """Go on with the trials that a killed command has left."""
        for left in trials_of(self.study, "RUNNING"):
            if left.params.keys() != self.space.drawn.keys():  # killed while it was drawn
                self.study.tell(left.number, state=TrialState.FAIL)
                continue
            one = Active(Trial(self.study, left._trial_id))
            one.rung = sum(step_of(rung) in left.intermediate_values for rung in self.settings.rungs)
            if one.rung and one.trial.should_prune():
                self.prune(one)
            else:
                self.active.append(one)

    def launch(self) -> None:
        """All active trials, each to its next rung."""
        batch = list(self.active)
        cells = [[*self.space.overrides(one.trial.params), *self.stop_at(one)] for one in batch]
        found = list(self.launcher.launch(cells, initial_job_idx=len(self.returns)))
        self.returns += found
        for one, job in zip(batch, found, strict=True):
            self.take(one, job._return_value)

    def stop_at(self, one: Active) -> list[str]:
        rungs = self.settings.rungs
        return [f"stop_at={rungs[one.rung]:g}"] if one.rung < len(rungs) else []

    def take(self, one: Active, outcome: Any) -> None:
        """What a trial came to: at its next rung, finished, failed or busy elsewhere."""
        if hasattr(outcome, "again"):  # another process worked on it: it may be done by now
            outcome = outcome.again()
        if isinstance(outcome, Outcome) and outcome.is_busy:
            self.busy += 1
            self.active.remove(one)  # it stays a running trial, which the next command takes up
            return
        summary = find_summary(outcome.folder) if isinstance(outcome, Outcome) and not outcome.has_failed else None
        values = self.measured(outcome.folder, summary.ended_well) if summary else None
        if summary is None or values is None:
            self.fail(one)
        elif summary.ended_well:
            self.complete(one, values)
        else:
            self.report(one, values[0])

    def measured(self, folder: Path, ended_well: bool) -> list[float] | None:
        """The metrics at the last validation; where early stopping kept an earlier adapter, at that one."""
        rows, monitor = read_metrics(folder), self.config.monitor
        steps = [step for step, _ in points(rows, LOSS)]
        if ended_well and self.config.early_stopping and (watched := points(rows, monitor)):
            best = min if Settings.lower_is_better(monitor) else max
            steps.append(best(watched, key=lambda point: point[1])[0])
        found = [dict(points(rows, name)) for name in self.settings.metric]
        return [values[steps[-1]] for values in found] if steps and all(steps[-1] in v for v in found) else None

    def report(self, one: Active, value: float) -> None:
        one.trial.report(value, step_of(self.settings.rungs[one.rung]))
        one.rung += 1
        self.in_a_row = 0
        if one.trial.should_prune():
            self.prune(one)

    def prune(self, one: Active) -> None:
        self.tell(one, state=TrialState.PRUNED)
        self.say(one.trial, f"pruned at {percent(self.settings.rungs[one.rung - 1])}")

    def complete(self, one: Active, values: list[float]) -> None:
        self.in_a_row = 0
        self.tell(one, values)
        self.say(one.trial, self.described(values))

    def fail(self, one: Active) -> None:
        self.failed, self.in_a_row = self.failed + 1, self.in_a_row + 1
        self.tell(one, state=TrialState.FAIL)
        self.say(one.trial, "failed")

    def tell(self, one: Active, values: Sequence[float] | None = None, state: TrialState | None = None) -> None:
        with contextlib.suppress(ValueError):
            self.active.remove(one)
        self.study.tell(one.trial.number, values, state)

    def say(self, trial: Trial | FrozenTrial, what: str) -> None:
        print(f"  Trial {trial.number}: {self.space.name(trial.params)}: {what}", flush=True)

    def described(self, values: Sequence[float]) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}" for name, value in zip(self.settings.metric, values, strict=True)
        )

    def conclude(self) -> None:
        """The best trials: one, or with several metrics those that no other trial beats in all of them."""
        complete, pruned = (len(trials_of(self.study, state)) for state in ("COMPLETE", "PRUNED"))
        counts = f"{plural(complete + pruned, 'trial')} of study {self.name}, {pruned} pruned"
        if self.in_a_row >= MOST_FAILURES:
            counts += f"; ended, because the last {self.in_a_row} failed"
        print(f"\n{counts}.{' Best:' if complete else ''}", flush=True)
        for trial in self.study.best_trials if complete else []:
            self.say(trial, self.described(trial.values))
