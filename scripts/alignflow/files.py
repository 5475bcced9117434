"""Atomic file writes, and errors of the disk."""

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
CUT_SHORT = -1  # not a system error: some libraries do not report its number
FULL = {
    CUT_SHORT: "a file is incomplete: the disk, quota or size limit (ulimit -f) is exhausted",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is exhausted",
    errno.EFBIG: "a file is larger than the limit allows (ulimit -f)",
}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
FULL_TEXTS = {os.strerror(code): code for code in FULL if code > 0} | {
    "disk is full": errno.ENOSPC,  # SQLite
    "fwrite wrote only": CUT_SHORT,  # NRRD
}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` if the block succeeds.

    The folder is created, and the suffixes are kept since writers choose the format by them. A
    failed block leaves no file. A link at `path` is replaced; its target is unchanged. A killed
    process may leave a file whose name matches `PARTIAL`.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # otherwise a link with that name would be followed
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
    """One line for an error due to a full disk or a folder that cannot be written; else None.

    C++ libraries and databases report such errors only as text.
    """
    for cause in causes(error):
        code = cause.errno if isinstance(cause, OSError) else None
        code = next((c for text, c in FULL_TEXTS.items() if text in str(cause)), code)
        if code in FULL:
            return InputError(
                f"'{folder}': {FULL[code]} ({_free(folder)} free); free space and repeat the "
                "command, or give another folder"
            )
        name = getattr(cause, "filename", None)
        if code in FORBIDDEN and str(name).startswith(str(folder)):
            return InputError(
                f"'{name}': cannot be written ({os.strerror(code)}); give another folder, or "
                "change its permissions"
            )
    return None


def _free(folder: str | Path) -> str:
    existing = next(p for p in (Path(folder).absolute() / "x").parents if p.exists())
    return f"{shutil.disk_usage(existing).free / 2**20:.1f} MiB"


def remove_partial(folder: Path, skip: str) -> None:
    """Remove incomplete files of a killed process in a folder that no other process uses.

    Args:
        folder: folder, including its subfolders.
        skip: subfolders that contain a file of this name are skipped.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not Path(place, name, skip).exists()]
        for name in filter(PARTIAL.fullmatch, files):
            Path(place, name).unlink(missing_ok=True)


def save_tensors(content: Any, path: str | Path) -> None:
    """Atomic `torch.save`; equal content gives equal bytes.

    A file object is used because torch would write the name of a path into the archive.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_tensors(path: str | Path) -> Any:
    """Load a file written by `save_tensors`, on the CPU.

    The checksums in the archive are verified, since torch does not notice changed bits.

    Raises:
        InputError: the file is missing, incomplete, changed, or not such an archive.
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
