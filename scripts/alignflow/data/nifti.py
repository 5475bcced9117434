"""NIfTI files (nifti1.h, nifti2.h): values by nibabel, the place in space by rules stated here.

nibabel and MONAI repair a header that contradicts itself, each by rules of its own and in silence,
and neither regards the units; so the header is looked at before.
"""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from alignflow.data.grid import corner_distance, is_same
from alignflow.errors import InputError

logger = logging.getLogger(__name__)

CODES = range(6)  # of sform and qform: 0 means that there is none
MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # of a unit; 0: not stated
RIGHT_ANGLE = 1e-3  # largest cosine between two axes
SIZE_TOLERANCE = 0.01  # share that a voxel size of the sform may differ from pixdim
SLOPES = (1e-15, 1e15)  # ITK takes smaller ones for none


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Values, affine and stored type of a file.

    The affine is the sform's, else the qform's, else the voxel sizes alone, in mm whatever the unit
    of the file. A warning tells where sform and qform disagree.

    Returns:
        (X, Y), (X, Y, Z) or (X, Y, Z, C); (4, 4) RAS in mm; a NumPy name, "float32" where a slope
        makes real numbers of stored integers.

    Raises:
        InputError: RGB, complex or 5-D data, data that begin within the header, codes, units or
            a scale that do not exist, axes that are not at right angles, voxel sizes that
            contradict pixdim or are not positive.
    """
    image = _load(path)
    stored = image.get_data_dtype().newbyteorder("=")
    if stored.kind not in "iuf" or not 2 <= image.ndim <= 4:
        raise InputError(
            f"image '{path}': {stored} values on {image.ndim} axes; save real numbers as (X, Y, Z) "
            "or (X, Y, Z, C)"
        )
    affine = _affine(image, path)
    array = np.asanyarray(image.dataobj)
    scaled = stored.kind in "iu" and array.dtype.kind == "f"
    return array, affine, "float32" if scaled else stored.name


def _load(path: Path) -> nibabel.Nifti1Image:
    """A packed file is read to its end, where its checksum is: nibabel stops at the last value."""
    if path.name.lower().endswith(".gz"):
        content = gzip.decompress(path.read_bytes())
        is_second = nibabel.Nifti2Header.may_contain_header(content)
        return (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_bytes(content)
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):  # NIfTI-2 is one
        raise InputError(f"image '{path}': {type(image).__name__}, not NIfTI; save it as NIfTI")
    return image


def _affine(image: nibabel.Nifti1Image, path: Path) -> np.ndarray:
    what = f"image '{path}'"
    # As it is stored: `image.header` has codes that do not exist set to 0.
    with nibabel.openers.ImageOpener(str(path)) as file:
        stored: Any = type(image.header).from_fileobj(file, check=False)
    if not stored["vox_offset"]:  # nibabel makes pixels of the header
        raise InputError(f"{what}: vox_offset 0; correct the header")
    _require_scale(stored, what)
    codes = int(stored["sform_code"]), int(stored["qform_code"])
    unit = int(stored["xyzt_units"]) & 7
    if not set(codes) <= set(CODES) or unit not in MILLIMETRES:
        raise InputError(
            f"{what}: sform_code {codes[0]}, qform_code {codes[1]} and spatial unit {unit} are not "
            "all known; correct the header"
        )
    affine = np.array(image.affine, dtype=float)
    # An axis of one voxel has no step to contradict.
    sizes = np.abs(stored["pixdim"][1:4].astype(float))
    axes = [a for a, n in enumerate(image.shape[:3]) if n > 1]
    if codes[0] == 0 and (stored["pixdim"][1:4][axes] <= 0).any():  # readers repair it otherwise
        raise InputError(f"{what}: pixdim {_text(stored['pixdim'][1:4])}; correct the header")
    if codes[0] > 0:
        _require_right_angles(affine, what)
        own = np.linalg.norm(affine[:3, :3], axis=0)
        if not (np.abs(own - sizes)[axes] <= SIZE_TOLERANCE * own[axes]).all():
            raise InputError(
                f"{what}: voxels of {_text(own)} by sform, of {_text(sizes)} by pixdim; correct "
                "the header"
            )
    if min(codes) > 0:
        grids = affine, np.array(image.get_qform()), image.shape
        if not is_same(*grids):
            distance = corner_distance(*grids)
            logger.warning("%s: qform lies %.3g away from sform; sform is taken", what, distance)
    return np.diag([*[MILLIMETRES[unit]] * 3, 1.0]) @ affine


def _require_scale(stored: Any, what: str) -> None:
    """A slope of 0 or NaN means that there is none (nifti1.h); then an intercept has no meaning."""
    slope, intercept = float(stored["scl_slope"]), float(stored["scl_inter"])
    if np.isnan(slope) or slope == 0:
        is_right = np.isnan(intercept) or intercept == 0
    else:
        is_right = SLOPES[0] < abs(slope) < SLOPES[1] and np.isfinite(intercept)
    if not is_right:
        raise InputError(
            f"{what}: scl_slope {slope:g} with scl_inter {intercept:g}; correct the header"
        )


def _require_right_angles(affine: np.ndarray, what: str) -> None:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        raise InputError(f"{what}: sform {affine[:3].tolist()}; correct the header")
    axes = affine[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > RIGHT_ANGLE:
        raise InputError(
            f"{what}: the axes of its sform are not at right angles; resample it, or correct the "
            "header"
        )


def _text(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
