"""What later stages must know of the source data: they never see its files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict

import numpy as np

from alignflow.data.dicom import SUFFIXES as DICOM_SUFFIXES
from alignflow.data.formats import ITK_SUFFIXES, NIFTI_SUFFIXES, PIL_SUFFIXES
from alignflow.errors import InputError


class Geometry(TypedDict):
    """Grid of a slice: [X, Y], and the 4x4 affine (RAS, mm) of the volume (X, Y, 1), or None."""

    shape: list[int]
    affine: list[list[float]] | None


@dataclass(frozen=True)
class SourceSpec:
    """Facts of a source data set, stored in the bundle.

    Attributes:
        channels: C of the images.
        labels: name -> native value, in the order of class indices, background first.
        structures: further names of structures in DICOM masks -> native value, see `Structures`.
        modality: "RGB8", "CT", "MR" or another DICOM code.
        window: (low, high) in native units, which the generator's -1 and 1 stand for.
        image_suffix, label_suffix: what generated pairs are written as.
        image_dtype, label_dtype: NumPy names of the written values.
        geometries: grids of up to 64 source slices.
    """

    channels: int
    labels: dict[str, float]
    modality: str
    window: tuple[float, float]
    image_suffix: str
    label_suffix: str
    image_dtype: str
    label_dtype: str
    geometries: list[Geometry]
    structures: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: only lists, dictionaries, numbers and text."""
        return asdict(self) | {"window": list(self.window)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SourceSpec:
        """The inverse of `to_dict`.

        Raises:
            InputError: a field is missing or unknown, or a suffix is none that is written.
        """
        content = {"structures": {}} | content  # records before it had none
        names = {known.name for known in fields(cls)}
        wrong = sorted(names ^ content.keys())
        if wrong:
            raise InputError(f"source spec: field '{wrong[0]}' is missing or unknown; train again")
        for name in ("image_suffix", "label_suffix"):
            # It ends the names of written files: any other text could lead out of their folder.
            if content[name] not in (*PIL_SUFFIXES, *NIFTI_SUFFIXES, *ITK_SUFFIXES):
                raise InputError(f"source spec: {name} {content[name]!r} is no image format's")
        return cls(**(content | {"window": tuple(content["window"])}))


def output_suffixes(suffix: str, channels: int = 1, image_dtype: str = "uint8") -> tuple[str, str]:
    """Suffixes that generated images and masks get, from the suffix of the source images.

    DICOM becomes .nii.gz (writing DICOM takes more than pixels), masks of JPEG images become .png
    (JPEG is lossy), and headers with separate data files (.mhd) become one file (.mha), as do
    channels that came in several pictures and that one picture does not hold.
    """
    if suffix in DICOM_SUFFIXES:
        return ".nii.gz", ".nii.gz"
    if suffix in PIL_SUFFIXES and channels > 1 and (channels, image_dtype) != (3, "uint8"):
        return ".mha", ".mha"
    if suffix in (".jpg", ".jpeg"):
        return ".jpg", ".png"
    return (".mha", ".mha") if suffix == ".mhd" else (suffix, suffix)


def writable_dtype(
    dtype: str, suffix: str, channels: int, values: Iterable[float] | None = None
) -> str:
    """The NumPy name nearest to `dtype` that a file with `suffix` can hold.

    Args:
        dtype: of the source.
        suffix: of the file to write.
        channels: of the image; ITK's wheels write few types of several channels.
        values: the class values of a mask; None for an image.

    Raises:
        InputError: class values that a picture file cannot hold.
    """
    dtype = {"bool": "uint8", "int64": "int32", "uint64": "uint32"}.get(dtype, dtype)
    if suffix in PIL_SUFFIXES:
        if values is not None:
            return _picture_label_dtype(values)
        is_real = suffix in (".tif", ".tiff") and dtype[0] == "f"
        return dtype if dtype == "uint8" else "float32" if is_real else "uint16"
    if suffix in ITK_SUFFIXES and dtype == "int8":
        return "int16"
    if suffix in ITK_SUFFIXES and channels > 1 and dtype in ("int32", "uint32"):
        return "float32"
    return dtype


def _picture_label_dtype(values: Iterable[float]) -> str:
    listed = list(values)
    for dtype in ("uint8", "uint16"):
        if np.array_equal(np.array(listed).clip(0, np.iinfo(dtype).max).astype(dtype), listed):
            return dtype
    raise InputError(f"labels: values {listed} do not fit a picture file; use 0 to 65535")
