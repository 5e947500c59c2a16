"""One adaptive sweep: take up what is there, run what tells most for its seconds, stop when the answer is known."""

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from llama_exp.adaptive.budget import Budget
from llama_exp.adaptive.choose import Verdict, best_cell
from llama_exp.adaptive.plan import UNTUNED, Plan
from llama_exp.adaptive.questions import Question
from llama_exp.adaptive.scores import ScoredCell, metric_of
from llama_exp.adaptive.view import View, Views
from llama_exp.config.compose import load_config
from llama_exp.config.schema import Config, Split
from llama_exp.errors import UserError
from llama_exp.formatting import format_duration, percent, plural
from llama_exp.report.load import load_runs
from llama_exp.runs.files import write_json
from llama_exp.runs.run import Outcome

CERTAIN = 0.95
DECISIONS, ANSWER = "decisions.jsonl", "adaptive.json"
MOST_FAILURES = 3  # one after another: then it is not the setting


def workers_of(launcher: Launcher) -> int:
    """How many cells a launcher runs at a time."""
    if hasattr(launcher, "check"):
        launcher.check()
    return int(getattr(launcher, "wanted", None) or getattr(launcher, "workers", None) or 1)


class Search:
    """Raises UserError where validation Examples, by whose scores it chooses, are not answered."""

    def __init__(self, plan: Plan, question: Question, budget: Budget, launcher: Launcher, config: DictConfig) -> None:
        if config.validations == 0 or config.split is not Split.test:
            raise UserError(
                "question= chooses by the scores of validation Examples: leave out validations=0 and split=."
            )
        self.plan, self.question, self.budget, self.launcher, self.config = plan, question, budget, launcher, config
        self.cells: list[ScoredCell] = []
        self.tried: set[tuple[int, int]] = set()  # (setting, seed), scored or failed
        self.failures = 0  # since the last cell that was scored
        self.paid = 0.0  # seconds of the runs of this command
        self.returns: list[JobReturn] = []
        self.views = Views(plan, question, config.sample)
        self.folder = Path(config.outputs) / "report"

    def run(self) -> list[JobReturn]:
        (self.folder / ANSWER).unlink(missing_ok=True)
        if self.plan.with_untuned:
            self.launch([(UNTUNED, 0)])
        self.launch(self.there_already())
        self.paid = 0.0
        while (why := self.ended()) is None:
            began = time.perf_counter()
            batch = self.next_cells()
            self.record(batch, time.perf_counter() - began)
            self.launch(batch)
            if self.cells:
                self.write_answer(None)
                print(f"  So far: {self.answer()}", flush=True)
        self.conclude(why)
        return self.returns

    @cached_property
    def workers(self) -> int:
        """As many cells are chosen at a time."""
        return workers_of(self.launcher)

    def launch(self, batch: Sequence[tuple[int, int]]) -> None:
        if not batch:
            return
        overrides = [self.plan.overrides(setting, seed) for setting, seed in batch]
        found = list(self.launcher.launch(overrides, initial_job_idx=len(self.returns)))
        self.returns += found
        for (setting, seed), job in zip(batch, found, strict=True):
            self.take_up(setting, seed, job._return_value)

    def take_up(self, setting: int, seed: int, outcome: Any) -> None:
        if hasattr(outcome, "again"):  # another process worked on it: it may be done by now
            outcome = outcome.again()
        self.tried.add((setting, seed))
        if setting == UNTUNED or not isinstance(outcome, Outcome) or outcome.is_busy:
            return
        cell = None if outcome.has_failed else ScoredCell.read(setting, seed, self.config_of(setting, seed))
        self.failures = 0 if cell else self.failures + 1
        # `sample=` of more than there is means the run of all there is: one run, whatever it is called
        if cell and cell.folder not in {other.folder for other in self.cells}:
            self.cells.append(cell)
            self.paid += cell.paid

    def config_of(self, setting: int, seed: int) -> Config:
        config = load_config(*(override.lstrip("+") for override in self.plan.overrides(setting, seed)))
        available = self.views.available(self.cells)
        if available and config.sample and config.sample >= available:
            return dataclasses.replace(config, sample=None)
        return config

    def there_already(self) -> list[tuple[int, int]]:
        """Cells that an earlier command has trained and scored: launching them costs a moment."""
        found = []
        for record in load_runs(Path(self.config.outputs))[0]:
            alike = [i for i, one in enumerate(self.plan.settings) if _agrees(record.identity, one)]
            seeds = [s for s, seed in enumerate(self.plan.seeds) if str(record.seed) == seed]
            for setting in alike if record.status in ("finished", "stopped early") else []:
                for seed in seeds:
                    cell = ScoredCell.read(setting, seed, self.config_of(setting, seed))
                    found += [(setting, seed)] if cell and cell.folder == record.folder else []
        return found

    def view(self, more: Sequence[int] = ()) -> View:
        """What the runs say; `more`: settings that are running, as if they scored what is expected of them."""
        return self.views.of(self.cells, more)

    def open_cells(self) -> dict[int, int]:
        """{setting: the next seed it may be run with}."""
        seeds = range(len(self.plan.seeds))
        free = {i: [s for s in seeds if (i, s) not in self.tried] for i in range(len(self.plan.settings))}
        return {setting: left[0] for setting, left in free.items() if left}

    def affordable(self) -> dict[int, int]:
        """The same, of what the budget has time for."""
        left = self.budget.left(self.paid)
        return {i: seed for i, seed in self.open_cells().items() if not self.cells or self.view().seconds[i] <= left}

    def ended(self) -> str | None:
        """Why no further cell is run; None while one is."""
        if self.failures >= MOST_FAILURES:
            return f"the last {self.failures} cells failed"
        if not self.open_cells():
            return f"every setting was run with {plural(len(self.plan.seeds), 'seed')}"
        if self.cells and self.view().verdict.certainty >= CERTAIN:
            return "the answer is known"
        return None if self.affordable() else f"the budget of {self.budget} leaves no time for another run"

    def next_cells(self) -> list[tuple[int, int]]:
        """As many as there are workers: each tells most for its seconds, once those before it have been chosen."""
        batch: list[tuple[int, int]] = []
        for _ in range(self.workers if self.cells else 1):
            left = {s: seed for s, seed in self.affordable().items() if (s, seed) not in batch}
            if not left:
                break
            setting = self.best_next(list(left), [s for s, _ in batch])
            batch.append((setting, left[setting]))
        return batch

    def best_next(self, settings: list[int], running: list[int]) -> int:
        if not self.cells:  # the cheapest one, in the middle of the other axes
            examples = self.plan.grid(None, self.config.sample).examples
            cheapest = [s for s in settings if examples[s] == examples[settings].min()]
            return cheapest[len(cheapest) // 2]
        view = self.view(running)
        return best_cell(view.belief, view.scores, view.losses, settings, view.items, view.seconds)

    def record(self, batch: Sequence[tuple[int, int]], seconds: float) -> None:
        """A line for each cell: what was known when it was chosen."""
        runs = [
            {
                "folder": str(cell.folder),
                "score": cell.evaluation.scores[metric_of(self.cells).name],
                "seconds": round(cell.seconds, 3),
            }
            for cell in self.cells
        ]
        found = self.view().verdict if self.cells else None
        known = {"answer": self.name(found), "certainty": round(found.certainty, 4)} if found else {}
        lines = [
            {
                "question": str(self.question),
                "cell": self.plan.overrides(setting, seed),
                **known,
                "seconds_to_decide": round(seconds, 3),
                "runs": runs,
            }
            for setting, seed in batch
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / DECISIONS, "a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(line)}\n" for line in lines))

    def name(self, found: Verdict) -> str:
        return self.question.name(found.answer, self.plan, self.view().grid)

    def answer(self) -> str:
        found = self.view().verdict
        return f"{self.name(found)}: {percent(found.certainty)} certain, after {plural(len(self.cells), 'run')}."

    def conclude(self, why: str) -> None:
        if not self.cells:
            return print(f"\nNo answer: {why}.", flush=True)
        self.write_answer(why)
        view = self.view()
        known = view.verdict.certainty >= CERTAIN
        head = f"{self.question}: {self.name(view.verdict)}, {percent(view.verdict.certainty)} certain"
        spent = sum(cell.seconds for cell in self.cells)
        print(
            f"\n{head}{'' if known else f'. Open: {why}'}.\n{plural(len(self.cells), 'run')} in "
            f"{format_duration(spent)}; the whole grid, each setting once, would take about "
            f"{format_duration(view.seconds.sum())}.",
            flush=True,
        )
        for line in list(self.not_run().values())[:3]:
            print(f"  {line}", flush=True)

    def write_answer(self, why: str | None) -> None:
        """`why`: the sweep has ended; None while it runs."""
        view = self.view()
        found = {
            "question": str(self.question),
            "answer": self.name(view.verdict),
            "certainty": round(view.verdict.certainty, 4),
            "known": view.verdict.certainty >= CERTAIN,
            "ended": why,
            "runs": len(self.cells),
            "seconds": round(sum(cell.seconds for cell in self.cells), 1),
            "seconds_of_whole_grid": round(float(view.seconds.sum()), 1),
            "not_run": self.not_run(),
        }
        write_json(self.folder / ANSWER, found)

    def not_run(self) -> dict[str, str]:
        """{setting: why no run of it was needed}, the ones that may come nearest first."""
        view, run = self.view(), {cell.setting for cell in self.cells}
        best = self.question.setting(view.verdict.answer, view.scores, view.grid)
        lead = np.quantile(view.scores - view.scores[:, [best]], 0.95, axis=0)
        others = (i for i in range(len(self.plan.settings)) if i not in run and i != best)
        left = sorted(others, key=lambda i: -lead[i])
        return {self.plan.name(i): self._why_not(i, best, float(lead[i])) for i in left}

    def _why_not(self, setting: int, best: int, lead: float) -> str:
        how = f"at most {lead:.1f} better" if lead > 0 else f"at least {-lead:.1f} worse"
        return f"{self.plan.name(setting)} not run: {how} than {self.plan.name(best)}, 95 %"


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
