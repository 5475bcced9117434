"""How alike two images are, wherever one is a noisy, mirrored, cropped or shifted copy."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 24
VIEWS = (
    *((1.0, window) for window in (1.0, 0.92, 0.84, 0.77, 0.7, 0.64, 0.58)),
    *((0.75, window) for window in (0.75, 0.87, 1.0)),
)
"""(middle part of the image, part of the known one that it is compared with), shares of a side."""
EMPTY = 1e-3  # standard deviation, of images in [-1, 1], that counts as nothing to compare


def distances(images: Tensor, known: Tensor, chunk: int = 128) -> Tensor:
    """Distance of each image to each known one, 0 for a copy, about 1 where they share nothing.

    It is 1 less the largest normalised cross-correlation of the image, mirrored or not, with any
    window of the known image (template matching: Lewis, Vision Interface 1995). Images are made
    gray and small (`SIDE` pixels on the shorter side), which hides noise; the correlation does
    not change with gain and offset; windows of several sizes at all places answer crops, and the
    middle part of the image answers shifts and margins (`VIEWS`). Rotations are not searched.

    Args:
        images: (N, C, X, Y) in [-1, 1].
        known: (M, C, X, Y), of the same size.
        chunk: known images at a time.

    Returns:
        (N, M), in [0, 2].
    """
    small, others = _small(images), _small(known)
    best = torch.full((len(images), len(known)), -1.0)
    for part, window in VIEWS:
        size = _share(others, window)
        template = functional.interpolate(
            _middle(small, _share(small, part)), size, mode="bilinear", antialias=True
        )
        views = torch.cat([_unit(t) for t in mirrored(template)])
        for start in range(0, len(others), chunk):
            found = _correlate(views, others[start : start + chunk], size)
            found = found.view(4, len(images), -1).amax(dim=0)
            columns = slice(start, start + chunk)
            best[:, columns] = torch.maximum(best[:, columns], found)
    return (1 - best).clamp(min=0)


def mirrored(images: Tensor) -> Iterator[Tensor]:
    """Images (N, C, X, Y) as they are, and mirrored along X, along Y, and along both."""
    for axes in ((), (2,), (3,), (2, 3)):
        yield images.flip(axes)


def _small(images: Tensor) -> Tensor:
    gray = images.float().mean(dim=1, keepdim=True)
    scale = min(1.0, SIDE / min(gray.shape[2:]))
    size = [round(scale * n) for n in gray.shape[2:]]
    return functional.interpolate(gray, size, mode="area")


def _share(images: Tensor, share: float) -> list[int]:
    return [max(1, round(share * n)) for n in images.shape[2:]]


def _middle(images: Tensor, size: list[int]) -> Tensor:
    x, y = ((n - m) // 2 for n, m in zip(images.shape[2:], size, strict=True))
    return images[:, :, x : x + size[0], y : y + size[1]]


def _correlate(views: Tensor, known: Tensor, size: list[int]) -> Tensor:
    """Largest correlation (V, M) of unit vectors (V, D) with the windows of known images."""
    windows = functional.unfold(known, tuple(size)).transpose(1, 2)
    count = windows.shape[1]
    units = _unit(windows.reshape(-1, 1, *size))
    return (views @ units.T).view(len(views), len(known), count).amax(dim=2)


def _unit(images: Tensor) -> Tensor:
    """(N, D) of mean 0 and length 1; images without content give shorter vectors."""
    flat = images.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=EMPTY * flat.shape[1] ** 0.5)
