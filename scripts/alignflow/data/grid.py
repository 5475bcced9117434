"""Where voxels lie, and whether two grids are one."""

from __future__ import annotations

import numpy as np

SAME = 0.05  # of a voxel, at the corners: far above rounding, far below a shift
SMALLEST, FARTHEST = 1e-9, 1e6  # mm: of a voxel, and of all that lies in a room


def is_place(affine: np.ndarray) -> bool:
    """Whether voxels of a (4, 4) affine in mm have a size and lie within a kilometre."""
    if not np.isfinite(affine).all() or np.abs(affine).max() > FARTHEST:
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(sizes.min() >= SMALLEST and np.linalg.det(affine[:3, :3] / sizes))


def corner_distance(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance, in mm, of equal corners of two grids of (X, Y[, Z]) voxels."""
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array([*shape, 1])[:3] - 1)
    shifts = np.c_[corners, np.ones(8)] @ (np.asarray(affine) - np.asarray(other)).T
    return float(np.linalg.norm(shifts[:, :3], axis=1).max())


def is_same(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two grids of one shape are one, up to rounding."""
    voxel = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).min()
    return bool(corner_distance(affine, other, shape) <= SAME * voxel)
