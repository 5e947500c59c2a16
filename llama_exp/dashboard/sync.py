"""Uploads what was logged offline, through `wandb sync`, and counts by its marks what arrived."""

import subprocess
import sys
from pathlib import Path

from llama_exp.dashboard.command import SyncOptions
from llama_exp.dashboard.save import log_in
from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.runs.lock import FolderBusy, lock_folder
from llama_exp.sanitize import clean


def sync_runs(options: SyncOptions) -> int:
    """Exit code 1: something was not uploaded."""
    outputs = Path(options.outputs)
    parts = offline_parts(outputs)
    if not parts:
        why = "no run was logged offline there" if outputs.is_dir() else "there is no such folder"
        raise UserError(
            f"Nothing to upload in {clean(outputs)}: {why}. logger=wandb logs a run, outputs=FOLDER names it."
        )
    new = [part for part in parts if not is_uploaded(part)]
    if before := len(parts) - len(new):
        print(f"{plural(before, 'part')} of {len(parts)} uploaded before.")
    ready = [part for part in new if not is_busy(part)]
    if busy := len(new) - len(ready):
        print(f"{plural(busy, 'part')} left out: another process works on the run.")
    for part in ready:
        print(f"{'would upload' if options.dry_run else 'uploading'} {clean(part.relative_to(outputs))}", flush=True)
    if options.dry_run or not ready:
        return int(bool(busy))
    log_in("Nothing was uploaded")
    message = upload(ready, options)
    missing = [part for part in ready if not is_uploaded(part)]
    if len(missing) == len(ready):
        raise UserError(f"Nothing was uploaded. {message}Is the name right, the server reachable?")
    print(f"{len(ready) - len(missing)} of {plural(len(ready), 'part')} uploaded.", flush=True)
    if missing:
        print(f"{message}The same command tries the others again.", flush=True)
    return int(bool(missing or busy))


def offline_parts(outputs: Path) -> list[Path]:
    """The folders that offline processes wrote, oldest first: their names begin with the time of their start.

    A run has several where it was resumed, or evaluated later; they are uploaded to one run, in this order.
    """
    found = [part for part in outputs.glob("**/wandb/offline-run-*-*") if any(part.glob("*.wandb"))]
    return sorted(found, key=lambda part: part.name)


def is_uploaded(part: Path) -> bool:
    return any(part.glob("*.wandb.synced"))


def is_busy(part: Path) -> bool:
    """Whether somebody still writes it: what is uploaded now would be taken for the whole."""
    try:
        with lock_folder(part.parents[1]):
            return False
    except FolderBusy:
        return True


def upload(parts: list[Path], options: SyncOptions) -> str:
    """Runs side by side, the parts of a run one after the other: wandb sorts them by their start. Returns its last
    line, where it had something to say."""
    given = {"--entity": options.entity, "--project": options.project}
    named = [word for name, value in given.items() if value for word in (name, value)]
    command = [sys.executable, "-m", "wandb", "sync", *named, "--", *map(str, parts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return f"wandb: {clean(lines[-1].removeprefix('wandb: '))}. " if lines else ""
