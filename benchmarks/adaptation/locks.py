"""Work that processes share: a lock for each piece, held as long as somebody works on it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Busy(Exception):
    """Another process works on this piece."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold the lock `path`; gives its file descriptor. With `wait`, wait until it is free.

    The kernel drops the lock with the last process that has the descriptor open, so a crash leaves
    nothing to clear. A child that gets the descriptor (`pass_fds`) keeps the lock if its parent
    dies before it.

    Raises:
        Busy: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(str(path)) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())  # for people who look
        yield descriptor
    finally:
        os.close(descriptor)
