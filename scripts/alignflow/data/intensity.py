"""Native intensities to [-1, 1] and back, by a window that is fixed per data set or volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from monai.data import MetaTensor

from alignflow.data.formats import PIL_SUFFIXES
from alignflow.errors import InputError

Window = tuple[float, float]
Array = TypeVar("Array", np.ndarray, torch.Tensor)

MODALITIES = ("auto", "CT", "MR", "RGB8")
CT_WINDOW = (-200.0, 300.0)  # HU: soft tissue with contrast agent
RGB8_WINDOW = (0.0, 255.0)
AIR = -900.0  # HU: no MR image, of whatever scale, reaches down to it


def scale(x: Array, low: float, high: float) -> Array:
    """Native values to [-1, 1]: low -> -1, high -> 1, clipped."""
    return ((x - low) * (2 / (high - low)) - 1).clip(-1, 1)


def unscale(x: Array, low: float, high: float) -> Array:
    """[-1, 1] to native values: -1 -> low, 1 -> high, clipped; the inverse of `scale` within it."""
    return (x.clip(-1, 1) + 1) * ((high - low) / 2) + low


def to_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    """Native real values as `dtype` (a NumPy name): rounded and clipped where it is an integer."""
    if np.dtype(dtype).kind not in "iu":
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(x.astype(np.float64)).clip(limits.min, limits.max).astype(dtype)


class IntensityWindow:
    """Which window of native values an image is scaled by.

    A fixed window is used for 8-bit colour and gray photographs (0 to 255) and for CT (HU are
    absolute). MR units are arbitrary, so MR and all else is scaled by percentiles of each volume,
    of which every slice shares the window: brightness within a volume survives.

    Args:
        modality: "CT", "MR", "RGB8", or "auto": by file type, DICOM or dataset.json.
        window: (low, high) in native units, used for all images whatever their modality.
        percentiles: the lower and upper one (0 to 100), of all voxels and channels of a volume.

    Raises:
        InputError: an unknown modality, a window or percentiles that do not ascend.
    """

    def __init__(
        self,
        modality: str = "auto",
        window: Sequence[float] | None = None,
        percentiles: Sequence[float] = (0.5, 99.5),
    ) -> None:
        if modality not in MODALITIES:
            raise InputError(f"modality: '{modality}'; set one of {', '.join(MODALITIES)}")
        self.modality = modality
        self.window = None if window is None else _ascending("window", window)
        self.percentiles = _ascending("percentiles", percentiles)

    def modality_of(self, image: MetaTensor, stated: str | None = None) -> str:
        """The modality an image is treated as: "RGB8", "CT", "MR", or DICOM's own code.

        Args:
            image: as `formats.load` gives it.
            stated: what `dataset.json` says, such as "MRI".

        Raises:
            InputError: values that look like HU, but nothing states the modality.
        """
        if self.modality != "auto":
            return self.modality
        if _is_photograph(image):
            return "RGB8"
        modality = str(image.meta["modality"] or stated or "").upper()
        if modality:
            return "MR" if modality.startswith("MR") else modality
        if self.window is None and image.min() <= AIR:
            raise InputError(
                f"image '{image.meta['filename_or_obj']}': values down to {image.min().item():g} "
                'look like CT, but the modality is not stated; set "modality" to "CT" or "MR"'
            )
        return "MR"

    def window_of(self, image: MetaTensor, modality: str) -> Window:
        """The window of one image or volume with `modality`.

        Raises:
            InputError: the two percentiles are equal.
        """
        if self.window is not None:
            return self.window
        if modality == "RGB8":
            return RGB8_WINDOW
        if modality == "CT":
            return CT_WINDOW
        low, high = np.percentile(image.numpy(), self.percentiles)
        if not low < high:
            raise InputError(
                f"image '{image.meta['filename_or_obj']}': percentiles {self.percentiles} are both "
                f'{low:g}; set "window" or wider "percentiles"'
            )
        return float(low), float(high)


def median_window(windows: Sequence[Window]) -> Window:
    """What generated images are written by: median of the lower, and of the upper limits."""
    low, high = np.median(np.asarray(windows), axis=0)
    return float(low), float(high)


def _is_photograph(image: MetaTensor) -> bool:
    """8 bits a channel from a picture file, or in colour (an ultrasound or endoscopy DICOM)."""
    is_picture = image.meta["suffix"] in PIL_SUFFIXES or image.shape[0] == 3
    return image.meta["native_dtype"] == "uint8" and is_picture


def _ascending(field: str, pair: Sequence[float]) -> Window:
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise InputError(f"{field}: {list(pair)}; set two numbers, the lower one first")
    return float(pair[0]), float(pair[1])
