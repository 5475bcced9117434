"""Feature spaces of the reward: frozen networks and their layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignflow.errors import InputError
from alignflow.segmentation.network import load_weights


class EncoderFeatures(nn.Module):
    """Mean and standard deviation over space of each channel at some layers of a frozen network.

    Args:
        network: takes images (B, C, X, Y) in [-1, 1]; put into eval mode and frozen.
        layers: names of its modules (`dict(network.named_modules())`) with outputs (B, D, x, y).
        weights: optional file with a state dict, loaded with weights_only.

    Raises:
        InputError: a layer that the network lacks; weights that cannot be read or do not fit.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], weights: str | None = None
    ) -> None:
        super().__init__()
        if weights is not None:
            load_weights(network, weights, missing="correct the path")
        self.network = network.eval().requires_grad_(False)
        self.layers = list(layers)
        self.found: dict[str, Tensor] = {}
        modules = dict(network.named_modules())
        for name in self.layers:
            if name not in modules:
                raise InputError(
                    f"reward: the encoder has no layer '{name}'; "
                    f"set one of {', '.join(list(modules)[1:])}"
                )
            modules[name].register_forward_hook(self._keep(name))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, X, Y) in [-1, 1]; D is twice the layers' channels."""
        maps = self.maps(images)
        means = [m.mean(dim=(2, 3)) for m in maps]
        spreads = [(m.var(dim=(2, 3)) + 1e-6).sqrt() for m in maps]
        return torch.cat([*means, *spreads], dim=1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs (B, D, x, y) of the layers, float32, for images (B, C, X, Y) in [-1, 1]."""
        self.found.clear()
        self.network(images)
        maps = [self.found[name].float() for name in self.layers]
        self.found.clear()
        return maps

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            self.found[name] = output

        return hook
