"""One process at a time works in a folder, whichever machines share it.

Who works there has a file in it, whose time a thread renews: a lease. It needs neither locks of the file system, which
network file systems lack or keep to one machine, nor clocks that agree: whoever waits looks whether that time changes,
and counts the seconds itself.
"""

import contextlib
import errno
import functools
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from llama_exp.errors import UserError
from llama_exp.processes import process_number

LOCK = ".lease"
# Seconds without a sign of life after which a process of another machine counts as dead. NFS shows a change after a
# minute at the latest, and a node that swaps may miss a beat.
LEASE, HEARTBEAT = 180.0, 30.0
UNWRITABLE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


class FolderBusy(UserError):
    """Another process works in the folder."""

    def __init__(self, message: str, folder: Path):
        super().__init__(message)
        self.folder = folder


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process while the block runs. FolderBusy where another process holds it, another
    UserError where it is not writable.

    A process of this machine that has ended, however it ended, holds nothing. One of another machine is watched until
    it renews its lease (30 s) or counts as dead (3 minutes). Of the processes that train one run the first holds it for
    all.
    """
    if process_number() > 0:
        yield
        return
    path = Path(folder) / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _acquired(path):
            yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. Free some space or choose another place: "
            "outputs=FOLDER."
        ) from error


def lease(path: Path) -> SoftFileLease:
    """The lease on a file. It takes a dead machine's over only if it has itself watched it for long enough: keep it."""
    return SoftFileLease(path, lease_duration=LEASE, heartbeat_interval=HEARTBEAT, on_compromise=_stop)


def _stop(lost: LeaseCompromise) -> None:
    """Another process works here now, because this one seemed dead: end it, with a checkpoint."""
    print(f"Another process has taken over {Path(lost.lock_file).parent} ({lost.reason}).", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _acquired(path: Path) -> contextlib.AbstractContextManager:
    wanted, first = lease(path), _holder(path)

    def is_alive() -> bool:
        return _holder(path) != first or first.get("host") in (None, _own_host())

    try:
        return wanted.acquire(blocking=False)
    except Timeout:
        if not is_alive():
            print(f"{first['host']} may have died while it worked in {path.parent}: watching it …", flush=True)
    try:
        return wanted.acquire(timeout=2 * LEASE, poll_interval=min(1.0, HEARTBEAT / 3), cancel_check=is_alive)
    except Timeout:
        who = f"process {first['pid']} on {first['host']}" if first else f"if none does, delete {path}"
        raise FolderBusy(
            f"Another process works in {path.parent} ({who}). Wait for it, or stop it, and type the same command "
            "again.",
            path.parent,
        ) from None


def _holder(path: Path) -> dict[str, str]:
    """{"host": …, "pid": …, "renewed": …} of a lease; {} where there is none, or none that can be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:  # opening it makes NFS ask its server
            fields = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
            return {**fields, "renewed": str(os.fstat(file.fileno()).st_mtime_ns)} if "host" in fields else {}
    except OSError:
        return {}


@functools.cache
def _own_host() -> str:
    """This machine as a lease names it; a container is a machine of its own."""
    with tempfile.TemporaryDirectory() as folder, lease(Path(folder, LOCK)).acquire():
        return _holder(Path(folder, LOCK))["host"]
