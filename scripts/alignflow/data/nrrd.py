"""NRRD files (teem.sourceforge.net/nrrd/format.html), read by pynrrd; their place by rules here."""

from __future__ import annotations

import re
from pathlib import Path

import nrrd
import numpy as np

from alignflow.data.structures import Structures
from alignflow.errors import InputError

TO_RAS = {  # of the spaces whose axes are those of a patient
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
MILLIMETRES = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "": 1.0, "???": 1.0}
MILLIMETRES |= {"cm": 10.0, "m": 1000.0, "um": 0.001}


def read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (C, X, Y) or (C, X, Y, Z), and the affine (4, 4), RAS in mm.

    An axis without direction holds the channels. A file that names no space is taken to be in LPS,
    as ITK takes it; one that states no lengths has voxels of 1 mm.

    Raises:
        InputError: another space, a unit that is not a length, two channel axes, or values on other
            than two or three axes of space.
        Exception: whatever pynrrd raises on a damaged file.
    """
    array, header = nrrd.read(str(path))
    if array.dtype.kind not in "iufb":
        raise InputError(f"image '{path}': {array.dtype} values; save real numbers")
    channels, steps = _axes(header, array.ndim, path)
    if len(channels) > 1 or len(steps) not in (2, 3):
        raise InputError(
            f"image '{path}': {len(steps)} axes of space and {len(channels)} of channels; save an "
            "image of two or three axes"
        )
    values = np.moveaxis(array, channels[0], 0) if channels else array[None]
    affine = np.eye(4)
    affine[:3, : len(steps)] = np.array(steps).T
    if len(steps) == 2:
        normal = np.cross(steps[0], steps[1])
        affine[:3, 2] = normal / (np.linalg.norm(normal) or 1.0)
    origin = header.get("space origin")
    if origin is not None:
        affine[: len(origin), 3] = origin
    if "space" in header and "space directions" not in header:
        raise InputError(f"image '{path}': 'space directions' is missing; correct the header")
    space = str(header.get("space", "lps")).lower()
    if space not in TO_RAS:
        raise InputError(f"image '{path}': space '{space}'; save it in LPS or RAS")
    signs = np.diag([*TO_RAS[space], 1.0])
    return values, signs @ np.diag([*_units(header, path), 1.0]) @ affine


def segment_values(path: Path) -> dict[str, float]:
    """Name -> value of the segments of a file by 3D Slicer (.seg.nrrd); empty for others."""
    try:
        header = nrrd.read_header(str(path))
    except Exception:  # told of where the file is read
        return {}
    names = {k[:-5]: str(v) for k, v in header.items() if re.fullmatch(r"Segment\d+_Name", k)}
    return {name: float(header.get(f"{k}_LabelValue", 1)) for k, name in names.items()}


def by_class(array: np.ndarray, path: Path, structures: Structures) -> np.ndarray:
    """Values of the classes in place of those of a file, where that names its segments."""
    known = {v: structures.value_of(name, None) for name, v in segment_values(path).items()}
    if not known or not structures.values:
        return array
    result = np.zeros(array.shape, np.float32)
    for value, wanted in known.items():
        result[array == value] = wanted or 0
    return result


def _axes(header: dict[str, object], count: int, path: Path) -> tuple[list[int], list[np.ndarray]]:
    """Axes of channels, and for each axis of space the step (3,) from voxel to voxel."""
    directions = header.get("space directions")
    if directions is not None:
        rows = [np.asarray(row, float) for row in np.atleast_2d(np.asarray(directions, float))]
        if len(rows) != count:
            raise InputError(
                f"image '{path}': {len(rows)} space directions for {count} axes; correct the header"
            )
        places = [k for k, row in enumerate(rows) if np.isfinite(row).all()]
        steps = [np.pad(rows[k], (0, 3 - len(rows[k]))) for k in places]
        return [k for k in range(count) if k not in places], steps
    kinds = [str(kind).lower() for kind in header.get("kinds") or ["domain"] * count]  # type: ignore[attr-defined]
    channels = [k for k, kind in enumerate(kinds) if kind not in ("domain", "space", "none", "???")]
    spacings = np.nan_to_num(np.asarray(header.get("spacings", np.ones(count)), float), nan=1.0)
    places = [k for k in range(count) if k not in channels]
    return channels, [spacings[k] * np.eye(3)[j] for j, k in enumerate(places[:3])]


def _units(header: dict[str, object], path: Path) -> list[float]:
    units = [str(u).lower() for u in header.get("space units") or header.get("units") or []]  # type: ignore[attr-defined]
    unknown = [u for u in units if u not in MILLIMETRES]
    if unknown:
        raise InputError(f"image '{path}': space unit '{unknown[0]}'; save it in mm")
    return ([MILLIMETRES[u] for u in units] + [1.0] * 3)[:3]
