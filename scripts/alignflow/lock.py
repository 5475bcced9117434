"""Locks output folders, so that only one run at a time writes there."""

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
WAIT = 3.0  # seconds, since a process that was just killed may not have ended yet
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}

_held: dict[Path, tuple[FileLock, bool]] = {}  # and whether its folder was created for it


def lock_output_dir(folder: str | Path) -> None:
    """Lock an output folder until this process ends, and remove incomplete files in it.

    The kernel releases the lock when the process ends or is killed; the lock file of a killed
    process has no effect. With torchrun the first process has the lock.

    Args:
        folder: created if it does not exist.

    Raises:
        InputError: another process uses the folder, or it cannot be written.
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
            f"output_dir '{folder}': in use by {user}; wait until it ends, stop it, or give "
            "another folder"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise InputError(
                f"output_dir '{folder}': cannot be written ({error.strerror}); give another "
                "folder, or free space and give this user write permission"
            ) from error
        logger.warning(
            "'%s': its file system has no locks; do not start a second run there", folder
        )
    if not _held:
        atexit.register(_release_of, os.getpid())
    _held[path] = (lock, created)
    remove_partial(path.parent, skip=FILE)


def release_all() -> None:
    """Release all locks.

    A folder that was created for its lock is removed if it is empty.
    """
    while _held:
        path, (lock, created) = _held.popitem()
        # Removed while locked, so that a waiting process notices and creates a new file.
        with suppress(OSError):
            path.unlink()
        lock.release(force=True)
        if created:
            with suppress(OSError):
                path.parent.rmdir()


def _release_of(process: int) -> None:
    if os.getpid() == process:  # not in a forked process
        release_all()


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
