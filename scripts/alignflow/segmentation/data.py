"""Pairs in memory, as a segmenter is trained and validated on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai.data import Dataset
from torch import Tensor


class Pairs(Dataset):
    """Items {"image": (C, X, Y) in [-1, 1], "label": (1, X, Y) class index} of given ones.

    Args:
        items: may hold more, which is left out.
    """

    def __init__(self, items: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__([{key: item[key] for key in ("image", "label")} for item in items])
