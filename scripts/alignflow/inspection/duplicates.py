"""Images that are copies of each other, or nearly so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignflow.evaluation.copies import NEAR
from alignflow.inspection.files import FileFacts


def copies(first: Sequence[FileFacts], second: Sequence[FileFacts]) -> list[tuple[int, int, bool]]:
    """Pairs (i, j, exact) of a file of one list and a file of another one that show one image.

    Exact copies have equal pixels. Near ones are unequal, but their thumbnails, free of brightness
    and contrast, correlate so well that 1 - r is below `NEAR` times its median over all pairs:
    what a set has in common (a black frame, a skull) does not make its images copies.

    Args:
        first, second: the lists; the same list twice gives each pair once, i < j.
    """
    found = []
    lengths = {len(f.thumbnail) for f in first if f.thumbnail is not None}
    for length in sorted(lengths):  # 2-D images and volumes, 1 and 3 channels cannot be compared
        one, other = _of_length(first, length), _of_length(second, length)
        if one and other:
            found += _copies(first, second, one, other)
    return found


def _of_length(files: Sequence[FileFacts], length: int) -> list[int]:
    """Numbers of the files with thumbnails of that length."""
    return [
        k for k, f in enumerate(files) if f.thumbnail is not None and len(f.thumbnail) == length
    ]


def _copies(
    first: Sequence[FileFacts], second: Sequence[FileFacts], one: list[int], other: list[int]
) -> list[tuple[int, int, bool]]:
    apart = 1 - _stack(first, one) @ _stack(second, other).T
    others = apart if first is not second else apart[~torch.eye(*apart.shape, dtype=torch.bool)]
    # 1 is that of unrelated images, where there are too few to tell
    limit = NEAR * (float(others.median()) if others.numel() >= 12 else 1.0)
    found = []
    for a, b in (apart <= limit).nonzero().tolist():
        i, j = one[a], other[b]
        if first is second and i >= j:
            continue
        found.append((i, j, first[i].digest == second[j].digest))
    return found


def _stack(files: Sequence[FileFacts], numbers: list[int]) -> Tensor:
    return torch.stack([t for k in numbers if (t := files[k].thumbnail) is not None])
