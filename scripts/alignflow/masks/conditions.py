"""Description of a mask by a few numbers: the condition of the mask flow."""

from __future__ import annotations

import torch
from torch import Tensor

from alignflow.errors import InputError
from alignflow.masks.class_index import as_class_index

FIELDS = 4
"""Numbers per foreground class: presence, scaled log-area, centroid x, centroid y."""

AREA_DECADES = 4.0
"""Decades of area that map to [-1, 1]: 1e-4 of the image is -1, 1e-2 is 0, all of it is 1."""


def describe(label: Tensor, num_classes: int) -> Tensor:
    """Presence, area and centroid of each foreground class.

    The area is 1 + 2 log10(fraction of pixels) / `AREA_DECADES`. Centroids are in image
    coordinates, -1 at the lower edge of the first pixel and 1 at the upper edge of the last.
    Area and centroid of an absent class are 0.

    Args:
        label: class indices 0..K-1, shape (B, 1, X, Y).
        num_classes: K, background included.

    Returns:
        float32 (B, 4*(K-1)): class 1's (presence, area, x, y), then class 2's, and so on.

    Raises:
        InputError: for a label of wrong shape or with wrong values.
    """
    if label.ndim != 4 or label.shape[1] != 1:
        raise InputError(f"label: shape {tuple(label.shape)}; pass a batch of masks, (B, 1, X, Y)")
    index = as_class_index(torch.as_tensor(label), num_classes)
    classes = torch.arange(1, num_classes, device=index.device).view(1, -1, 1, 1)
    region = (index == classes).double()
    fraction = region.mean(dim=(2, 3))
    present = fraction > 0
    weight = region / region.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    x = (weight.sum(dim=3) * _pixel_centres(region.shape[2], region)).sum(dim=2)
    y = (weight.sum(dim=2) * _pixel_centres(region.shape[3], region)).sum(dim=2)
    area = torch.where(present, 1 + 2 * fraction.log10() / AREA_DECADES, 0.0)
    return torch.stack([present.double(), area, x, y], dim=2).flatten(1).float()


def jitter(description: Tensor, generator: torch.Generator | None, scale: float) -> Tensor:
    """Add the same normal noise to area and centroid of all classes that are present.

    The structures of an image move and grow together, so that a ring stays around what it encloses.

    Args:
        description: (B, 4*(K-1)) of `describe`.
        generator: source of the noise, None for torch's global one.
        scale: standard deviation in the units of the description, 0 or more.

    Returns:
        A new tensor of the same shape and type. Presence and absent classes are unchanged,
        centroids stay in [-1, 1], areas at most 1.

    Raises:
        InputError: for a negative scale or a width that is not a multiple of 4.
    """
    if scale < 0:
        raise InputError(f"scale: {scale}; the noise needs a standard deviation of 0 or more")
    if description.ndim != 2 or description.shape[1] % FIELDS:
        raise InputError(
            f"description: shape {tuple(description.shape)}; pass (B, {FIELDS}*(K-1)) of describe"
        )
    fields = description.unflatten(1, (-1, FIELDS))
    presence, measures = fields[..., :1], fields[..., 1:]
    device = description.device if generator is None else generator.device
    shape = (len(measures), 1, FIELDS - 1)
    noise = torch.randn(shape, generator=generator, device=device).to(measures) * scale
    noisy = torch.cat(
        [
            (measures + noise)[..., :1].clamp(max=1),
            (measures + noise)[..., 1:].clamp(-1, 1),
        ],
        dim=-1,
    )
    return torch.cat([presence, torch.where(presence > 0, noisy, measures)], dim=-1).flatten(1)


def _pixel_centres(size: int, like: Tensor) -> Tensor:
    """Centres of `size` pixels that tile [-1, 1], in the type and device of `like`."""
    step = torch.arange(size, dtype=like.dtype, device=like.device)
    return (2 * step + 1) / size - 1
