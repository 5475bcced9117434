"""Checks of one image and its mask, before anything is computed from them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from monai.data import MetaTensor

from alignflow.data.formats import has_geometry
from alignflow.data.grid import corner_distance, is_same
from alignflow.errors import InputError

NEARLY_WHOLE = 0.02  # nibabel's slope for integers leaves 0.996 of a 1


def check_pair(image: MetaTensor, label: MetaTensor) -> None:
    """Refuse a mask that lies on another grid than its image.

    Args:
        image: (C, X, Y[, Z]) as `formats.load` gives it.
        label: (1, X, Y[, Z]).

    Raises:
        InputError: sizes or affines differ.
    """
    _check_size(image, label)
    if not has_geometry(image) or not has_geometry(label):
        return
    grids = np.asarray(image.affine), np.asarray(label.affine), tuple(image.shape[1:])
    if not is_same(*grids):
        raise InputError(
            f"mask '{_name(label)}': its affine puts it {corner_distance(*grids):.3g} mm away from "
            f"image '{_name(image)}'; resample the mask to the image or correct the header"
        )


def _name(image: MetaTensor) -> str:
    return str(image.meta["filename_or_obj"])


def _spatial(image: MetaTensor) -> tuple[int, ...]:
    shape = tuple(image.shape[1:])
    return shape[:2] if shape[2:] == (1,) else shape


def _check_size(image: MetaTensor, label: MetaTensor) -> None:
    if _spatial(image) != _spatial(label):
        size, mask_size = ("x".join(map(str, _spatial(i))) for i in (image, label))
        raise InputError(
            f"mask '{_name(label)}': {mask_size}, but image '{_name(image)}' has {size}; "
            "give the mask on the grid of its image"
        )


def check_image(image: MetaTensor) -> None:
    """Raise `InputError` where values are not finite, or all equal."""
    values = image.as_tensor()
    if not torch.isfinite(values).all():
        raise InputError(f"image '{_name(image)}': NaN or infinite values; repair or remove it")
    if values.min() == values.max():
        raise InputError(
            f"image '{_name(image)}': every pixel is {values.min().item():g}; remove it"
        )


def check_mask(label: MetaTensor, is_integer: bool = True) -> None:
    """Refuse what no mask holds.

    Args:
        label: native values.
        is_integer: whether they must be whole numbers (not where they are thresholded).

    Raises:
        InputError: NaN, or fractions.
    """
    values = label.as_tensor()
    if not torch.isfinite(values).all():
        raise InputError(f"mask '{_name(label)}': NaN or infinite values; repair or remove it")
    off = (values - values.round()).abs()
    if not is_integer or not off.any():
        return
    if off.max() < NEARLY_WHOLE:
        example = float(values[off == off.max()][0])
        raise InputError(
            f"mask '{_name(label)}': values such as {example:.4g}, whole numbers shifted by a "
            "scale factor; round them and save the mask as integers"
        )
    raise InputError(
        f"mask '{_name(label)}': fractions, so it looks like a soft mask; set mask_threshold"
    )


def raise_problems(lines: list[str], shown: int = 10) -> None:
    """Raise one `InputError` with the first lines and the number of the others; none if empty."""
    if lines:
        more = [f"... and {len(lines) - shown} more"] if len(lines) > shown else []
        raise InputError(*lines[:shown], *more)


def listed(names: Iterable[str], shown: int = 3) -> str:
    """Some names in quotes and the number of the others, for a message."""
    quoted = [f"'{name}'" for name in names]
    more = f" and {len(quoted) - shown} more" if len(quoted) > shown else ""
    return ", ".join(quoted[:shown]) + more or "nothing"
