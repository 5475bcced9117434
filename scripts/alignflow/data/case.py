"""One image and its mask, read, checked, cut into slices and resized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor

from alignflow.data.check import check_pair
from alignflow.data.formats import has_geometry, load
from alignflow.data.intensity import IntensityWindow, Window
from alignflow.data.slices import (
    is_single_slice,
    slice_axis_of,
    slice_geometry,
    stack_slices,
)
from alignflow.data.spec import Geometry
from alignflow.data.structures import Structures

Resize = Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass
class Slice:
    """A resized slice, values still native: image (C, X, Y) and label (1, X, Y), both float32."""

    image: torch.Tensor
    label: torch.Tensor
    geometry: Geometry
    always_keep: bool


@dataclass
class LoadedCase:
    """The slices of one pair, and what the data set must know of the files as a whole."""

    image_path: str
    label_path: str
    slices: list[Slice]
    channels: int
    modality: str
    window: Window
    label_values: list[float]
    label_maximum: float
    suffix: str
    image_dtype: str
    label_dtype: str


def load_case(
    item: Mapping[str, str],
    intensity: IntensityWindow,
    resize: Resize | None = None,
    mask_threshold: float | None = None,
    slice_axis: int = 2,
    foreground_only: bool = True,
    structures: Structures | None = None,
) -> LoadedCase:
    """Read one entry of a datalist.

    Args:
        item: "image", "label" and optionally "modality", as `build_datalist` gives it.
        intensity: decides the window; nothing is scaled here.
        resize: MONAI dictionary transform of "image" (C, X, Y) and "label" (1, X, Y).
        mask_threshold: label values become 1 above it, else 0.
        slice_axis: 0, 1 or 2; a 2-D image is one slice.
        foreground_only: leave out slices of volumes whose mask is 0 throughout.
        structures: of a DICOM mask, as `formats.load` takes them.

    Raises:
        InputError: whatever `formats.load`, `check_pair` or `IntensityWindow` refuses.
    """
    image = load(item["image"])
    label = load(item["label"], is_mask=True, image=image, structures=structures)
    check_pair(image, label, integer_label=mask_threshold is None)
    modality = intensity.modality_of(image, item.get("modality"))
    maximum = float(label.max())
    values = label.as_tensor() if mask_threshold is None else _binary(label, mask_threshold)
    return LoadedCase(
        image_path=item["image"],
        label_path=item["label"],
        slices=_slices(image, values, resize, slice_axis, foreground_only),
        channels=image.shape[0],
        modality=modality,
        window=intensity.window_of(image, modality),
        label_values=values.unique().tolist(),
        label_maximum=maximum,
        suffix=image.meta["suffix"],
        image_dtype=image.meta["native_dtype"],
        label_dtype=label.meta["native_dtype"],
    )


def _binary(label: MetaTensor, threshold: float) -> torch.Tensor:
    return (label.as_tensor() > threshold).float()


def _slices(
    image: MetaTensor,
    label: torch.Tensor,
    resize: Resize | None,
    slice_axis: int,
    foreground_only: bool,
) -> list[Slice]:
    axis = slice_axis_of(image, slice_axis)
    always_keep = is_single_slice(image) or not foreground_only
    pairs = zip(
        stack_slices(image.as_tensor(), axis),
        stack_slices(label, slice_axis_of(label, slice_axis)),
        strict=True,
    )
    return [
        _resized(pixels, mask, geometry_of(image, pixels, axis, k), resize, always_keep)
        for k, (pixels, mask) in enumerate(pairs)
        if always_keep or mask.any()
    ]


def geometry_of(image: MetaTensor, pixels: torch.Tensor, axis: int, k: int) -> Geometry:
    """Grid of slice `k` (C, A, B) of an image; without affine where its file states none."""
    shape = (pixels.shape[1], pixels.shape[2])
    if not has_geometry(image):
        return {"shape": list(shape), "affine": None}
    return slice_geometry(image.affine.numpy(), shape, axis, k)


def _resized(
    image: torch.Tensor,
    label: torch.Tensor,
    geometry: Geometry,
    resize: Resize | None,
    always_keep: bool,
) -> Slice:
    pair: Mapping[str, Any] = {"image": image.contiguous(), "label": label.contiguous()}
    if resize is not None:
        pair = resize(dict(pair))
    # A copy: a view would keep the whole volume in memory.
    small, mask = (convert_to_tensor(pair[k], track_meta=False).clone() for k in ("image", "label"))
    return Slice(small.float(), mask.float(), geometry, always_keep)


def name_of(case: LoadedCase) -> str:
    """The image's file name, for messages."""
    return Path(case.image_path).name
