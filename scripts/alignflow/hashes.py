"""Writes and verifies the list of hashes of a packed bundle.

`SHA256SUMS` has the format of coreutils, so `sha256sum` can check a bundle as well.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from alignflow.errors import InputError

SUMS = "SHA256SUMS"
CODE = ("configs", "alignflow")  # executed by a run of the bundle
IMPORTABLE = (".py", ".pyc", ".pyd", ".so", ".pth")

File = Path | zipfile.Path


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """The content of `SHA256SUMS` for files by name, sorted."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return "".join(lines).encode()


def verify(bundle: str | Path) -> int:
    """Compare a packed bundle with its list, without running or unpacking it.

    Args:
        bundle: the zip, or the unpacked folder.

    Returns:
        The number of listed files.

    Raises:
        InputError: names the first problem: no list, a file that is changed or missing, a file that
            is not listed but could be run, or a name outside the folder.
    """
    files = _in_folder(Path(bundle)) if Path(bundle).is_dir() else _in_zip(Path(bundle))
    sums = _listed(files, bundle)
    new = sorted(name for name in files if name not in sums and _runs(name))
    _refuse(bundle, _changed(files, sums))
    _refuse(bundle, [(name, "not listed") for name in new])
    return len(sums)


def _listed(files: Mapping[str, File], bundle: str | Path) -> dict[str, str]:
    """{name: digest} from the list."""
    if SUMS not in files:
        raise InputError(f"'{bundle}': no {SUMS}, so it is not a packed bundle; unpack it again")
    content = files[SUMS].open("rb").read()
    sums = {}
    for line in content.decode(errors="replace").splitlines():
        match = re.fullmatch("([0-9a-f]{64})  (.+)", line)
        if match is None or not is_inside(match[2]) or match[2] in sums:
            raise InputError(f"'{bundle}': {SUMS} has the line {line[:100]!r}; unpack it again")
        sums[match[2]] = match[1]
    return sums


def is_inside(name: str) -> bool:
    """Whether a name is relative, portable and without `..`, so that it stays in its folder."""
    path = PurePosixPath(name)
    plain = name == str(path) and name.isprintable() and not re.search(r'[\\:*?"<>|]', name)
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _in_folder(root: Path) -> dict[str, File]:
    """All files in a folder and its subfolders, by relative name."""
    paths = [path for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    files = {path.relative_to(root).as_posix(): path for path in paths}
    # A link to a folder could contain anything.
    _refuse(root, [(n, "a link") for n, p in files.items() if p.is_symlink() and not p.is_file()])
    return dict(files)


def _in_zip(bundle: Path) -> dict[str, File]:
    """All files in the single folder of a zip, by relative name."""
    try:
        archive = zipfile.ZipFile(bundle)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"'{bundle}': neither a folder nor a zip; give the packed bundle"
        ) from error
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    top = names[0].split("/")[0] if names else ""
    wrong = [(n, "a name outside the folder") for n in names if not is_inside(n)]
    wrong += [(n, f"outside of {top}/") for n in names if not n.startswith(f"{top}/")]
    wrong += [(n, "duplicated") for n in names if names.count(n) > 1]
    modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    wrong += [(n, "a link") for n, mode in modes.items() if stat.S_ISLNK(mode)]
    _refuse(bundle, wrong)
    return {name.removeprefix(f"{top}/"): zipfile.Path(archive, name) for name in names}


def _changed(files: Mapping[str, File], sums: Mapping[str, str]) -> list[tuple[str, str]]:
    problems = []
    for name, digest in sums.items():
        if name not in files:
            problems.append((name, "missing"))
            continue
        with files[name].open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:  # type: ignore[arg-type]
                problems.append((name, "changed"))
    return problems


def _runs(name: str) -> bool:
    return name.split("/")[0] in CODE or name.endswith(IMPORTABLE)


def _refuse(bundle: str | Path, problems: Iterable[tuple[str, str]]) -> None:
    for name, problem in problems:
        fix = "remove it" if problem == "not listed" else "unpack it again"
        raise InputError(f"packed bundle '{bundle}': {name!r} is {problem} ({SUMS}); {fix}")
