"""One process at a time works in a folder."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from llama_exp.errors import UserError
from llama_exp.processes import process_number

LOCK = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # a file system without locks: work without one
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


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process while the block runs. FolderBusy where another process holds it, another
    UserError where it is not writable.

    The system releases the lock when the process ends, however it ends. Of the processes that train one
    run the first holds it for all.
    """
    if process_number() > 0:
        yield
        return
    path = Path(folder) / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _acquired(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # while it is held: whoever waits for this file opens a new one
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. Free some space or choose another place: "
            "outputs=FOLDER."
        ) from error


def _acquired(path: Path) -> contextlib.AbstractContextManager:
    try:
        return FileLock(path).acquire(blocking=False)
    except Timeout:
        raise FolderBusy(
            f"Another process works in {path.parent}. Wait for it, or stop it, and type the same command again."
        ) from None
    except OSError as error:
        if error.errno in NO_LOCKS:
            return contextlib.nullcontext()
        raise
