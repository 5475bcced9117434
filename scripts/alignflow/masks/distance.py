"""Masks as truncated signed distances, which a flow can generate."""

from __future__ import annotations

import torch
from monai.networks.utils import one_hot
from monai.transforms.utils import distance_transform_edt
from torch import Tensor

from alignflow.errors import InputError
from alignflow.masks.class_index import Scheme, as_class_index, check_scheme


def to_distance(
    label: Tensor, num_classes: int, clip: float = 5.0, scheme: Scheme = "disjoint"
) -> Tensor:
    """Truncated signed Euclidean distance to each foreground class's boundary.

    Positive inside. The boundary runs between pixels, so the nearest pixel on either side of it
    is at +-0.5; the edge of the image is not a boundary. The map of an absent class is -1
    everywhere, that of a class that fills the image +1.

    Args:
        label: class indices 0..K-1, shape (1, X, Y[, Z]).
        num_classes: K, background included.
        clip: distance, in pixels, at which the map saturates; above 0.
        scheme: "disjoint", map j is of {label == j}; "nested", map j is of {label >= j}.

    Returns:
        float32 (K-1, X, Y[, Z]) in [-1, 1], on the label's device.

    Raises:
        InputError: for a label of wrong shape or with wrong values, clip <= 0, an unknown scheme.
    """
    check_scheme(scheme)
    if not clip > 0:
        raise InputError(f"clip: {clip}; the distance must saturate at more than 0 pixels")
    if label.ndim not in (3, 4) or label.shape[0] != 1:
        raise InputError(
            f"label: shape {tuple(label.shape)}; pass one mask, (1, X, Y) or (1, X, Y, Z)"
        )
    index = as_class_index(torch.as_tensor(label.cpu().numpy()), num_classes)
    levels = torch.arange(1, num_classes).view(-1, *[1] * (index.ndim - 1))
    region = index == levels if scheme == "disjoint" else index >= levels
    signed = torch.stack([_signed_distance(one) for one in region])
    return (signed.clamp(-clip, clip) / clip).float().to(label.device)


def from_distance(distance: Tensor, scheme: Scheme = "disjoint") -> Tensor:
    """Class index of signed distances; the exact inverse of `to_distance`.

    "disjoint" takes the class of the largest distance, or the background where no distance is
    above 0. "nested" counts the levels above 0 after a running minimum, so that a level exists only
    inside all lower levels.

    Args:
        distance: (B, K-1, X, Y) or (K-1, X, Y).
        scheme: same as for `to_distance`.

    Returns:
        uint8 (B, 1, X, Y) of values 0..K-1; B is 1 for an unbatched distance.

    Raises:
        InputError: for a wrong number of dimensions or an unknown scheme.
    """
    check_scheme(scheme)
    if distance.ndim not in (3, 4):
        raise InputError(
            f"distance: shape {tuple(distance.shape)}; pass (B, K-1, X, Y) or (K-1, X, Y)"
        )
    batch = distance if distance.ndim == 4 else distance[None]
    if scheme == "nested":
        index = (batch.cummin(dim=1).values > 0).sum(dim=1, keepdim=True)
    else:
        background = torch.zeros_like(batch[:, :1])
        index = torch.cat([background, batch], dim=1).argmax(dim=1, keepdim=True)
    return index.to(torch.uint8)


def condition_maps(label: Tensor, distance: Tensor, num_classes: int) -> Tensor:
    """The condition of the image flow: one-hot classes, then signed distances.

    The background has its own channel, so that an empty mask differs from a dropped condition,
    which is all zeros.

    Args:
        label: class indices 0..K-1, shape (B, 1, X, Y[, Z]).
        distance: `to_distance` of the same masks, (B, K-1, X, Y[, Z]).
        num_classes: K, background included.

    Returns:
        float32 (B, 2K-1, X, Y[, Z]).

    Raises:
        InputError: for bad labels or a distance that does not fit them.
    """
    if label.ndim not in (4, 5) or label.shape[1] != 1:
        raise InputError(f"label: shape {tuple(label.shape)}; pass a batch of masks, (B, 1, X, Y)")
    expected = (label.shape[0], num_classes - 1, *label.shape[2:])
    if tuple(distance.shape) != expected:
        raise InputError(
            f"distance: shape {tuple(distance.shape)}, but the labels and num_classes "
            f"{num_classes} need {expected}; compute it with to_distance from the same masks"
        )
    classes = one_hot(as_class_index(label, num_classes), num_classes, dtype=torch.float32)
    return torch.cat([classes, distance.float()], dim=1)


def _signed_distance(region: Tensor) -> Tensor:
    """Signed distance in pixels, float64, of a boolean (X, Y[, Z]); infinite without a boundary."""
    # scipy's transform is undefined where it has no zero to measure to.
    if not region.any() or region.all():
        return torch.where(region, torch.inf, -torch.inf).double()
    both = torch.stack([region, ~region]).numpy()
    inside, outside = torch.as_tensor(distance_transform_edt(both))
    return torch.where(region, inside - 0.5, 0.5 - outside)
