"""Checks of class-index masks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from alignflow.errors import InputError

Scheme = Literal["disjoint", "nested"]


def check_scheme(scheme: str) -> None:
    """Raise `InputError` unless `scheme` is "disjoint" or "nested"."""
    if scheme not in get_args(Scheme):
        raise InputError(f"scheme: {scheme!r} is unknown; use one of {', '.join(get_args(Scheme))}")


def as_class_index(label: Tensor, num_classes: int) -> Tensor:
    """A mask of class indices, checked.

    Args:
        label: tensor of any shape, whole numbers 0..K-1 (some readers return them as floats).
        num_classes: K, background included, at least 2.

    Returns:
        The same values as int64.

    Raises:
        InputError: for K < 2, an empty tensor, fractions, or values outside 0..K-1.
    """
    if num_classes < 2:
        raise InputError(
            f"num_classes: {num_classes}; count the background, so it must be 2 or more"
        )
    if label.numel() == 0:
        raise InputError(f"label: shape {tuple(label.shape)} has no pixels; pass a mask")
    index = label.to(torch.int64)
    if label.is_floating_point() and not torch.equal(index.to(label.dtype), label):
        raise InputError(
            "label: has values that are not whole; resample masks with nearest neighbour"
        )
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"label: values {low}..{high}, but num_classes {num_classes} allows "
            f"0..{num_classes - 1}; map the mask's values to class indices or raise num_classes"
        )
    return index
