"""The list of hashes of a packed bundle, and its signature: is everything as it was packed?

`SHA256SUMS` has the format of coreutils, and `SHA256SUMS.sig` is a raw Ed25519 signature of its
bytes. So `sha256sum` and `openssl` can check a bundle without running anything of it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from alignflow.errors import InputError

logger = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
CODE = ("configs", "alignflow")  # what a run of the bundle executes
IMPORTABLE = (".py", ".pyc", ".pyd", ".so", ".pth")
TRUST = "ALIGNFLOW_TRUST"
PUBLIC_KEY = "ALIGNFLOW_PUBLIC_KEY"
# Both stand in the environment: what a config says of itself is no ground to trust it.

File = Path | zipfile.Path


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """The content of `SHA256SUMS` for files by name, sorted."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return "".join(lines).encode()


def sign(content: bytes, key: str | Path) -> bytes:
    """Ed25519 signature (64 bytes) with the private key of a PEM file without a password.

    Raises:
        InputError: no such key.
    """
    try:
        private = load_pem_private_key(Path(key).read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(key, "private") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _no_key(key, "private")
    return private.sign(content)


def verify(bundle: str | Path, public_key: str | Path | None = None) -> int:
    """Compare a packed bundle with its list, without running or unpacking anything of it.

    Args:
        bundle: the zip, or the folder it was unpacked to.
        public_key: PEM file; the list must be signed with its private key.

    Returns:
        The number of files that are listed.

    Raises:
        InputError: naming the first problem: no list or signature, another signature, a file that
            is changed or missing, one that is not listed and could be run, a name that leaves the
            folder.
    """
    files = _in_folder(Path(bundle)) if Path(bundle).is_dir() else _in_zip(Path(bundle))
    sums = _checked_list(files, str(bundle), public_key)
    known = {*sums, SUMS, SIGNATURE}
    _refuse(bundle, _changed(files, sums))
    _refuse(bundle, [(name, "not listed") for name in sorted(files.keys() - known) if _runs(name)])
    return len(sums)


def require_as_packed(root: Path) -> None:
    """Refuse to run a packed bundle of which a config or a file of the package was changed.

    Nothing is compared where there is no list, as in a checkout, unless the environment names a
    public key. Weights are compared with `stage1.json` where they are read: training replaces them.

    Args:
        root: folder of the bundle.

    Raises:
        InputError: naming the file, unless the environment says that the change is meant.
    """
    key = os.environ.get(PUBLIC_KEY)
    if not (root / SUMS).is_file() and not key:
        return
    try:
        files = _in_folder(root, (*CODE, SUMS, SIGNATURE))
        sums = _checked_list(files, str(root), key)
        code = {name: digest for name, digest in sums.items() if _is_code(name)}
        _refuse(root, _changed(files, code))
        new = sorted(name for name in files if _is_code(name) and not name.endswith(".pyc"))
        _refuse(root, [(name, "not listed") for name in new if name not in code])
    except InputError as error:
        if os.environ.get(TRUST) != "1":
            raise InputError(
                f"{error}; or set {TRUST}=1 in the environment where the change is meant"
            ) from error
        logger.warning("%s=1: %s", TRUST, error)


def _checked_list(
    files: Mapping[str, File], bundle: str, public_key: str | Path | None
) -> dict[str, str]:
    """{name: digest} of the list, its signature checked where there is a key."""
    if SUMS not in files:
        raise InputError(f"'{bundle}': no {SUMS}, so it is no packed bundle; unpack it again")
    content = files[SUMS].open("rb").read()
    if public_key is not None:
        _require_signature(content, files.get(SIGNATURE), bundle, public_key)
    sums = {}
    for line in content.decode(errors="replace").splitlines():
        match = re.fullmatch("([0-9a-f]{64})  (.+)", line)
        if match is None or not is_inside(match[2]) or match[2] in sums:
            raise InputError(f"'{bundle}': {SUMS} has the line {line[:100]!r}; unpack it again")
        sums[match[2]] = match[1]
    return sums


def is_inside(name: str) -> bool:
    """Whether a name, below any folder, stays in it: relative, plain, without `..`."""
    path = PurePosixPath(name)
    plain = name == str(path) and name.isprintable() and not re.search(r'[\\:*?"<>|]', name)
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _in_folder(root: Path, within: Iterable[str] = ("",)) -> dict[str, File]:
    """Every file below some parts of a folder, by its name in it."""
    paths = [path for part in within for path in (root / part, *(root / part).rglob("*"))]
    files = {p.relative_to(root).as_posix(): p for p in paths if p.is_symlink() or p.is_file()}
    # A link to a folder could bring in anything.
    _refuse(root, [(n, "a link") for n, p in files.items() if p.is_symlink() and not p.is_file()])
    return dict(files)


def _in_zip(bundle: Path) -> dict[str, File]:
    """The same of a zip, below its one folder."""
    try:
        archive = zipfile.ZipFile(bundle)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"'{bundle}': no folder and no zip; give the packed bundle") from error
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    top = names[0].split("/")[0] if names else ""
    wrong = [(n, "a name that leaves it") for n in names if not is_inside(n)]
    wrong += [(n, f"outside of {top}/") for n in names if not n.startswith(f"{top}/")]
    wrong += [(n, "there twice") for n in names if names.count(n) > 1]
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
    return _is_code(name) or name.endswith(IMPORTABLE)


def _is_code(name: str) -> bool:
    return name.split("/")[0] in CODE


def _refuse(bundle: str | Path, problems: Iterable[tuple[str, str]]) -> None:
    for name, problem in problems:
        fix = "remove it" if problem == "not listed" else "unpack it again"
        raise InputError(f"packed bundle '{bundle}': {name!r} is {problem} ({SUMS}); {fix}")


def _require_signature(
    content: bytes, signature: File | None, bundle: str, public_key: str | Path
) -> None:
    try:
        public = load_pem_public_key(Path(public_key).read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(public_key, "public") from error
    if not isinstance(public, Ed25519PublicKey):
        raise _no_key(public_key, "public")
    if signature is None:
        raise InputError(f"packed bundle '{bundle}': not signed ({SIGNATURE}); ask who packed it")
    try:
        public.verify(signature.open("rb").read(), content)
    except InvalidSignature as error:
        raise InputError(
            f"packed bundle '{bundle}': {SIGNATURE} was not made with the key of '{public_key}'; "
            "do not run it, ask who packed it"
        ) from error


def _no_key(path: str | Path, kind: str) -> InputError:
    return InputError(
        f"key '{path}': no Ed25519 {kind} key in PEM without a password; make one with "
        "`openssl genpkey -algorithm ed25519`"
    )
