"""Values of masks in an annotation tool, which counts classes from 1, and in the source's files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from alignflow.data.labels import Labels
from alignflow.errors import InputError


def tool_values(labels: Labels) -> dict[str, int]:
    """{name: value} that masks have in the tool, background first.

    Class indices 0 to K-1, as tools number segments; the source's own values where one of them is
    the index of another class, so that no value means two things.
    """
    native = list(labels.values())
    clash = any(value in range(len(native)) and value != k for k, value in enumerate(native))
    return {
        name: int(value) if clash else k
        for k, (name, value) in enumerate(zip(labels, native, strict=True))
    }


def tool_index(mask: Tensor, labels: Labels, threshold: float | None, name: str) -> Tensor:
    """Class indices (uint8, same shape) of a mask with values of the tool or of the source.

    Args:
        mask: whole numbers as float32.
        labels: of the source.
        threshold: where the source's masks are binary by a threshold, else None.
        name: of the file, for the message.

    Raises:
        InputError: a value that is neither.
    """
    known = known_values(labels)
    found = mask.unique().tolist()
    if all(value in known for value in found):
        index = torch.zeros(mask.shape, dtype=torch.uint8)
        for value in found:
            index[mask == value] = known[value]
        return index
    if threshold is not None:
        return (mask > threshold).to(torch.uint8)
    unknown = sorted(set(found) - set(known))
    raise InputError(
        f"mask '{name}': value {unknown[0]:g} is no class; the classes are "
        f"{', '.join(f'{n}={v}' for n, v in tool_values(labels).items())}; draw it again with these"
    )


def known_values(labels: Labels) -> Mapping[float, int]:
    """Value -> class index, of the tool and of the source."""
    own = {float(value): k for k, value in enumerate(labels.values())}
    return {float(v): k for k, v in enumerate(tool_values(labels).values())} | own


def readable_values(labels: Labels, threshold: float | None) -> np.ndarray:
    """Values (K,) by class index with which a written mask is read as the source's are."""
    if threshold is None:
        return np.array(list(labels.values()))
    return np.array([0, int(threshold) + 1])
