"""Native intensities to [-1, 1] and back, by a window that is fixed per data set or volume."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Window = tuple[float, float]
Array = TypeVar("Array", np.ndarray, torch.Tensor)


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
