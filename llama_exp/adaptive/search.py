"""One adaptive sweep: take up what is there, run what tells most for its seconds, stop when the answer is known."""

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from llama_exp.adaptive.budget import Budget
from llama_exp.adaptive.choose import Verdict
from llama_exp.adaptive.plan import UNTUNED, Plan
from llama_exp.adaptive.questions import Question
from llama_exp.adaptive.scores import ScoredCell, metric_of
from llama_exp.adaptive.view import View, Views
from llama_exp.config.compose import load_config
from llama_exp.config.schema import Config, Split
from llama_exp.errors import UserError
from llama_exp.formatting import percent, plural
from llama_exp.report.load import load_runs
from llama_exp.report.question import FILE, AskedQuestion
from llama_exp.runs.files import write_json
from llama_exp.runs.run import Outcome, Run

DECISIONS = "decisions.jsonl"
MOST_FAILURES = 3  # settings that fail one after another: then it is not the setting


def workers_of(launcher: Any) -> int:
    """How many cells a launcher runs at a time. Raises UserError where it cannot work here."""
    if not hasattr(launcher, "check"):  # Hydra's own
        return 1
    launcher.check()
    return int(launcher.wanted)


@dataclass(frozen=True, slots=True)
class Decision:
    """A setting and the number of its seed.

    open     the settings it was chosen from
    running  those that ran, or had been chosen with it
    """

    cell: int
    seed: int
    open: tuple[int, ...]
    running: tuple[int, ...]


class Search:
    """Its runs answer validation Examples; the test set is answered at the end, by the setting that is the answer."""

    def __init__(self, plan: Plan, question: Question, budget: Budget, launcher: Launcher, config: DictConfig) -> None:
        if config.split is not Split.test:
            raise UserError("question= chooses by the scores of validation Examples: leave out split=.")
        question.check(plan)
        self.plan, self.question, self.budget, self.launcher, self.config = plan, question, budget, launcher, config
        self.cells: list[ScoredCell] = []
        self.tried: set[tuple[int, int]] = set()  # (setting, seed), scored or failed
        self.failures = 0  # since the last cell that was scored
        self.paid = 0.0  # seconds of the runs of this command
        self.test_seconds = 0.0  # of answering the test set, by one run
        self.returns: list[JobReturn] = []
        self.running: dict[tuple[str, ...], tuple[int, int]] = {}  # {overrides: (setting, seed)}, on workers
        self.idle_since = time.perf_counter()  # when this process learnt of the last cell's end: a GPU waits
        self.views = Views(plan, question, config.sample)
        self.folder = Path(config.outputs) / "report"

    def run(self) -> list[JobReturn]:
        (self.folder / FILE).unlink(missing_ok=True)
        self.take_up_what_is_there()
        self.idle_since = time.perf_counter()
        if hasattr(self.launcher, "launch_as_they_come"):  # llama_exp/launch
            self.run_on_workers(self.launcher)
        while self.ended() is None:
            self.launch(self.next_cells(1))
            self.say_so_far()
        self.answer_test_set()
        self.conclude(self.ended() or "")
        return self.returns

    def run_on_workers(self, launcher: Any) -> None:
        """As many cells at a time as there are workers; the next one is chosen while the others run."""
        workers = workers_of(launcher)
        first = self.next_cells(workers) if self.ended() is None else []
        self.running = dict(zip(self.overrides(first), first, strict=True))

        def further(ended: list[JobReturn]) -> list[tuple[str, ...]] | None:
            self.idle_since = time.perf_counter()
            self.returns += ended
            for job in ended:
                self.take_up(*self.running.pop(tuple(job.overrides)), job._return_value)
            self.say_so_far()
            if self.ended() is not None and not (self.running and self.waits()):
                return None
            new = self.next_cells(workers - len(self.running))
            self.running |= zip(self.overrides(new), new, strict=True)
            return self.overrides(new)

        if first:
            launcher.launch_as_they_come(self.overrides(first), len(self.returns), further)
        self.running.clear()  # what nobody had begun when it ended

    def waits(self) -> bool:
        """Whether nothing but the cells that run keeps further ones from being chosen."""
        return not self.known() and self.failures < MOST_FAILURES

    def overrides(self, cells: Sequence[tuple[int, int]], split: Split = Split.validation) -> list[tuple[str, ...]]:
        return [tuple(self.plan.overrides(setting, seed, split)) for setting, seed in cells]

    def launch(self, batch: Sequence[tuple[int, int]]) -> None:
        for (setting, seed), job in zip(batch, self._launch(batch, Split.validation), strict=True):
            self.take_up(setting, seed, job._return_value)

    def _launch(self, batch: Sequence[tuple[int, int]], split: Split) -> list[JobReturn]:
        overrides = self.overrides(batch, split)
        found = list(self.launcher.launch(overrides, initial_job_idx=len(self.returns))) if batch else []
        self.idle_since = time.perf_counter()
        self.returns += found
        return found

    def say_so_far(self) -> None:
        if self.cells:
            self.write_answer(None)
            print(f"  So far: {self.answer()}", flush=True)

    def answer_test_set(self) -> None:
        """By the runs of the answer's setting, or of the best one that was run, and by the untuned model where the grid
        names it."""
        shown = self.cells_shown()
        untuned = [(UNTUNED, 0)] if self.plan.with_untuned else []
        self._launch([*((cell.setting, cell.seed) for cell in shown), *untuned], Split.test)
        seconds = [cell.seconds_of(self.config_of(cell.setting, cell.seed, Split.test)) for cell in shown]
        self.test_seconds = float(np.mean(seconds)) if seconds else 0.0

    def cells_shown(self) -> list[ScoredCell]:
        """Those whose score on the test set goes with the answer."""
        if not self.cells:
            return []
        run = sorted({cell.setting for cell in self.cells})
        best, expected = self.answer_setting(), self.view().scores[:, run].mean(axis=0)
        shown = best if best in run else run[int(expected.argmax())]
        return [cell for cell in self.cells if cell.setting == shown]

    def answer_setting(self) -> int:
        view = self.view()
        return self.question.setting(view.verdict.answer, view.grid, view.scores)

    def known(self) -> bool:
        """Whether the answer is; a setting, whose adapter one wants, only once it was run."""
        if not self.cells or not self.view().is_certain:
            return False
        return not self.question.names_setting or self.answer_setting() in {cell.setting for cell in self.cells}

    def cannot_confirm(self) -> bool:
        """Whether the answer is certain, and the budget has no time to run its setting."""
        certain = bool(self.cells) and self.question.names_setting and self.view().is_certain
        return certain and self.answer_setting() not in self.affordable() and not self.running

    def take_up(self, setting: int, seed: int, outcome: Any) -> None:
        if hasattr(outcome, "again"):  # another process worked on it: it may be done by now
            outcome = outcome.again()
        self.tried.add((setting, seed))
        if not isinstance(outcome, Outcome) or outcome.is_busy:
            return
        cell = None if outcome.has_failed else self.read(setting, seed, outcome.folder)
        self.failures = 0 if cell else self.failures + 1
        if cell is None:
            self.views.left_out[setting] = "failed"
        elif self.add(cell):
            self.paid += cell.paid

    def read(self, setting: int, seed: int, folder: Path) -> ScoredCell | None:
        return ScoredCell.read(setting, seed, self.config_of(setting, seed), folder)

    def add(self, cell: ScoredCell) -> bool:
        """`sample=` of more than there is means the run of all there is: one run, whatever it is called."""
        same = [other for other in self.cells if other.folder.resolve() == cell.folder.resolve()]
        if same:
            self.views.left_out[cell.setting] = f"is the same as {self.plan.name(same[0].setting)}"
        else:
            self.cells.append(cell)
        return not same

    def config_of(self, setting: int, seed: int, split: Split = Split.validation) -> Config:
        return load_config(*(override.lstrip("+") for override in self.plan.overrides(setting, seed, split)))

    def take_up_what_is_there(self) -> None:
        """The runs that an earlier command has trained, and answered validation Examples with."""
        for record in load_runs(Path(self.config.outputs))[0]:
            alike = [i for i, one in enumerate(self.plan.settings) if _agrees(record.identity, one)]
            seeds = [s for s, seed in enumerate(self.plan.seeds) if str(record.seed) == seed]
            for setting, seed in itertools.product(alike, seeds):
                ended = record.status in ("finished", "stopped early")
                if ended and Run.of(self.config_of(setting, seed)).folder == record.folder:
                    cell = self.read(setting, seed, record.folder)
                    self.tried |= {(setting, seed)} if cell and self.add(cell) else set()

    def view(self) -> View:
        """What the runs say."""
        return self.views.of(self.cells)

    def open_cells(self, chosen: Sequence[tuple[int, int]] = ()) -> dict[int, int]:
        """{setting: the next seed it may be run with}, beside the cells that run or are chosen."""
        taken = {*self.tried, *self.running.values(), *chosen}
        settings = (i for i in range(len(self.plan.settings)) if i not in self.views.left_out)
        free = {i: [s for s in range(len(self.plan.seeds)) if (i, s) not in taken] for i in settings}
        return {setting: left[0] for setting, left in free.items() if left}

    def affordable(self, chosen: Sequence[tuple[int, int]] = ()) -> dict[int, int]:
        """The same, of what the budget has time for; money is spent by all cells that run, time by each."""
        found = self.open_cells(chosen)
        if not self.cells:
            return found
        gpus, seconds = self.cells[-1].paid / max(self.cells[-1].seconds, 1e-9), self.view().seconds
        if self.budget.money is None:
            left = self.budget.left(0.0)
        else:
            running = sum(seconds[setting] for setting, _ in (*self.running.values(), *chosen))
            left = self.budget.left(self.paid) / gpus - running
        return with_room_for(self.unconfirmed(chosen), found, seconds, left)

    def unconfirmed(self, chosen: Sequence[tuple[int, int]] = ()) -> int | None:
        """The likeliest answer, where it is a setting that nobody has run, runs or is about to run."""
        if not self.question.names_setting:
            return None
        answer = self.answer_setting()
        run = {cell.setting for cell in self.cells} | {setting for setting, _ in (*self.running.values(), *chosen)}
        return None if answer in run else answer

    def ended(self) -> str | None:
        """Why no further cell is run; None while one is."""
        if self.failures >= MOST_FAILURES:
            return f"the last {self.failures} settings failed"
        if self.known():
            return "the answer is known"
        if not self.open_cells():
            return f"every setting was run with {plural(len(self.plan.seeds), 'seed')}, failed or is busy elsewhere"
        if self.affordable() and not self.cannot_confirm():
            return None
        return f"the budget of {self.budget} leaves no time for another run"

    def next_cells(self, count: int) -> list[tuple[int, int]]:
        """(setting, seed) of so many cells beside those that run: each tells most, once those before it are chosen."""
        chosen: list[Decision] = []
        for _ in range(count):
            mine = [(one.cell, one.seed) for one in chosen]
            left = self.affordable(mine)
            if not left:
                break
            settings = tuple(setting for setting, _ in (*self.running.values(), *mine))
            cell = self.views.best_next(self.cells, list(left), settings)
            chosen.append(Decision(cell, left[cell], tuple(left), settings))
        self.record(chosen, time.perf_counter() - self.idle_since)
        return [(one.cell, one.seed) for one in chosen]

    def record(self, decisions: Sequence[Decision], seconds: float) -> None:
        """A line for each cell: what was known when it was chosen, so that replay.py can choose again."""
        metric = metric_of(self.cells).name if self.cells else ""
        found = self.view().verdict if self.cells else None
        known = {"answer": self.name(found), "certainty": round(found.certainty, 4)} if found else {}
        told = {
            "question": {"name": self.config.question, "within": self.question.within, "target": self.config.target},
            "plan": dataclasses.asdict(self.plan),
            "sample": self.config.sample,
            "left_out": {str(setting): why for setting, why in self.views.left_out.items()},
            **known,
            "seconds_to_decide": round(seconds, 3),
            "runs": [cell.known(metric, self.folder.parent) for cell in self.cells],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / DECISIONS, "a", encoding="utf-8") as file:
            for one in decisions:
                overrides = self.plan.overrides(one.cell, one.seed)
                file.write(json.dumps({"overrides": overrides, **dataclasses.asdict(one), **told}) + "\n")

    def name(self, found: Verdict) -> str:
        view = self.view()
        return self.question.name(found.answer, self.plan, view.grid, view.scores)

    def answer(self) -> str:
        found = self.view().verdict
        return f"{self.name(found)}: {percent(found.certainty)} certain, after {plural(len(self.cells), 'run')}."

    def conclude(self, why: str) -> None:
        if not self.cells:
            return print(f"\nNo answer: {why}.", flush=True)
        asked = self.write_answer(why)
        print(f"\n{asked.sentence}", flush=True)
        for line in list(asked.not_run.values())[:3]:
            print(f"  {line}", flush=True)

    def write_answer(self, why: str | None) -> AskedQuestion:
        """`why`: the sweep has ended; None while it runs."""
        view = self.view()
        found = AskedQuestion(
            question=f"{self.question} in {metric_of(self.cells).label} ({self.config.dataset.name})",
            answer=self.name(view.verdict),
            certainty=round(view.verdict.certainty, 4),
            known=self.known(),
            ended=why,
            runs=len(self.cells),
            groups=min((cell.groups for cell in self.cells if cell.groups), default=None),
            seconds=round(sum(cell.seconds for cell in self.cells) + len(self.cells_shown()) * self.test_seconds, 1),
            seconds_of_whole_grid=round(float(view.seconds.sum()) + len(view.grid) * self.test_seconds, 1),
            not_run=self.not_run(view),
        )
        write_json(self.folder / FILE, dataclasses.asdict(found))
        return found

    def not_run(self, view: View) -> dict[str, str]:
        """{setting: why no run of it was needed}, the ones that may come nearest first."""
        run, answer, best = {cell.setting for cell in self.cells}, view.verdict.answer, self.answer_setting()
        lead = np.quantile(view.scores - view.scores[:, [best]], 0.95, axis=0)
        left = sorted((i for i in range(len(view.grid)) if i not in run and i != best), key=lambda i: -lead[i])

        def say(i: int) -> str:
            if why := self.views.left_out.get(i):
                return f"{self.plan.name(i)} {why}"
            return self.question.why_not_run(i, answer, self.plan, view.grid, view.scores)

        return {self.plan.name(i): say(i) for i in left}


def with_room_for(answer: int | None, found: dict[int, int], seconds: np.ndarray, left: float) -> dict[int, int]:
    """Of the cells {setting: seed}, those that end in `left` seconds, with time to run the likeliest answer after them.

    A budget that is spent on what leads to an answer, and not on the answer, ends with a setting that nobody has run.
    """
    reserved = seconds[answer] if answer is not None and answer in found and seconds[answer] <= left else 0.0
    return {
        setting: seed
        for setting, seed in found.items()
        if seconds[setting] + (reserved if setting != answer else 0.0) <= left
    }


def _agrees(identity: dict[str, Any], setting: dict[str, str]) -> bool:
    """Whether a run may be one of this setting: by the values that both name."""
    return all(_same(identity[key], value) for key, value in setting.items() if key in identity)


def _same(stored: Any, typed: str) -> bool:
    if stored is None or isinstance(stored, bool):
        return str(stored).lower() in (typed.lower(), {"null": "none"}.get(typed.lower()))
    try:
        return float(stored) == float(typed)
    except (TypeError, ValueError):
        return str(stored) == typed
