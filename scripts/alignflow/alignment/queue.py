"""Features of earlier samples: a small batch then sees a large set."""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureQueue:
    """The newest `size` feature vectors, first in, first out.

    Args:
        features: (N, D) to begin with; the last `size` are kept.
        size: how many; 0 keeps none.
    """

    def __init__(self, features: Tensor, size: int) -> None:
        self.size = size
        self.content: Tensor | None = features.detach()[-size:] if size else None

    def push(self, features: Tensor) -> None:
        """Take in (B, D), let go of the oldest."""
        if self.content is not None:
            self.content = torch.cat([self.content, features.detach()])[-self.size :]
