"""Files in a data folder that are not data: those of a system, and stand-ins for content."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from pathlib import Path

from alignflow.errors import InputError

SYSTEM = {
    *("thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),  # Windows
    *("__macosx", "lost+found"),
    *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot"),  # Synology, QNAP
}
LFS = b"version https://git-lfs.github.com/spec/"
ANNEX = re.compile(rb"/?annex/objects/\S+\s*")
GZIP = b"\x1f\x8b"
ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
NIFTI_STARTS = tuple(size.to_bytes(4, "little") for size in (348, 540)) + tuple(
    size.to_bytes(4, "big") for size in (348, 540)
)


def is_system(path: Path) -> bool:
    """Whether a file or folder is hidden, or one that a system leaves beside data."""
    return path.name.startswith((".", "~$")) or path.name.casefold() in SYSTEM


def require_here(path: Path, what: str) -> None:
    """Refuse a name whose content lies elsewhere.

    Args:
        path: a file or folder.
        what: "image" or "mask", for the message.

    Raises:
        InputError: no such file, a link to nothing, a pointer of Git LFS or git-annex.
    """
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        fix = "get it with `datalad get`, or `git annex get`"
        if "annex/objects" not in target:
            fix = "correct the link, or copy the file here"
        raise InputError(f"{what} '{path}': a link to '{target}', which is not there; {fix}")
    if not path.exists():
        raise InputError(f"{what} '{path}': no such file; correct the path")
    start = _first_bytes(path) if path.is_file() else b""
    if start.startswith(LFS):
        raise InputError(
            f"{what} '{path}': a Git LFS pointer, not the file; get it with `git lfs pull`"
        )
    if ANNEX.fullmatch(start):
        raise InputError(
            f"{what} '{path}': a git-annex pointer, not the file; get it with `datalad get`, or "
            "`git annex get`"
        )


def require_packing(path: Path, what: str) -> None:
    """Refuse a file that is packed in another way than its name says.

    Args:
        path: a file.
        what: "image" or "mask", for the message.

    Raises:
        InputError: gzip that the name does not say, or says of a file that is not packed; gzip
            within gzip; an archive; a web page in place of a download.
    """
    start, name = _first_bytes(path), path.name
    is_packed, ends_in_gz = start.startswith(GZIP), name.lower().endswith(".gz")
    within = _unpacked(path) if is_packed else start
    if kind := _archive(within):
        raise InputError(f"{what} '{path}': a {kind} archive; unpack it and give the file in it")
    if re.match(rb"\s*<(!doctype\s+html|html)\b", start, re.IGNORECASE):
        raise InputError(f"{what} '{path}': a web page, not an image; download it again")
    if is_packed and not ends_in_gz:
        fix = f"rename it to '{name}.gz'" if name.lower().endswith(".nii") else "unpack it"
        raise InputError(f"{what} '{path}': packed with gzip, which its name does not say; {fix}")
    if ends_in_gz and start.startswith(NIFTI_STARTS):
        raise InputError(
            f"{what} '{path}': not packed, though its name ends in .gz; rename it to '{name[:-3]}'"
        )
    if is_packed and within.startswith(GZIP):
        raise InputError(f"{what} '{path}': packed with gzip twice; unpack it once (gunzip)")


def _archive(start: bytes) -> str:
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for mark, kind in ARCHIVES.items() if start.startswith(mark)), "")


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(1024)
    except (OSError, EOFError, zlib.error):  # damage, which is told of where the file is read
        return b""


def is_dicom(path: Path) -> bool:
    """Whether a file, whatever its name, has the prefix of DICOM (PS3.10, 7.1)."""
    return _first_bytes(path)[128:132] == b"DICM"


def _first_bytes(path: Path) -> bytes:
    """The first 1024, more than a pointer has; empty where the file cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError:
        return b""
