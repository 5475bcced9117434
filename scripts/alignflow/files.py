"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well.

    The folder is created, the suffixes are kept (writers choose their format by them), and a
    failed block leaves nothing behind. A link at `path` is replaced, and what it leads to stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    temporary.unlink(missing_ok=True)  # else a link of that name would be followed
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(content: Any, path: str | Path) -> None:
    """`torch.save`, whole or not at all; equal content gives equal bytes.

    Given a path, torch writes the name of the temporary file, and so the process's number, into
    the archive.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
