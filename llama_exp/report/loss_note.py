"""What one run's losses show, in a sentence. Light: a training prints it, and another process may draw them."""

from collections.abc import Sequence

from llama_exp import metrics
from llama_exp.formatting import percent
from llama_exp.report.templating import Sentences

Points = Sequence[tuple[float, float]]  # (step, value)
RISE, FALL = 0.02, 0.01  # shares of the loss: less is the noise of a validation sample
SAY = Sentences("loss_note")


def points(rows: Sequence[dict[str, str]], key: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that hold a value; a line cut short by a kill holds none."""
    found = []
    for row in rows:
        try:
            found.append((float(row["step"]), float(row[key])))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def note(validation: Points, training: Points = ()) -> str:
    """Whether more steps would help, by the validation loss, and whether the training loss went the same way."""
    if len(validation) < 2:
        return SAY.too_few()
    best_step, best = best_point(validation)
    last_step, last = validation[-1]
    if last > (1 + RISE) * best:
        sentence = SAY.both_rise if rose(training, best_step) else SAY.overfitting
        return sentence(step=f"{best_step:,.0f}", best=f"{best:.3f}", last=f"{last:.3f}")
    if best_step < last_step:
        return SAY.flat_since_best(last=f"{last:.3f}", step=f"{best_step:,.0f}", best=f"{best:.3f}")
    earlier = [point for point in validation if point[0] <= last_step * 2 / 3] or validation[:1]
    step, before = earlier[-1]
    if before > (1 + FALL) * last:
        steps = {"first_step": f"{step:,.0f}", "last_step": f"{last_step:,.0f}"}
        return SAY.still_falling(**steps, before=f"{before:.3f}", last=f"{last:.3f}")
    return SAY.flat(last=f"{last:.3f}", step=f"{step:,.0f}", least=percent(FALL))


def best_point(validation: Points) -> tuple[float, float]:
    """(step, loss) of the lowest validation loss; of equal ones, to the printed digits, the last."""
    return min(reversed(validation), key=lambda point: round(point[1], 3))


def kept(validation: Points, last_step: float, column: str = "validation_loss") -> str:
    """Which step a run with early stopping kept: the first of the lowest validation loss, or the best score."""
    if not validation:
        return ""
    score = metrics.describe("loss" if column == "validation_loss" else column)
    step, best = (min if score.lower_is_better else max)(validation, key=lambda point: point[1])
    what = "validation loss" if column == "validation_loss" else f"validation {score.label}"
    return SAY.kept(what=what, step=f"{step:,.0f}", best=f"{best:.3f}", last=f"{last_step:,.0f}")


def rose(training: Points, step: float) -> bool:
    """Whether the mean training loss after a step is above that of the stretch of equal length before it."""
    after = [loss for when, loss in training if when > step]
    before = [loss for when, loss in training if when <= step][-len(after) :]
    return bool(after and before) and sum(after) / len(after) > (1 + RISE) * sum(before) / len(before)
