"""Features of the reward from some levels of a frozen network."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alignflow.errors import InputError

logger = logging.getLogger(__name__)


class EncoderFeatures(nn.Module):
    """Spatial mean and standard deviation of each channel at some levels of a frozen network.

    Level k is the last map on the way down whose sides are those of the image divided by 2^k. This
    works for any U-Net or classifier; in BasicUNet levels 0, 1, 2 are `conv_0`, `down_1`, `down_2`.
    The levels are found with the first images. A level that the network lacks is replaced by its
    next deeper level, or its deepest.

    Args:
        network: takes images (B, C, X, Y) in [-1, 1]; put into eval mode and frozen.
        levels: whole numbers from 0.

    Raises:
        InputError: no levels, or a level below 0.
    """

    def __init__(self, network: nn.Module, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or any(not isinstance(k, int) or k < 0 for k in levels):
            raise InputError(f'config "encoder_levels": {list(levels)}; set numbers such as [1, 2]')
        self.network = network.eval().requires_grad_(False)
        self.levels = list(levels)
        self.layers: list[nn.Module] = []

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, X, Y) in [-1, 1]; D is twice the levels' channels."""
        maps = self.maps(images)
        means = [m.mean(dim=(2, 3)) for m in maps]
        spreads = [(m.var(dim=(2, 3)) + 1e-6).sqrt() for m in maps]
        return torch.cat([*means, *spreads], dim=1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps (B, D, x, y) of the levels, float32, for images (B, C, X, Y) in [-1, 1]."""
        if not self.layers:
            self.layers = self._find(images)
        with _outputs(self.layers) as found:
            self.network(images)
        last = dict(found)
        return [last[layer].float() for layer in self.layers]

    @torch.no_grad()
    def _find(self, images: Tensor) -> list[nn.Module]:
        # skip layers without weights, such as activations, which may be used more than once
        layers = [m for m in self.network.modules() if any(True for _ in m.parameters())]
        with _outputs(layers) as found:
            self.network(images[:1])
        down: dict[int, nn.Module] = {}  # the last layer of each level
        for layer, output in found:
            level = _level(output, images)
            if level is None:
                continue
            if level < max(down, default=0):
                break
            down[level] = layer
        used = [min((k for k in down if k >= n), default=max(down)) for n in self.levels]
        if used != self.levels:
            logger.warning(
                "encoder_levels %s: the network has the levels %s; using %s",
                self.levels,
                sorted(down),
                used,
            )
        return [down[level] for level in used]


def _level(output: Tensor, images: Tensor) -> int | None:
    """k of a map (B, D, ~X / 2^k, ~Y / 2^k); None for other tensors and maps of one pixel."""
    if output.dim() != 4 or output.shape[2:].numel() == 1:
        return None
    halvings = [math.log2(n / m) for n, m in zip(images.shape[2:], output.shape[2:], strict=True)]
    level = round(halvings[0])
    return level if level >= 0 and abs(halvings[0] - halvings[1]) < 0.3 else None


@contextmanager
def _outputs(layers: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collect the outputs of layers, in the order of their calls."""
    found: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append((layer, output))

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
