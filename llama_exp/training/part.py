"""stop_at=0.25: train a part of a run.

The same command goes on later, and leaves what a run leaves that never stopped: a checkpoint is exact, and no
validation is added.
"""

import math

from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.formatting import percent
from llama_exp.report.loss_page import points
from llama_exp.runs.run import Outcome, Run
from llama_exp.runs.summary import PART, Summary


def last_step(config: Config, interval: int | None, steps: int) -> int | None:
    """The first validation at or after `stop_at`; None where the run ends before it, or with it.

    interval: optimizer steps between two validations; None where there are none.
    """
    if config.stop_at is None:
        return None
    if interval is None:
        raise UserError(f"stop_at={config.stop_at:g} stops at a validation, and there are no validation Examples.")
    step = interval * math.ceil(round(config.stop_at * steps / interval, 6))  # 0.7 * 10 is 7.000000000000001
    return step if step < steps else None


def status(step: int, steps: int) -> str:
    return f"{PART}{percent(step / steps)}"


def already_there(run: Run) -> Outcome | None:
    """The outcome of a run that an earlier command has stopped at `stop_at`, or after it; None where it has to train.

    It was stopped at a validation, so this is one at or after `stop_at`.
    """
    summary, wanted = run.summary, run.config.stop_at
    if wanted is None or summary is None or not summary.is_part or not run.checkpoint.is_file():
        return None
    if not summary.steps or not summary.planned_steps or summary.steps < round(wanted * summary.planned_steps, 6):
        return None
    return outcome(run, summary, trained=False)


def outcome(run: Run, summary: Summary, trained: bool = True) -> Outcome:
    """`stopped at 25 % (step 8 of 32), validation loss 1.234; the same command without stop_at= goes on`."""
    message = f"{summary.status} (step {summary.steps:,} of {summary.planned_steps:,})"
    if losses := points(run.metrics(), "validation_loss"):
        at, loss = losses[-1]
        message += f", validation loss {loss:.3f}" + (f" at step {at:,.0f}" if at != summary.steps else "")
    message += "; the same command without stop_at= goes on"
    if not trained:
        message = f"already {message}: not trained further"
    print(f"{run.folder}: {message}", flush=True)
    return Outcome(message, run.folder)
