"""Ask Optuna for trials, launch each to its next rung, report what it measured there, prune it or go on.

A trial needs no talk with the process that trains it: it is launched with stop_at=, which ends it with a checkpoint,
and launched again from there. As many trials run at a time as the launcher has workers, which keep their base.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from optuna.trial import FrozenTrial, Trial, TrialState

from llama_exp.adaptive.search import MOST_FAILURES, workers_of
from llama_exp.config.compose import load_config
from llama_exp.config.identity import flat
from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.report.loss_note import points
from llama_exp.runs.lock import lock_folder
from llama_exp.runs.metrics import read_metrics
from llama_exp.runs.run import Outcome, Run
from llama_exp.runs.summary import Summary, find_summary
from llama_exp.trials.space import OBJECTIVE, Space
from llama_exp.trials.study import LOSS, Settings, open_study, step_of, trials_of


@dataclass
class Active:
    """A trial that goes on; rung: how many it has behind it."""

    trial: Trial
    rung: int = 0


class Search:
    """count_failure(cell, why): tells the command of a trial that failed although its cell did not."""

    def __init__(
        self,
        space: Space,
        settings: Settings,
        launcher: Launcher,
        config: Config,
        name: str,
        count_failure: Callable[[JobReturn, str], None],
    ) -> None:
        self.space, self.settings, self.launcher, self.config = space, settings, launcher, config
        self.name, self.count_failure = name, count_failure
        self.active: list[Active] = []
        self.workers = workers_of(launcher)
        self.launch_on_workers = getattr(launcher, "launch_as_they_come", None)  # llama_exp/launch
        self.waiting: dict[tuple[str, ...], list[Active]] = {}  # by the cell that runs for them
        self.ended: dict[tuple[str, ...], JobReturn] = {}  # a cell that is drawn once more is not launched again
        self.returns: list[JobReturn] = []
        self.failed: list[str] = []  # the names of the trials that failed in this command
        self.in_a_row = 0
        self.busy = 0

    def run(self) -> list[JobReturn]:
        outputs = Path(self.config.outputs)
        with lock_folder(outputs / ".launch" / f"optuna-{self.name}"):  # another command would tell the same trials
            self.study = open_study(self.settings, outputs, self.name)
            self.revive()
            self.run_trials()
            self.conclude()
        return self.returns

    def run_trials(self) -> None:
        cells: list[tuple[str, ...]] | None = self.next_cells()
        if cells and self.launch_on_workers:
            self.launch_on_workers(cells, 0, self.further)
            return
        while cells:  # Hydra's own launcher: one after another
            cells = self.further(list(self.launcher.launch(cells, initial_job_idx=len(self.returns))))

    def further(self, ended: list[JobReturn]) -> list[tuple[str, ...]] | None:
        """What to launch once these cells have ended; None where nothing runs any more."""
        self.returns += ended
        for job in ended:
            cell = tuple(job.overrides)
            if self.launch_on_workers or _ended_well(job):
                self.ended[cell] = job  # workers run no cell twice
            for one in self.waiting.pop(cell):
                self.take(one, job)
        new = self.next_cells()
        return new if self.waiting else None

    def next_cells(self) -> list[tuple[str, ...]]:
        """The cell that brings each idle trial to its next rung; trials are begun as long as there are workers."""
        new: list[tuple[str, ...]] = []
        while True:
            idle = [one for one in self.active if not any(one in each for each in self.waiting.values())]
            for one in idle:
                new += self.next_cell(one)
            if idle:
                continue
            if len(self.active) >= self.workers or self.wanted() <= 0:
                return new
            self.active.append(Active(self.study.ask(self.space.drawn)))

    def next_cell(self, one: Active) -> list[tuple[str, ...]]:
        """The cell to launch for a trial; [] where an earlier one, or one that runs, has what it needs."""
        self.look_up(one)
        if one not in self.active:  # pruned, or failed
            return []
        cell = (*self.overrides(one), *self.stop_at(one))
        if cell in self.ended:
            in_a_row = self.in_a_row
            self.take(one, self.ended[cell])
            self.in_a_row = min(self.in_a_row, in_a_row)  # a failure that is drawn once more is no further one
            return []
        if cell in self.waiting:
            self.waiting[cell].append(one)
            return []
        self.waiting[cell] = [one]
        return [cell]

    def wanted(self) -> int:
        """Trials that are still to be begun."""
        if self.in_a_row >= MOST_FAILURES:
            return 0
        done = trials_of(self.study, "COMPLETE", "PRUNED")
        if len({*self.failed, *(self.space.name(trial.params) for trial in done)}) >= self.space.size:
            return 0  # all that can be drawn has been
        return self.settings.n_trials - len(done) - len(self.active) - len(self.failed) - self.busy

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

    def overrides(self, one: Active) -> list[str]:
        return self.space.overrides(one.trial.params)

    def stop_at(self, one: Active) -> list[str]:
        rungs = self.settings.rungs
        return [f"stop_at={rungs[one.rung]:g}"] if one.rung < len(rungs) else []

    def look_up(self, one: Active) -> None:
        """Report what an earlier command measured in the run of a trial that is to be launched."""
        try:
            run = Run.of(load_config(*self.overrides(one)))
        except UserError:
            return  # which its cell says
        if not run.exists:
            return
        try:
            self.report(one, run.folder)
        except UserError as error:
            self.fail(one, JobReturn(overrides=self.overrides(one)), str(error))

    def take(self, one: Active, job: JobReturn) -> None:
        """What a trial came to: at its next rung, finished, failed or busy elsewhere."""
        outcome = job._return_value
        if hasattr(outcome, "again"):  # another process worked on it: it may be done by now
            outcome = outcome.again()
        if isinstance(outcome, Outcome) and outcome.is_busy:
            self.busy += 1
            self.active.remove(one)  # it stays a running trial, which the next command takes up
        elif not isinstance(outcome, Outcome) or outcome.has_failed:
            self.fail(one)
        else:
            try:
                self.go_on(one, outcome.folder)
            except UserError as error:
                self.fail(one, job, str(error))

    def go_on(self, one: Active, folder: Path) -> None:
        """With a trial whose cell ended well. Raises UserError where its value is not there."""
        before = one.rung
        summary = self.report(one, folder)
        if one not in self.active:  # pruned
            return
        if summary and summary.ended_well:
            self.complete(one, self.measured(folder))
        elif one.rung == before:
            raise UserError(f"{folder} holds no {self.settings.metric[0]} at {step_of(self.settings.rungs[before])} %.")

    def report(self, one: Active, folder: Path) -> Summary | None:
        """Each rung that a run has behind it, until one prunes the trial: the first validation at or after its share.

        Raises UserError where the run was judged by something else than this study.
        """
        self.check_judged_alike(folder)
        summary = find_summary(folder)
        steps, planned = (summary.steps or 0, summary.planned_steps or 0) if summary else (0, 0)
        behind = [(at, value) for at, value in self.validations(folder, self.settings.metric[0]) if at <= steps]
        for rung in self.settings.rungs[one.rung :]:
            value = next((value for at, value in behind if at >= round(rung * planned, 6) and at < planned), None)
            if value is None:
                break
            one.trial.report(value, step_of(rung))
            one.rung, self.in_a_row = one.rung + 1, 0
            if one.trial.should_prune():
                self.prune(one)
                break
        return summary

    def check_judged_alike(self, folder: Path) -> None:
        there, here = Run.load(folder).values, flat(self.config)
        differ = [key for key in OBJECTIVE if there.get(key) != here.get(key)]
        if differ:
            what = ", ".join(f"{key}={there.get(key)} (here {here.get(key)})" for key in differ)
            raise UserError(f"{folder} was validated with {what}: name another folder, outputs=FOLDER.")

    def validations(self, folder: Path, name: str) -> list[tuple[float, float]]:
        return points(read_metrics(folder), name)

    def measured(self, folder: Path) -> list[float]:
        """The metrics at the last validation; where early stopping kept an earlier adapter, at that one."""
        steps = [step for step, _ in self.validations(folder, LOSS)]
        monitor = self.config.monitor
        if self.config.early_stopping and (watched := self.validations(folder, monitor)):
            best = min if Settings.lower_is_better(monitor) else max
            steps.append(best(watched, key=lambda point: point[1])[0])
        found = {name: dict(self.validations(folder, name)) for name in self.settings.metric}
        if lacking := [name for name, values in found.items() if not steps or steps[-1] not in values]:
            raise UserError(
                f"{folder} holds no {lacking[0]} at its last validation: name another folder, outputs=FOLDER."
            )
        return [values[steps[-1]] for values in found.values()]

    def prune(self, one: Active) -> None:
        self.tell(one, state=TrialState.PRUNED)
        self.say(one.trial, f"pruned at {step_of(self.settings.rungs[one.rung - 1])} %")

    def complete(self, one: Active, values: list[float]) -> None:
        self.in_a_row = 0
        self.tell(one, values)
        self.say(one.trial, self.described(values))

    def fail(self, one: Active, cell: JobReturn | None = None, why: str = "") -> None:
        """cell: what to count as failed, and why; None where it has failed itself, and has said why."""
        self.failed.append(self.space.name(one.trial.params))
        self.in_a_row += 1
        self.tell(one, state=TrialState.FAIL)
        self.say(one.trial, f"failed: {why}" if why else "failed")
        if cell:
            self.count_failure(cell, why)

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
        elif complete + pruned + len(self.failed) + self.busy < self.settings.n_trials:
            counts += "; ended, because all that can be drawn has been"
        print(f"\n{counts}.{' Best:' if complete else ''}", flush=True)
        best = self.study.best_trials if complete else []
        for trial in {self.space.name(trial.params): trial for trial in reversed(best)}.values():
            self.say(trial, self.described(trial.values))


def _ended_well(job: JobReturn) -> bool:
    outcome = job._return_value
    return isinstance(outcome, Outcome) and not outcome.has_failed and not outcome.is_busy
