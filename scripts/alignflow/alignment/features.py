"""Feature spaces of the reward: frozen networks and their levels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from alignflow.errors import InputError

logger = logging.getLogger(__name__)


class EncoderFeatures(nn.Module):
    """Mean and standard deviation over space of each channel at some levels of a frozen network.

    Level k is the last map on the way down after k halvings of the first map, so that any U-Net
    or classifier serves: for BasicUNet levels 0, 1, 2 are `conv_0`, `down_1`, `down_2`. The
    levels are found with the first images; one that the network lacks is its deepest instead.

    Args:
        network: takes images (B, C, X, Y) in [-1, 1]; put into eval mode and frozen.
        levels: whole numbers from 0.

    Raises:
        InputError: no level, or one below 0.
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
        with _outputs(list(self.network.modules())) as found:
            self.network(images[:1])
        # one-pixel maps gate channels and do not count as a level
        maps = [(layer, x.shape[-1]) for layer, x in found if x.dim() == 4 and x.shape[-1] > 1]
        down: list[nn.Module] = []  # the last layer of each level
        side = 0
        for layer, size in maps:
            if down and size > side:
                break
            if not down or size < 0.75 * side:
                down.append(layer)
                side = size
            down[-1] = layer
        if max(self.levels) >= len(down):
            logger.warning(
                "encoder_levels %s: the network has %d levels, the deepest stands in for the rest",
                self.levels,
                len(down),
            )
        return [down[min(level, len(down) - 1)] for level in self.levels]


@contextmanager
def _outputs(layers: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Outputs of layers in the order of their calls, while the network runs."""
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
