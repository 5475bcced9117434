"""A queue of the features of earlier samples, which adds to a small batch."""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureQueue:
    """The newest `size` feature vectors, first in, first out.

    Args:
        features: initial features (N, D); the last `size` are kept.
        size: number of features to keep; 0 for none.
    """

    def __init__(self, features: Tensor, size: int) -> None:
        self.size = size
        self.content: Tensor | None = features.detach()[-size:] if size else None

    def push(self, features: Tensor) -> None:
        """Add features (B, D) and drop the oldest."""
        if self.content is not None:
            self.content = torch.cat([self.content, features.detach()])[-self.size :]
