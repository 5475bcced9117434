"""One run at a time in an output folder."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from alignflow.errors import InputError
from alignflow.files import remove_partial

logger = logging.getLogger(__name__)

FILE = ".lock"
WAIT = 3.0  # seconds: a process that was killed a moment ago may not have ended yet
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}

_held: dict[Path, tuple[FileLock, bool]] = {}  # and whether its folder was made for it


def lock_output_dir(folder: str | Path) -> None:
    """Keep an output folder to this process until it ends; clear what a killed one left there.

    The kernel drops the lock with its process, however that ends; of a killed one the file stays
    and means nothing. Of the processes that torchrun starts the first one holds it.

    Args:
        folder: created where it does not exist.

    Raises:
        InputError: another process works there, or nothing can be written there.
    """
    path = Path(folder).resolve() / FILE
    if path in _held or int(os.environ.get("RANK", "0")) > 0:
        return
    created = not path.parent.exists()
    lock = FileLock(path, fallback_to_soft=False, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=WAIT)
        path.write_text(
            f"process {os.getpid()} on {platform.node()} since {_now()}\n", encoding="utf-8"
        )
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except Timeout as error:
        user = path.read_text(encoding="utf-8").strip() or "another process"
        raise InputError(
            f"output_dir '{folder}': in use by {user}; wait for its end, stop it, or give another "
            "folder"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise InputError(
                f"output_dir '{folder}': cannot be written ({error.strerror}); give another "
                "folder, or make room and let this user write there"
            ) from error
        logger.warning("'%s': its file system has no locks; start no second run there", folder)
    if not _held:
        atexit.register(_release_of, os.getpid())
    _held[path] = (lock, created)
    remove_partial(path.parent, skip=FILE)


def release_all() -> None:
    """Give all folders free, at the end, or in a process that goes on to something else.

    A folder that was made for the lock, and got nothing else, is removed.
    """
    while _held:
        path, (lock, created) = _held.popitem()
        # Removed while it is held: who waits for it sees that, and makes another one.
        with suppress(OSError):
            path.unlink()
        lock.release(force=True)
        if created:
            with suppress(OSError):
                path.parent.rmdir()


def _release_of(process: int) -> None:
    if os.getpid() == process:  # and not in a process forked from it
        release_all()


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
