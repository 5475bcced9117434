"""Volumes cut into 2-D slices that still know where they lie."""

from __future__ import annotations

import numpy as np
import torch

from alignflow.data.spec import Geometry

MOST_GEOMETRIES = 64


def slice_axis_of(image: torch.Tensor, slice_axis: int) -> int:
    """`slice_axis` (0, 1, 2), but 2 where the image (C, X, Y[, Z]) is one slice anyway."""
    return 2 if is_single_slice(image) else slice_axis


def is_single_slice(image: torch.Tensor) -> bool:
    """Whether (C, X, Y[, Z]) is a 2-D image: no third axis, or one of length 1."""
    return image.ndim == 3 or image.shape[3] == 1


def stack_slices(image: torch.Tensor, axis: int) -> torch.Tensor:
    """(C, X, Y[, Z]) to (n, C, A, B): slices along `axis`, the other two axes keep their order."""
    volume = image if image.ndim == 4 else image[..., None]
    return volume.movedim(axis + 1, 0)


def slice_geometry(affine: np.ndarray, shape: tuple[int, int], axis: int, k: int) -> Geometry:
    """Grid of slice `k`: the affine of the volume (A, B, 1) that holds this slice alone.

    Its columns are those of the in-plane axes, then that of the normal; its origin is the centre of
    the slice's first voxel, so that an oblique volume's slice lies where it lay.
    """
    in_plane = [a for a in range(3) if a != axis]
    moved = np.array(affine, dtype=float)
    moved[:3, :3] = affine[:3, [*in_plane, axis]]
    moved[:3, 3] = affine[:3, 3] + k * affine[:3, axis]
    return {"shape": [int(n) for n in shape], "affine": moved.tolist()}


def unique_geometries(geometries: list[Geometry], most: int = MOST_GEOMETRIES) -> list[Geometry]:
    """Up to `most` different ones, evenly spread over the list."""
    unique = list({repr(geometry): geometry for geometry in geometries}.values())
    picked = np.linspace(0, len(unique) - 1, min(most, len(unique))).round().astype(int)
    return [unique[i] for i in picked]
