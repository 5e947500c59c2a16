"""One adaptive sweep: take up what is there, run what tells most for its seconds, stop when the answer is known."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from llama_exp.adaptive.belief import Belief, Believer, Grid, Observed
from llama_exp.adaptive.budget import Budget
from llama_exp.adaptive.choose import Verdict, verdict, worth
from llama_exp.adaptive.plan import Plan
from llama_exp.adaptive.questions import Question
from llama_exp.adaptive.scores import ScoredCell, expected_seconds, metric_of, observed, span_of
from llama_exp.config.compose import load_config
from llama_exp.formatting import format_duration, percent, plural
from llama_exp.metrics import describe
from llama_exp.report.load import load_runs
from llama_exp.runs.files import write_json
from llama_exp.runs.run import Outcome, Run

CERTAIN = 0.95
DECISIONS, ANSWER = "decisions.jsonl", "adaptive.json"
MOST_FAILURES = 3  # one after another: then it is not the setting


@dataclasses.dataclass(frozen=True)
class View:
    """What is known at one moment: the grid with its sizes, the draws of all scores, and the answer they give."""

    grid: Grid
    belief: Belief
    losses: np.ndarray
    verdict: Verdict
    runs: Observed

    @property
    def items(self) -> float:
        """Variance of one more run by chance of the items."""
        return float(np.diag(self.runs.items).mean()) if len(self.runs.settings) else 0.0


class Search:
    def __init__(self, plan: Plan, question: Question, budget: Budget, launcher: Launcher, config: DictConfig) -> None:
        self.plan, self.question, self.budget, self.launcher, self.config = plan, question, budget, launcher, config
        self.cells: list[ScoredCell] = []
        self.tried: set[tuple[int, int]] = set()  # (setting, seed), scored or failed
        self.failures = 0  # since the last cell that was scored
        self.returns: list[JobReturn] = []
        self.believers: dict[bytes, Believer] = {}  # by the sizes of the grid
        self.folder = Path(config.outputs) / "report"

    def run(self) -> list[JobReturn]:
        self.launch(self.plan.untuned())
        self.launch(self.there_already())
        while (why := self.ended()) is None:
            began = time.perf_counter()
            batch = self.next_cells()
            self.record(batch, time.perf_counter() - began)
            self.launch(batch)
            if self.cells:
                print(f"  So far: {self.answer()}", flush=True)
        self.conclude(why)
        return self.returns

    @property
    def workers(self) -> int:
        return int(getattr(self.launcher, "workers", None) or 1)

    def launch(self, batch: Sequence[tuple[int, int]]) -> None:
        if not batch:
            return
        overrides = [self.plan.overrides(setting, seed) for setting, seed in batch]
        found = list(self.launcher.launch(overrides, initial_job_idx=len(self.returns)))
        self.returns += found
        for (setting, seed), job in zip(batch, found, strict=True):
            outcome = job._return_value
            cell = ScoredCell.read(setting, seed, outcome.folder) if isinstance(outcome, Outcome) else None
            self.tried.add((setting, seed))
            self.failures = 0 if cell else self.failures + 1
            if cell and setting >= 0:
                self.cells.append(cell)

    def there_already(self) -> list[tuple[int, int]]:
        """Cells that an earlier command has trained: launching them costs a moment, and tells what they scored."""
        found = []
        for record in load_runs(Path(self.config.outputs))[0]:
            alike = [i for i, one in enumerate(self.plan.settings) if _agrees(record.identity, one)]
            seeds = [s for s, seed in enumerate(self.plan.seeds) if str(record.seed) == seed]
            for setting in alike if record.status in ("finished", "stopped early") else []:
                found += [(setting, s) for s in seeds if self.folder_of(setting, s) == record.folder]
        return found

    def folder_of(self, setting: int, seed: int) -> Path:
        return Run.of(load_config(*(o.lstrip("+") for o in self.plan.overrides(setting, seed)))).folder

    def view(self, more: Sequence[int] = ()) -> View:
        """What the runs say; `more`: settings that are running, as if they scored what is expected of them."""
        metric = metric_of(self.cells)
        whole = next((c.examples for c in self.cells if self.plan.is_whole(c.setting)), None)
        grid = self.plan.grid(whole, self.config.sample)
        key = grid.examples.tobytes()
        if key not in self.believers:
            self.believers[key] = Believer(grid, span_of(self.cells, metric))
        runs = observed(self.cells, metric)
        belief = self.believers[key].after(runs)
        if more:
            runs = runs.with_runs(more, belief.scores[:, list(more)].mean(axis=0))
            belief = self.believers[key].after(runs)
        lower = describe(metric, self.cells[0].evaluation.results.declared).lower_is_better
        losses = self.question.loss(-belief.scores if lower else belief.scores, grid, -1.0 if lower else 1.0)
        return View(grid, belief, losses, verdict(losses), runs)

    def open_cells(self) -> dict[int, int]:
        """{setting: the next seed it may be run with}."""
        seeds = range(len(self.plan.seeds))
        free = {i: [s for s in seeds if (i, s) not in self.tried] for i in range(len(self.plan.settings))}
        return {setting: left[0] for setting, left in free.items() if left}

    def ended(self) -> str | None:
        """Why no further cell is run; None while one is."""
        left = self.open_cells()
        if self.failures >= MOST_FAILURES:
            return f"the last {self.failures} cells failed"
        if not left:
            return f"every setting was run with {plural(len(self.plan.seeds), 'seed')}"
        spent = sum(cell.seconds for cell in self.cells)
        if self.budget.left(spent) <= 0:
            return f"the budget of {self.budget} is spent"
        if not self.cells:
            return None
        view = self.view()
        if view.verdict.certainty >= CERTAIN:
            return "the answer is known"
        cheapest = expected_seconds(self.cells, view.grid.examples[list(left)]).min()
        return (
            f"the budget of {self.budget} leaves no time for another run"
            if cheapest > self.budget.left(spent)
            else None
        )

    def next_cells(self) -> list[tuple[int, int]]:
        """As many as there are workers: each tells most for its seconds, once those before it have been chosen."""
        batch: list[tuple[int, int]] = []
        for _ in range(self.workers):
            left = {s: seed for s, seed in self.open_cells().items() if (s, seed) not in batch}
            if not left or (not self.cells and batch):
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
        seconds = expected_seconds(self.cells, view.grid.examples[settings])
        return settings[int(np.argmax(worth(view.belief, view.losses, settings, view.items) / seconds))]

    def record(self, batch: Sequence[tuple[int, int]], seconds: float) -> None:
        """A line for each cell: what was known when it was chosen. The same scores and seconds choose the same cell."""
        lines = []
        for setting, seed in batch:
            line: dict[str, Any] = {"cell": self.plan.overrides(setting, seed), "seconds_to_decide": round(seconds, 3)}
            if self.cells:
                view = self.view()
                line |= {"answer": self.name(view.verdict), "certainty": round(view.verdict.certainty, 4)}
            line["runs"] = [
                {
                    "setting": c.setting,
                    "seed": c.seed,
                    "score": c.evaluation.scores[metric_of(self.cells)],
                    "seconds": round(c.seconds, 3),
                }
                for c in self.cells
            ]
            lines.append(json.dumps(line))
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / DECISIONS, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def name(self, found: Verdict) -> str:
        return self.question.name(found.answer, self.plan, self.view().grid)

    def answer(self) -> str:
        found = self.view().verdict
        return f"{self.name(found)}: {percent(found.certainty)} certain, after {plural(len(self.cells), 'run')}."

    def conclude(self, why: str) -> None:
        if not self.cells:
            return print(f"\nNo answer: {why}.", flush=True)
        view = self.view()
        spent = sum(cell.seconds for cell in self.cells)
        whole = expected_seconds(self.cells, view.grid.examples).sum()
        known = view.verdict.certainty >= CERTAIN
        head = f"{self.question}: {self.name(view.verdict)}, {percent(view.verdict.certainty)} certain"
        print(
            f"\n{head}{'' if known else f'. Open: {why}'}.\n{plural(len(self.cells), 'run')} in "
            f"{format_duration(spent)}; the whole grid, each setting once, would take about {format_duration(whole)}.",
            flush=True,
        )
        rest = self.not_run(view)
        for line in list(rest.values())[:3]:
            print(f"  {line}", flush=True)
        write_json(
            self.folder / ANSWER,
            {
                "question": str(self.question),
                "answer": self.name(view.verdict),
                "certainty": round(view.verdict.certainty, 4),
                "known": known,
                "ended": why,
                "runs": len(self.cells),
                "seconds": round(spent, 1),
                "seconds_of_whole_grid": round(float(whole), 1),
                "not_run": rest,
            },
        )

    def not_run(self, view: View) -> dict[str, str]:
        """{setting: why no run of it was needed}, the ones that may come nearest first."""
        best = int(self.question.setting(view.verdict.answer, view.belief.scores, view.grid))
        sign = -1.0 if describe(metric_of(self.cells)).lower_is_better else 1.0
        lead = np.quantile(sign * (view.belief.scores - view.belief.scores[:, [best]]), 0.95, axis=0)
        run = {cell.setting for cell in self.cells}
        left = sorted((i for i in range(len(self.plan.settings)) if i not in run), key=lambda i: -lead[i])
        other = self.plan.name(best)
        return {
            self.plan.name(i): f"{self.plan.name(i)} not run: at most {lead[i]:.1f} better than {other}, 95 %"
            if lead[i] > 0
            else f"{self.plan.name(i)} not run: at least {-lead[i]:.1f} worse than {other}, 95 %"
            for i in left
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
