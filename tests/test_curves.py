"""The curves of a run, wherever one looks: the terminal, a pipe, TensorBoard, W&B and metrics.csv say the same."""

import csv
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llama_exp.report import loss_page
from llama_exp.training.progress import format_metrics
from tests.conftest import ROOT, python, small
from tests.wandb_files import history, offline_files

CURVES = ("loss", "validation_loss", "lr", "grad_norm", "tokens_per_second")


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(run: Path) -> dict[str, dict[int, float]]:
    """{curve: {step: value}} of metrics.csv."""
    return {key: {int(row["step"]): float(row[key]) for row in rows_of(run) if row[key]} for key in CURVES}


def trained(outputs: Path, *words: str, env: dict[str, str] | None = None) -> tuple[Path, str]:
    """(the run's folder, what was said) of a small run whose output goes into a pipe."""
    done = subprocess.run(python("train.py", *small(), *words, f"outputs={outputs}"), cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, **(env or {})})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = outputs.glob("squad/*")
    return run, done.stdout


def latest(run: Path) -> dict[str, str]:
    """The last number of each curve, as people are told it."""
    return format_metrics({key: list(values.values())[-1] for key, values in written(run).items()})


def test_tensorboard_has_every_curve_and_a_pipe_gets_a_line_at_each_validation(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, said = trained(tmp_path, "logger=tensorboard")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for key, values in written(run).items():
        assert {event.step: event.value for event in events.Scalars(key)} == pytest.approx(values, rel=1e-5), key
    lines = re.findall(r"^  step (\d+)/4  (.+)  about \d+ s left$", said, re.MULTILINE)
    assert [step for step, _ in lines] == ["2", "4"]
    assert lines[-1][1] == "  ".join(f"{name} {number}" for name, number in latest(run).items())


def test_wandb_has_every_curve(tmp_path):
    run, _ = trained(tmp_path, "logger=wandb", env={"WANDB_MODE": "offline"})
    [file] = offline_files(run)
    found = {key: {} for key in CURVES}
    for row in history(file):
        for key in CURVES:
            if key in row:
                found[key][int(row["trainer/global_step"])] = float(row[key])
    assert {key: sorted(values) for key, values in found.items()} == {k: sorted(v) for k, v in written(run).items()}
    for key, values in written(run).items():
        assert found[key] == pytest.approx(values, rel=1e-5), key


def test_a_terminal_shows_every_curve_in_one_bar_by_steps_also_where_a_step_has_several_parts(tmp_path):
    words = [*small(), "micro_batch=2", f"outputs={tmp_path}"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.environ.update(TERM="xterm", COLUMNS="140")
        os.execv(sys.executable, [sys.executable, "train.py", *words])
    said = b""
    while True:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
    assert os.waitpid(pid, 0)[1] == 0, said
    [run] = tmp_path.glob("squad/*")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r", "\n").split("\n")
    wanted = " ".join(f"{name}: {number}" for name, number in {"step": "4/4", **latest(run)}.items())
    assert any(line.strip().endswith(wanted) for line in lines), (wanted, lines[-20:])
    assert "Epoch" not in said.decode()


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)", as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(colour: str, paper: str, opacity: float = 1.0) -> float:
    """WCAG's ratio of a colour, laid over the paper with this opacity."""
    over, under = ([int(part) for part in re.findall(r"\d+", one)[:3]] for one in (colour, paper))
    mixed = str([round(opacity * a + (1 - opacity) * b) for a, b in zip(over, under, strict=True)])
    light, dark = sorted((luminance(mixed), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_run_with_early_stopping_names_the_step_it_keeps(tmp_path):
    rows = ["3,3.2,3.1", "6,3.0,2.95", "9,2.5,2.915", "12,2.1,2.95"]
    (tmp_path / "metrics.csv").write_text("step,loss,validation_loss\n" + "\n".join(rows))
    kept = "Early stopping keeps step 9, validation loss 2.915; training ended at step 12."
    for keeps_best in (True, False):
        loss_page.write(tmp_path, "Stopped early: 12 steps.", "validation_loss" if keeps_best else None)
        assert (kept in (tmp_path / "losses.html").read_text()) == keeps_best


def test_the_smoothed_loss_is_the_mean_around_each_step_and_needs_enough_of_them():
    line = [(float(step), 2.0 * step) for step in range(40)]
    found = loss_page.smoothed(line)
    assert found[20] == (20.0, 40.0) and found[0] == (0.0, 2.0), "half a window at the ends"
    assert loss_page.smoothed(line[:19]) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_the_losses_can_be_read_in_the_light_in_the_dark_and_on_a_phone(tmp_path, browse, scheme, width):
    rows = [f"{step},{9 - step / 5 + step % 2},{8 - step / 10},0.001,2.5,3000" for step in range(1, 41)]
    (tmp_path / "metrics.csv").write_text(
        "step,loss,validation_loss,lr,grad_norm,tokens_per_second\n" + "\n".join(rows)
    )
    loss_page.write(tmp_path, "Finished.")
    page = browse(f"file://{tmp_path}/losses.html", viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    drawn = page.evaluate("""[...document.querySelectorAll('svg path')].map((one) => getComputedStyle(one))
        .filter((one) => one.fill === 'none').map((one) => [one.stroke, +one.strokeOpacity])""")
    training = "rgb(161, 102, 0)" if scheme == "light" else "rgb(217, 161, 59)"
    validation = "rgb(0, 114, 178)" if scheme == "light" else "rgb(98, 181, 234)"
    lines = [(stroke, opacity) for stroke, opacity in drawn if stroke in (training, validation)]
    assert {*lines} == {(training, 0.8), (training, 1), (validation, 1)}, "each step is paler than the smoothed loss"
    assert all(contrast(stroke, paper, opacity) >= 3 for stroke, opacity in lines)
    words = page.locator("svg text").all()
    shown = [one for one in words if one.is_visible()]
    assert len(words) > len(shown) > 20, "the figure is there for two widths, and one is shown"
    widths = page.locator("svg").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
    assert all(0 <= one <= width for one in widths), "no figure is cut"
    for one in shown:
        assert one.evaluate("(one) => one.getBoundingClientRect().height") >= 9, one.inner_text()
        assert contrast(one.evaluate("(one) => getComputedStyle(one).fill"), paper) >= 4.5, one.inner_text()
