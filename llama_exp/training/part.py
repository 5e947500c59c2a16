"""stop_at=0.25: train a part of a run.

The same command goes on later, and leaves what a run leaves that never stopped: a checkpoint is exact, and no
validation is added.
"""

import math

from llama_exp.config.schema import Config
from llama_exp.errors import UserError
from llama_exp.report.loss_note import points
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
    # 0.7 * 10 is 7.000000000000001
    step = max(interval, interval * math.ceil(round(config.stop_at * steps / interval, 6)))
    return step if step < steps else None


def status(step: int, steps: int) -> str:
    return f"{PART}{100 * step // steps} %"


def already_there(run: Run) -> Outcome | None:
    """The outcome of a run that an earlier command has stopped, if it was validated at or after `stop_at`; None where
    it has to train.

    Where it stopped is not enough: a killed run that is past its rung is stopped between two validations.
    """
    summary, wanted = run.summary, run.config.stop_at
    if wanted is not None and run.config.trainer.get("limit_val_batches") == 0:
        raise UserError(f"stop_at={wanted:g} stops at a validation, and trainer.limit_val_batches=0 makes none.")
    if wanted is None or summary is None or not summary.is_part or not run.checkpoint.is_file():
        return None
    steps, planned = summary.steps or 0, summary.planned_steps or 0
    validated = [at for at, _ in points(run.metrics(), "validation_loss") if at <= steps]
    if not planned or not validated or validated[-1] < round(wanted * planned, 6):
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
