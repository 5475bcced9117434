"""One reader policy for all file formats: which reader, which axes, which affine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from alignflow.data import dicom
from alignflow.data.content import is_dicom, require_here, require_packing
from alignflow.data.dicom_masks import is_dicom_mask, read_mask
from alignflow.data.grid import is_place, is_same
from alignflow.data.metaimage import read_metaimage
from alignflow.data.nifti import read_nifti
from alignflow.data.nrrd import by_class, read_nrrd
from alignflow.data.raster import SUFFIXES as PIL_SUFFIXES
from alignflow.data.raster import read_raster
from alignflow.data.structures import Structures
from alignflow.errors import InputError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
SUFFIXES = PIL_SUFFIXES + NIFTI_SUFFIXES + ITK_SUFFIXES + dicom.SUFFIXES

LARGEST_EXACT_INTEGER = 2**24  # of float32


def split_suffix(path: str | Path) -> tuple[str, str]:
    """`("case.1", ".nii.gz")` of `"x/case.1.nii.gz"`; a folder (a DICOM series) has suffix ".dcm".

    The suffix is in lower case, and "" where the name ends in none of `SUFFIXES`.
    """
    path = Path(path)
    if os.path.isdir(path):  # of pathlib, names that are too long raise
        return path.name, ".dcm"
    found = [s for s in SUFFIXES if path.name.lower().endswith(s)]
    suffix = max(found, key=len, default="")
    return path.name[: len(path.name) - len(suffix)], suffix


def channel_files(path: str | Path) -> list[Path]:
    """Files NAME_0000.png, NAME_0001.png, ... of an image where there is no file NAME.png.

    Up to the first number that is missing; none where there is such a file.
    """
    files: list[Path] = []
    while not os.path.lexists(path) and os.path.lexists(part := channel_name(path, len(files))):
        files.append(part)
    return files


def channel_name(path: str | Path, number: int) -> Path:
    """NAME_0001.png of NAME.png for channel 1, as nnU-Net has it."""
    path = Path(path)
    stem = split_suffix(path)[0]
    return path.with_name(f"{stem}_{number:04d}{path.name[len(stem) :]}")


def has_geometry(image: MetaTensor) -> bool:
    """Whether the file states the size of its voxels (NIfTI, NRRD, MetaImage, most DICOM)."""
    is_picture = image.meta["suffix"] in PIL_SUFFIXES
    return not is_picture and bool(image.meta.get("has_place", True))


def load(
    path: str | Path,
    is_mask: bool = False,
    image: MetaTensor | None = None,
    structures: Structures | None = None,
) -> MetaTensor:
    """Read one image or mask file, one folder with a DICOM series, or an image of several files.

    PNG, JPEG, BMP and TIFF give (C, X, Y); NIfTI, NRRD, MetaImage and DICOM give (C, X, Y, Z) with
    Z = 1 for a single slice. The first spatial axis runs along the columns of a PNG and along i
    of a NIfTI. Palette images become RGB, palette masks keep their indices; alpha is dropped; DICOM
    values are rescaled (HU for CT), and MONOCHROME1 is inverted so that bright is high.

    Args:
        path: the file, or the folder of a DICOM series; or what the files of its channels have in
            common, see `channel_files`.
        is_mask: read as label values: one channel, palette indices.
        image: that a mask belongs to. DICOM segmentations and structure sets are laid on its grid;
            all else is read as it is.
        structures: which regions of a DICOM mask are which class; None: each has its own value.

    Returns:
        float32 tensor; `meta` has `affine` (RAS, mm; without meaning unless `has_geometry`),
        `native_dtype` (a NumPy name), `suffix`, `modality` (DICOM (0008,0060), else ""), and
        `filename_or_obj`.

    Raises:
        InputError: the file is missing, empty, truncated, unreadable or of no known format; its
            channels lie on different grids.
    """
    path = Path(path)
    if not is_mask and (parts := channel_files(path)):
        return _joined([load(part) for part in parts], path)
    what = "mask" if is_mask else "image"
    _require_file(path, what)
    suffix = split_suffix(path)[1]
    try:
        if is_mask and suffix in dicom.SUFFIXES and path.is_file() and is_dicom_mask(path):
            array, meta = _read_dicom_mask(path, image, structures)
        else:
            array, meta = _read(path, suffix, is_mask)
            if is_mask and suffix == ".nrrd" and structures is not None:
                array = by_class(array, path, structures)
    except InputError:
        raise
    except Exception as error:  # each library has exceptions of its own, ITK's and PIL's are bare
        raise InputError(
            f"{what} '{path}': cannot be read ({first_line(error)}); replace or remove it"
        ) from error
    if array.size == 0:
        raise InputError(f"{what} '{path}': {array.shape[1:]} pixels; replace or remove it")
    if not is_place(meta["affine"]):
        raise InputError(f"{what} '{path}': its affine is no place in space; correct the header")
    array = _one_channel(array, path) if is_mask else array
    values = _as_float32(array, meta["native_dtype"], path, what)
    meta = {"modality": ""} | meta | {"suffix": suffix, "filename_or_obj": str(path)}
    return MetaTensor(torch.from_numpy(values), meta=meta)


def _joined(parts: list[MetaTensor], path: Path) -> MetaTensor:
    """One image of several files, channel after channel."""
    first = parts[0]
    shape = tuple(first.shape[1:])
    for part in parts[1:]:
        is_on_grid = is_same(first.affine.numpy(), part.affine.numpy(), shape)
        if part.shape[1:] != shape or not is_on_grid:
            raise InputError(
                f"image '{part.meta['filename_or_obj']}': another grid than that of "
                f"'{first.meta['filename_or_obj']}'; give channels of one image on one grid"
            )
    dtypes = [part.meta["native_dtype"] for part in parts]
    meta = first.meta | {
        "native_dtype": np.result_type(*dtypes).name,
        "filename_or_obj": str(path),
    }
    return MetaTensor(torch.cat([part.as_tensor() for part in parts]), meta=meta)


def _require_file(path: Path, what: str) -> None:
    require_here(path, what)
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{what} '{path}': the file is empty; replace or remove it")
    if not split_suffix(path)[1] and is_dicom(path):
        raise InputError(f"{what} '{path}': DICOM without a suffix; rename it to '{path.name}.dcm'")
    if not split_suffix(path)[1]:
        raise InputError(f"{what} '{path}': unknown format; supported are {', '.join(SUFFIXES)}")
    if path.is_file():
        require_packing(path, what)


def _read(path: Path, suffix: str, is_mask: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Channel-first array of any dtype, and the meta that only this format's reader knows."""
    if suffix in dicom.SUFFIXES:
        return dicom.read_series(dicom.find_series(path))
    if suffix in PIL_SUFFIXES:
        array = read_raster(path, is_mask)
        return array, {"affine": np.eye(4), "native_dtype": array.dtype.name}
    if suffix in NIFTI_SUFFIXES:
        array, affine, native = read_nifti(path)
        array = np.moveaxis(array, 3, 0) if array.ndim == 4 else array[None]
        return _volume(array), {"affine": affine, "native_dtype": native}
    if suffix == ".nrrd":
        array, affine = read_nrrd(path)
        return _volume(array), {"affine": affine, "native_dtype": array.dtype.name}
    array, affine, native = read_metaimage(path)
    return _volume(array), {"affine": affine, "native_dtype": native}


def _read_dicom_mask(
    path: Path, image: MetaTensor | None, structures: Structures | None
) -> tuple[np.ndarray, dict[str, Any]]:
    shape = None if image is None else (*image.shape[1:], 1)[:3]
    grid = None if image is None else image.affine.numpy()
    frame = "" if image is None else image.meta.get("frame_of_reference", "")
    array, affine = read_mask(path, shape, grid, structures, frame)
    is_small = array.min() >= 0 and array.max() < 256 and (array == array.round()).all()
    dtype = "uint8" if is_small else "float32"
    return array, {"affine": affine, "native_dtype": dtype}


def _volume(array: np.ndarray) -> np.ndarray:
    """(C, X, Y, Z) from (C, X, Y) or (C, X, Y, Z)."""
    return array if array.ndim == 4 else array[..., None]


def _one_channel(array: np.ndarray, path: Path) -> np.ndarray:
    """The first channel of a mask; the others must repeat it, as in a mask saved as gray RGB."""
    if not np.array_equal(array, np.broadcast_to(array[:1], array.shape), equal_nan=True):
        raise InputError(
            f"mask '{path}': {array.shape[0]} differing channels; save one channel of class values"
        )
    return array[:1]


def _as_float32(array: np.ndarray, native_dtype: str, path: Path, what: str) -> np.ndarray:
    is_integer = np.dtype(native_dtype).kind in "iu"
    if is_integer and max(-int(array.min()), int(array.max())) > LARGEST_EXACT_INTEGER:
        raise InputError(
            f"{what} '{path}': values beyond 2^24, which float32 cannot hold; save smaller values"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def first_line(error: Exception) -> str:
    """What an exception of a library says, for a message of one line."""
    lines = str(error).strip().splitlines()
    # ITK's errors begin with the source file that they come from, and name an address in memory.
    lines = [re.sub(r"\(0x[0-9a-f]+\)", "", s) for s in lines if not s.endswith(":")] or lines
    return f"{type(error).__name__}: {lines[0][:100]}" if lines else type(error).__name__
