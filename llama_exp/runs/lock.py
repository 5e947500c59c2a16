"""One process at a time works in a folder."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llama_exp.errors import UserError

LOCK = ".lock"  # who holds it works in the folder


UNWRITABLE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process while the block runs; a UserError where another process holds it.

    The system lets go of the lock when the process ends, however it ends. Of the processes of one run
    (DistributedDataParallel) the first holds it for all. A file that cannot be written is a UserError too.
    """
    if any(os.environ.get(rank, "0") != "0" for rank in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
        yield
        return
    path = Path(folder) / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            file.close()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. Free some space or choose another place: outputs=FOLDER."
        ) from error


def _locked(path: Path) -> IO:
    """The open file at `path`, locked. Who held it before has removed it: then the new one of that name is tried."""
    import fcntl  # not on Windows, where a report can be made all the same

    while True:
        file = open(path, "a")  # noqa: SIM115 (its being open is the lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"Another process works in {path.parent}. Wait for it, or stop it, and type the same command again."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise  # a file system without locks: go on without
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()
