"""What became of one file: refused in a line, read as others read it, or one of the failures."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from alignflow.data.datalist import build_datalist, dataset_json
from alignflow.data.formats import load
from alignflow.errors import InputError
from fuzzing.corpus import Seed
from fuzzing.independent import PLAIN, READERS, Reading

FAILURES = ("traceback", "poor message", "misread", "crash", "hang")
BLOCK = 8  # pixels: what JPEG codes together
BLOCK_TOLERANCE = 8.0  # gray levels; decoders of 150 whole photographs differed by 4 at most
SAME = 0.5  # share of the pixels from which on a difference is damage, not another scale
GEOMETRY = 0.02  # of a voxel, at the corners: libraries make directions orthonormal in their ways


@dataclass
class Verdict:
    """`outcome`: one of `benchmarks/README.md`; `detail`: the message, or the difference."""

    outcome: str
    detail: str
    seconds: float = 0.0


def examine(seed: Seed, path: Path, before: Callable[[], Any] = lambda: None) -> Verdict:
    """Read a damaged file as the package does and as others do.

    Args:
        seed: what it was made from.
        path: the file, or the folder it lies in.
        before: called between the package's reading and the others'.
    """
    start = time.perf_counter()
    try:
        ours = _read(seed, path)
    except InputError as error:
        ours = str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(where.filename).name}:{where.lineno}"
        return Verdict("traceback", f"{type(error).__name__} at {at}: {error}"[:300])
    seconds = time.perf_counter() - start
    before()
    verdict = _compare_tables(seed, path, ours) if _is_table(seed) else _compare(seed, path, ours)
    verdict.seconds = seconds
    return verdict


def _is_table(seed: Seed) -> bool:
    return seed.kind in ("dataset.json", "index.csv")


def _read(seed: Seed, path: Path) -> Any:
    if seed.kind == "dataset.json":
        return build_datalist(path), dataset_json(path)
    if seed.kind == "index.csv":
        return build_datalist(path, group_column="centre")
    image = load(path, seed.is_mask, _image_of(seed))
    return Reading(image.numpy(), np.asarray(image.affine))


_IMAGES: dict[Path, Any] = {}


def _image_of(seed: Seed) -> Any:
    if seed.kind != "RTSTRUCT":
        return None
    assert seed.folder is not None
    if seed.folder not in _IMAGES:
        _IMAGES[seed.folder] = load(seed.folder)
    return _IMAGES[seed.folder]


def _compare(seed: Seed, path: Path, ours: Reading | str) -> Verdict:
    others: list[Reading | str] = []
    for reader in READERS[seed.kind]:
        arguments = []
        if seed.kind == "RTSTRUCT":
            image = _image_of(seed)
            arguments = [tuple(image.shape[1:]), np.asarray(image.affine)]
        try:
            others.append(reader(path, *arguments))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a decoder in Rust is no Exception
            others.append(f"{type(error).__name__}: {error}"[:100].replace("\n", " "))
    read = [other for other in others if isinstance(other, Reading)]
    if isinstance(ours, str):
        return _judge_refusal(ours, path, len(read), len(others), seed.kind)
    if not read:
        if not difference(ours, _whole(seed), seed.kind):
            return Verdict("as before", f"others: {others}")
        return Verdict("only here", f"read here alone; others: {others}")
    differences = [difference(ours, other, seed.kind) for other in read]
    found = [text for text in differences if text]
    if not found:
        return Verdict("equal", "")
    if len(found) < len(differences):
        return Verdict("others differ", found[0])
    if all(text.startswith("pixels") for text in found):
        return Verdict("pixels differ", found[0])
    return Verdict("misread", "; ".join(found))


@cache
def _whole(seed: Seed) -> Reading:
    """The file before it was damaged."""
    return _read(seed, seed.folder or seed.path if seed.kind == "DICOM series" else seed.path)


def _judge_refusal(message: str, path: Path, read: int, count: int, kind: str) -> Verdict:
    if "\n" in message or path.name not in message or len(message) > 600:
        return Verdict("poor message", message[:600])
    if not read:
        return Verdict("refused", message)
    try:
        PLAIN[kind](path)
    except Exception:  # each library has its own
        return Verdict("refused with some", message)
    return Verdict("refused alone" if read == count else "refused with some", message)


def difference(ours: Reading, other: Reading, kind: str = "") -> str:
    """ "" where two readings agree in shape, values and place."""
    if len(ours.values) == 1 and (other.values == other.values[:1]).all():
        other = replace(other, values=other.values[:1])  # gray, spread over three channels
    if ours.values.shape != other.values.shape[: ours.values.ndim]:
        return f"shape {ours.values.shape}, other {other.values.shape}"
    theirs = other.values.reshape(ours.values.shape).astype(np.float64)
    with np.errstate(all="ignore"):
        apart = np.abs(ours.values.astype(np.float64) - theirs)
        allowed = other.tolerance + 1e-5 * np.abs(theirs)
        same = (apart <= allowed) | (ours.values == theirs.astype(np.float32))
        same |= np.isnan(ours.values) & np.isnan(theirs)
    if kind == "RTSTRUCT":  # two libraries put pixels whose centre is on a contour inside or not
        same = _away_from_edges(ours.values) <= same
    if other.tolerance and len(theirs) == 3:  # decoders smooth colour within blocks in their ways
        planes = [
            np.moveaxis(v, 3, 0).reshape(-1, *v.shape[1:3]) if v.ndim == 4 else v
            for v in (ours.values, theirs)
        ]
        apart = np.abs(block_means(planes[0]) - block_means(planes[1]))
        same = apart <= BLOCK_TOLERANCE
    if not same.all():
        share = 1 - same.mean()
        damage = _affine_difference(ours, other) or (
            "pixels" if share < SAME or other.tolerance else "values"
        )
        return f"{damage}: {share:.2%} differ, by at most {np.nanmax(apart[~same], initial=0):.4g}"
    return _affine_difference(ours, other)


def block_means(values: np.ndarray) -> np.ndarray:
    """Means of blocks of (C, X, Y), which smoothing of colour within them leaves alone."""
    channels, *size = values.shape
    padded = np.pad(values.astype(np.float64), [(0, 0), *((0, -n % BLOCK) for n in size)])
    x, y = (n // BLOCK for n in padded.shape[1:])
    return padded.reshape(channels, x, BLOCK, y, BLOCK).mean(axis=(2, 4))


def _away_from_edges(values: np.ndarray) -> np.ndarray:
    flat = np.ones(values.shape, bool)
    for axis in (1, 2):
        for step in (-1, 1):
            flat &= np.roll(values, step, axis) == values
    return flat


def _affine_difference(reading: Reading, expected: Reading) -> str:
    ours, other, shape = reading.affine, expected.affine, reading.values.shape[1:]
    if ours is None or other is None:
        return ""
    if not np.isfinite(ours).all():
        return f"affine is not finite: {ours.round(3).tolist()}"
    size = np.array([*shape, 1, 1][:3])
    stated = np.isfinite(other)
    if not stated[:3, :3].all() and not stated[:3, 3].all():
        return ""  # no place in space is stated
    apart = np.abs(np.where(stated, ours - other, 0))[:3]
    voxel = np.linalg.norm(ours[:3, :3], axis=0).min()
    allowed = GEOMETRY * voxel + 1e-6 * np.abs(ours).max()
    shift = apart[:, :3] * np.maximum(size - 1, 0)
    # One slice has no next one, so only the direction of its normal can be compared.
    if size[2] == 1:
        shift[:, 2] = 0
        normals = [a[:3, 2] / max(np.linalg.norm(a[:3, 2]), 1e-300) for a in (ours, other)]
        if stated[:3, 2].all() and np.abs(normals[0] - normals[1]).max() > 1e-3:
            return f"normal {normals[0].round(4).tolist()}, other {normals[1].round(4).tolist()}"
    if max(shift.max(), apart[:, 3].max()) > allowed:
        return f"affine {ours[:3].round(4).tolist()}, other {other[:3].round(4).tolist()}"
    return ""


def _compare_tables(seed: Seed, path: Path, ours: Any) -> Verdict:
    file = path / seed.path.name
    try:
        expected = _cases(file) if seed.kind == "dataset.json" else _groups(file)
    except Exception as error:
        expected = None
        reason = f"pandas: {error}"[:100].replace("\n", " ")
    if isinstance(ours, str):
        lines = ours.split("\n")  # a list of problems has a line for each file
        poor = not all(seed.path.name in s or "'" in s for s in lines) or len(lines) > 11
        return Verdict("poor message" if poor else "refused", ours[:600])
    if expected is None:
        return Verdict("only here", reason)
    if seed.kind == "dataset.json":
        cases, facts = ours
        found = sorted((c["image"], c["label"], c.get("group"), c.get("split")) for c in cases)
        if found != expected:
            return Verdict("misread", f"{found}, other {expected}"[:300])
        return Verdict("equal", "")
    found = {Path(case["image"]).stem: case["group"] for case in ours}
    wrong = {stem: group for stem, group in found.items() if expected.get(stem) != group}
    return Verdict("misread", f"{wrong}, other {expected}"[:300]) if wrong else Verdict("equal", "")


def _cases(file: Path) -> list[tuple[str, ...]]:
    content = pandas.read_json(file, typ="series", convert_dates=False, dtype=False).to_dict()
    cases = []
    for split in ("training", "validation"):
        for entry in content.get(split) or []:
            image, label = (str(file.parent / entry[key]) for key in ("image", "label"))
            group = str(entry["group"]) if "group" in entry else Path(image).stem
            cases.append((image, label, group, split if content.get("validation") else None))
    return sorted(cases)


def _groups(file: Path) -> dict[str, str]:
    table = pandas.read_csv(
        file, dtype=str, index_col=False, keep_default_na=False, encoding="utf-8-sig"
    )
    return dict(zip(table["stem"], table["centre"], strict=True))
