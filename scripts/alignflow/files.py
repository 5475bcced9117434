"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from alignflow.errors import InputError, causes

PARTIAL = re.compile(r"\.partial-\d+-.+")
CUT_SHORT = -1  # no number of the system: that of a library that keeps it to itself
FULL = {
    CUT_SHORT: "a file was cut short: the disk, the quota or the allowance (ulimit -f) is used up",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota of the disk is used up",
    errno.EFBIG: "a file would become larger than allowed here (ulimit -f)",
}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
FULL_TEXTS = {os.strerror(code): code for code in FULL if code > 0} | {
    "disk is full": errno.ENOSPC,  # SQLite
    "fwrite wrote only": CUT_SHORT,  # NRRD
}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well.

    The folder is created, the suffixes are kept (writers choose their format by them), and a
    failed block leaves nothing behind. A link at `path` is replaced, and what it leads to stays.
    What a killed process leaves has a name of `PARTIAL`.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # else a link of that name would be followed
        yield temporary
        os.replace(temporary, path)
    except Exception as error:
        if (found := storage_error(error, path.parent)) is not None:
            raise found from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def storage_error(error: BaseException, folder: str | Path) -> InputError | None:
    """An error that says that a folder takes no more, or nothing, as one line; else None.

    Libraries in C++ and databases tell it in a text alone.
    """
    for cause in causes(error):
        code = cause.errno if isinstance(cause, OSError) else None
        code = next((c for text, c in FULL_TEXTS.items() if text in str(cause)), code)
        if code in FULL:
            return InputError(
                f"'{folder}': {FULL[code]} ({_free(folder)} free); make room and give the same "
                "command again, or give another folder"
            )
        name = getattr(cause, "filename", None)
        if code in FORBIDDEN and str(name).startswith(str(folder)):
            return InputError(
                f"'{name}': cannot be written ({os.strerror(code)}); give another folder, or "
                "change who may write there"
            )
    return None


def _free(folder: str | Path) -> str:
    existing = next(p for p in (Path(folder).absolute() / "x").parents if p.exists())
    return f"{shutil.disk_usage(existing).free / 2**20:.1f} MiB"


def remove_partial(folder: Path, skip: str) -> None:
    """Remove what a killed process left half-written, below a folder that nobody else writes to.

    Args:
        folder: with all below it.
        skip: subfolders with a file of this name are left alone.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, skip).exists()]
        for name in filter(PARTIAL.fullmatch, files):
            Path(place, name).unlink(missing_ok=True)


def save_tensors(content: Any, path: str | Path) -> None:
    """`torch.save`, whole or not at all; equal content gives equal bytes.

    Given a path, torch writes the name of the temporary file, and so the process's number, into
    the archive.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_tensors(path: str | Path) -> Any:
    """What `save_tensors` wrote, on the CPU.

    torch reads tensors whose bits have changed without a word; the checksums that it wrote with
    them tell.

    Raises:
        InputError: a file that is missing, cut off, changed, or no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"checksum of {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # zipfile and torch's unpickler raise whatever they stumble over
        raise InputError(
            f"'{path}': damaged ({type(error).__name__}: {(str(error) or 'empty').splitlines()[0]})"
        ) from error


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
