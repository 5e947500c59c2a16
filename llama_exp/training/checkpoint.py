"""The checkpoint that a killed run continues from: written whole, read without executing anything."""

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """A checkpoint appears under its name only when it is whole: a kill while writing leaves the one before.

    It is read as numbers, text and tensors alone. A pickle may name any function to be called, and a run's folder may
    be a copy of somebody else's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.checked = False

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        aside = f"{path}.aside"
        super().save_checkpoint(checkpoint, aside, storage_options)
        if not self.checked:  # once: what callbacks keep does not change its types
            self.checked = True
            if reason := read_checkpoint(Path(aside))[1]:
                print(
                    f"The checkpoints of this run cannot be continued from: {reason}. A callback of yours keeps it: "
                    "let its state_dict hold numbers, text, lists, dictionaries and tensors alone.",
                    flush=True,
                )
        os.replace(aside, path)

    def load_checkpoint(self, path, map_location=None, weights_only=True) -> dict[str, Any]:
        return super().load_checkpoint(path, map_location, weights_only=True)


def read_checkpoint(path: Path) -> tuple[Any, str]:
    """(what is in a checkpoint, "") or (None, why it is not read).

    torch writes a zip archive, whose sums tell whether it is what was written. Tensors stay on disk until they are
    used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                return None, f"{name} in it is not what was written"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True), ""
    except pickle.UnpicklingError as error:
        return None, f"it holds objects, which could execute code when they are loaded ({_refused(str(error))})"
    except zipfile.BadZipFile:
        return None, "it is cut short, or no checkpoint"
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        return None, str(error).split("\n")[0][:200] or type(error).__name__


def _refused(message: str) -> str:
    """`numpy.float64` of torch's page of advice: the first thing that it did not load."""
    line = next((line for line in message.split("\n") if "GLOBAL" in line or "Unsupported" in line), message)
    return line.partition("GLOBAL ")[2].split(" ")[0] or line.strip()[:100]


def usable_checkpoint(path: Path, module: torch.nn.Module, total_steps: int) -> Path | None:
    """The checkpoint to continue from; None where there is none, or only one that does not belong here: it is put
    aside, and said."""
    if not os.path.lexists(path):
        return None
    checkpoint, reason = read_checkpoint(path)
    if not (reason := reason or misfit(checkpoint, module, total_steps)):
        return path
    aside = path.with_name(f"{path.name}.broken")
    with contextlib.suppress(FileNotFoundError):  # another rank of this run was first
        os.replace(path, aside)
    print(
        f"{path} cannot be continued from ({reason}): renamed to {aside.name}. Training restarts from step 0.",
        flush=True,
    )
    return None


def misfit(checkpoint: Any, module: torch.nn.Module, total_steps: int) -> str:
    """Why a checkpoint is not one of this run; "" where it is."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    try:
        found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        step, [optimizer], [_] = checkpoint["global_step"], checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]
        learnt = [len(group["params"]) for group in optimizer["param_groups"]]
        curves, best = checkpoint["callbacks"]["Curves"], checkpoint["callbacks"]["KeepBest"]
        numbers = [curves["seconds"], curves["training_seconds"], best["best"], best["waited"], step]
    except (TypeError, LookupError, AttributeError, ValueError) as error:
        return f"it is no checkpoint of a run: {type(error).__name__} {error}"
    if not all(isinstance(number, int | float) for number in numbers) or not 0 <= step <= total_steps:
        return f"it is at step {step}, and the run has {total_steps}"
    if differ := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        shapes = f"{found.get(differ[0])} there, {wanted.get(differ[0])} wanted"
        return f"its adapter is another: {differ[0]} is {shapes}"
    if sum(learnt) != len(wanted):
        return "its optimizer is of another adapter"
    return ""
