"""One reader policy for all file formats: which reader, which axes, which affine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from monai.data import ITKReader, MetaTensor, PILReader
from monai.data.utils import to_affine_nd
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from alignflow.data import dicom
from alignflow.data.bmp import require_sound_bmp
from alignflow.data.content import is_dicom, require_here, require_packing
from alignflow.data.dicom_check import place_of, require_sound
from alignflow.data.dicom_masks import is_dicom_mask, read_mask
from alignflow.data.dicom_pixels import require_same_pixels
from alignflow.data.dicom_planes import irregularity
from alignflow.data.integrity import (
    require_sound_jpeg,
    require_tiff_size,
    require_whole_jpeg,
    require_whole_png,
)
from alignflow.data.nifti import read_nifti
from alignflow.data.text_headers import require_sound_header, require_whole_data
from alignflow.data.tiff import PHOTOMETRIC, TILE_WIDTH, require_sound_tiff
from alignflow.errors import InputError

PIL_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
SUFFIXES = PIL_SUFFIXES + NIFTI_SUFFIXES + ITK_SUFFIXES + dicom.SUFFIXES

EXIF_ORIENTATION = 0x0112
COMPARED_MODES = ("1", "L", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I;16B", "I", "F")  # of TIFF
OTHER_MODES = ("P", "LA", "YCbCr")  # ITK gives colours of 16 bits, and multiplies by alpha
LARGEST_EXACT_INTEGER = 2**24  # of float32
SAME_PLACE = 0.05  # of a voxel, as `check_pair` has it
SMALLEST, FARTHEST = 1e-9, 1e6  # mm: of a voxel, and of all that lies in a room


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
    """Files NAME_0000.png, NAME_0001.png, ... of an image NAME.png that is no file itself.

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
    """Whether the file states where its voxels lie in space (NIfTI, NRRD, DICOM, MetaImage)."""
    return image.meta["suffix"] not in PIL_SUFFIXES


def load(
    path: str | Path,
    is_mask: bool = False,
    image: MetaTensor | None = None,
    overlap: Sequence[float] | None = None,
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
        overlap: whether regions of a DICOM mask may overlap: None for no, else class values in the
            order of their rank, the last one on top (see `dicom_masks.combine`).

    Returns:
        float32 tensor; `meta` has `affine` (RAS, mm; identity for PNG and its like), `native_dtype`
        (a NumPy name), `suffix`, `modality` (DICOM (0008,0060), else ""), `filename_or_obj`, and
        `names` of a DICOM mask's values, else empty.

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
            array, meta = _read_dicom_mask(path, image, overlap)
        else:
            array, meta = _read(path, suffix, is_mask)
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
    meta = {"modality": "", "names": {}} | meta | {"suffix": suffix, "filename_or_obj": str(path)}
    return MetaTensor(torch.from_numpy(values), meta=meta)


def _joined(parts: list[MetaTensor], path: Path) -> MetaTensor:
    """One image of several files, channel after channel."""
    first = parts[0]
    voxel = np.linalg.norm(first.affine[:3, :3].numpy(), axis=0).min()
    end = np.array([*first.shape[1:], 1, 1])[[0, 1, 2, -1]]
    for part in parts[1:]:
        shift = np.abs(part.affine.numpy() - first.affine.numpy()) @ end
        if part.shape[1:] != first.shape[1:] or shift.max() > SAME_PLACE * voxel:
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


def is_place(affine: np.ndarray) -> bool:
    """Whether voxels of a (4, 4) affine in mm have a size and lie within a kilometre."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > FARTHEST:
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(sizes.min() >= SMALLEST and np.linalg.det(affine[:3, :3] / sizes))


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
    if suffix in PIL_SUFFIXES:
        return _read_pil(path, is_mask)
    if suffix in NIFTI_SUFFIXES:
        return _read_nifti(path)
    if suffix in dicom.SUFFIXES:
        return read_series(dicom.find_series(path))
    require_sound_header(path)
    array, meta = _read_itk(str(path))
    require_whole_data(path, array.size, np.dtype(meta["native_dtype"]))
    return array, meta


def _read_pil(path: Path, is_mask: bool) -> tuple[np.ndarray, dict[str, Any]]:
    def to_plain_mode(image: Image.Image) -> Image.Image:
        pages = getattr(image, "n_frames", 1)
        if pages > 1:
            raise InputError(f"image '{path}': {pages} pages; save each as its own file")
        # Viewers and annotation tools show a photograph upright, so masks are drawn on it upright.
        image = ImageOps.exif_transpose(image)
        if image.mode == "P" and is_mask:
            return _mask_of_palette(image, path)
        return image.convert(_plain_mode(image.mode))

    if path.suffix.lower() == ".png":
        require_whole_png(path)
        _require_8_bit_colour(path)
    if path.suffix.lower() == ".bmp":
        require_sound_bmp(path)
    if path.suffix.lower() in (".tif", ".tiff"):
        require_sound_tiff(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        require_whole_jpeg(path.read_bytes(), f"image '{path}'")
    reader = PILReader(converter=to_plain_mode)
    array, header = reader.get_data(reader.read(path))
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    meta = {"affine": np.eye(4), "native_dtype": array.dtype.name}
    array = _channel_first(array, header["original_channel_dim"])
    if path.suffix.lower() in (".jpg", ".jpeg"):
        _compare_decoders(path, array)
    if path.suffix.lower() in (".tif", ".tiff"):
        _compare_tiff(path, array)
    return array, meta


def _require_8_bit_colour(path: Path) -> None:
    """Refuse a PNG of which Pillow would read the high bytes alone.

    Raises:
        InputError: 16 bits a channel, in colour or with alpha.
    """
    with path.open("rb") as file:
        depth, colour_type = file.read(26)[24:]  # IHDR, PNG specification, section 11.2.2
    if depth == 16 and colour_type != 0:
        raise InputError(
            f"image '{path}': 16 bits a channel in colour or with alpha; save it as 16-bit gray "
            "without alpha, or as 8-bit colour"
        )


def _compare_decoders(path: Path, array: np.ndarray) -> None:
    with Image.open(path) as image:
        is_plain = image.mode in ("L", "RGB") and image.getexif().get(EXIF_ORIENTATION, 1) == 1
    if is_plain:  # ITK turns nothing upright, and prints in CMYK in its own way
        other = _read_itk(str(path))[0]
        require_sound_jpeg(path, array, other[..., 0])


def _compare_tiff(path: Path, array: np.ndarray) -> None:
    with Image.open(path) as image:
        if not isinstance(image, TiffImageFile):
            raise InputError(f"image '{path}': {image.format}, no TIFF; give it its own suffix")
        tags, mode, width = image.tag_v2, image.mode, image.width
        is_jpeg = image.info.get("compression") == "jpeg"
    if mode not in (*COMPARED_MODES, *OTHER_MODES):
        raise InputError(f"image '{path}': pixels of kind {mode}; save it as gray or 8-bit RGB")
    if is_jpeg:
        require_tiff_size(path, tags.get(TILE_WIDTH) or width)
        require_sound_jpeg(path, array, _read_itk(str(path))[0][..., 0])
    elif mode in COMPARED_MODES and tags.get(EXIF_ORIENTATION, 1) == 1:
        # ITK spreads gray over four channels where there are tiles, and has alpha.
        other = _read_itk(str(path))[0][: len(array), ..., 0]
        if tags.get(PHOTOMETRIC) == 0:  # white, which ITK leaves dark
            other = 255 - other
        if other.shape != array.shape or (other != array).any():
            raise InputError(
                f"image '{path}': Pillow and ITK make different pixels of it; save it as PNG"
            )


def _mask_of_palette(image: Image.Image, path: Path) -> Image.Image:
    """Indices of the palette as classes; gray levels where black, the background, is not entry 0.

    Raises:
        InputError: black is another entry than 0 of a palette of colours.
    """
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    black = [int(k) for k in used if not colours[k].any()]
    if not black or black[0] == 0:
        return image
    if (colours[used] == colours[used, :1]).all():
        return image.convert("L")
    raise InputError(
        f"mask '{path}': black is entry {black[0]} of its palette, not entry 0, so the "
        "background is unclear; save it as gray, 0 for background"
    )


def _plain_mode(mode: str) -> str:
    """The mode of Pillow that holds an image's own values: 8-bit gray or RGB, 16-bit, float."""
    if mode in ("1", "L", "LA", "La"):
        return "L"
    return mode if mode == "F" or mode.startswith("I") else "RGB"


def _read_nifti(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    array, affine, native = read_nifti(path)
    channel_dim = -1 if array.ndim == 4 else np.nan
    return _volume(_channel_first(array, channel_dim)), {"affine": affine, "native_dtype": native}


def read_series(series: dicom.Series) -> tuple[np.ndarray, dict[str, Any]]:
    """Values (C, X, Y, Z) of a DICOM series in native units, and what its meta is to hold.

    Where the slices are no regular grid, the affine is without meaning: see `series.planes`.
    """
    headers = [require_sound(file) for file in series.files]
    with dicom.readable_files(series) as files:
        # ITK's wheels read no series of colour, and ITK warns of uneven slices.
        is_colour = _itk_types(files[0])[1] not in (itk.F, itk.D)
        is_uneven = series.planes is not None and irregularity(series.planes) is not None
        parts = [[file] for file in files] if is_colour or is_uneven else [files]
        read = [_read_itk(part if len(part) > 1 else part[0]) for part in parts]
        array, meta = read[0]
        if len(read) > 1:
            array = np.concatenate([array for array, _ in read], axis=3)
    meta["affine"] = place_of(headers[0], meta["affine"], array.shape[1:])
    for k, header in enumerate(headers):
        require_same_pixels(header, array if len(headers) == 1 else array[..., k : k + 1])
    if series.frames is not None:
        array = array[..., series.frames]
    if series.planes is not None:
        meta["affine"] = series.planes.affine
    if series.inversion is not None:
        array = series.inversion - array
    if meta["native_dtype"] in ("int32", "int64") and np.abs(array).max() < 2**15:
        meta["native_dtype"] = "int16"  # ITK goes by what a rescale may give, not by what it gave
    modality = "" if series.modality == "OT" else series.modality  # "other" states nothing
    return array, meta | {"modality": modality}


def _read_dicom_mask(
    path: Path, image: MetaTensor | None, overlap: Sequence[float] | None
) -> tuple[np.ndarray, dict[str, Any]]:
    shape = None if image is None else (*image.shape[1:], 1)[:3]
    grid = None if image is None else image.affine.numpy()
    array, affine, names = read_mask(path, shape, grid, overlap)
    is_small = array.min() >= 0 and array.max() < 256 and (array == array.round()).all()
    dtype = "uint8" if is_small else "float32"
    return array, {"affine": affine, "native_dtype": dtype, "names": names}


def _read_itk(files: str | list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read with ITK's reader; a list of files is one volume, in the order given."""
    first = files if isinstance(files, str) else files[0]
    native, pixel_type = _itk_types(first)
    # MONAI's own folder reading takes the first of several series and whatever else lies there.
    image = itk.imread(files, pixel_type=pixel_type)
    array, header = ITKReader().get_data(image)
    affine = to_affine_nd(3, header["affine"])
    array = np.ascontiguousarray(_channel_first(array, header["original_channel_dim"]))
    return _volume(array), {"affine": affine, "native_dtype": native}


def _itk_types(file: str) -> tuple[str, Any]:
    """The file's component type as a NumPy name, and the type to read it as.

    ITK's wheels lack images of 8-bit signed and 64-bit integers and most vectors; it converts to
    real numbers while it reads. Double keeps 32-bit integers exact.
    """
    io = itk.ImageIOFactory.CreateImageIO(file, itk.CommonEnums.IOFileMode_ReadMode)
    if io is None:
        raise ValueError("no ITK reader knows the file")
    io.SetFileName(file)
    io.ReadImageInformation()
    native = _ITK_DTYPES[io.GetComponentTypeAsString(io.GetComponentType())]
    real = itk.F if np.can_cast(native, "float32") else itk.D
    vector = io.GetNumberOfComponents() > 1
    return native, itk.VariableLengthVector[real] if vector else real


_ITK_DTYPES = {
    "unsigned_char": "uint8",
    "char": "int8",
    "unsigned_short": "uint16",
    "short": "int16",
    "unsigned_int": "uint32",
    "int": "int32",
    "unsigned_long": "uint64",
    "long": "int64",
    "unsigned_long_long": "uint64",
    "long_long": "int64",
    "float": "float32",
    "double": "float64",
}


def _channel_first(array: np.ndarray, channel_dim: float) -> np.ndarray:
    """`channel_dim` as MONAI's readers give it: NaN for none, else -1."""
    return array[None] if np.isnan(channel_dim) else np.moveaxis(array, int(channel_dim), 0)


def _volume(array: np.ndarray) -> np.ndarray:
    """(C, X, Y, Z) from (C, X, Y) or (C, X, Y, Z)."""
    return array if array.ndim == 4 else array[..., None]


def _one_channel(array: np.ndarray, path: Path) -> np.ndarray:
    """The first channel of a mask; the others must repeat it, as in a mask saved as gray RGB."""
    if not (array == array[:1]).all():
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
