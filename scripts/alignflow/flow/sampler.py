"""Samplers: trained flows that turn noise and a condition into data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignflow.flow.guidance import guided_velocity
from alignflow.flow.solver import integrate


class FlowSampler(nn.Module):
    """Integrates a velocity network under classifier-free guidance; differentiable.

    Args:
        network: velocity network called as network(x, t, **condition).
        steps: solver steps (Heun and midpoint evaluate the network twice per step).
        method: euler, midpoint or heun.
        guidance: weight of classifier-free guidance, 1 for none.
    """

    def __init__(
        self, network: nn.Module, *, steps: int, method: str = "heun", guidance: float = 1.0
    ) -> None:
        super().__init__()
        self.network = network
        self.steps = steps
        self.method = method
        self.guidance = guidance

    def forward(self, noise: Tensor, **condition: Tensor) -> Tensor:
        """Data (B, C, X, Y) from noise of the same shape; condition as the network takes it."""
        velocity = guided_velocity(self.network, condition, self.guidance)
        return integrate(velocity, noise, steps=self.steps, method=self.method, final_euler=True)


class ImageSampler(FlowSampler):
    """The image flow with a single input tensor, as MONAI's exports and checks expect.

    forward: cat(noise (B, C, X, Y), condition maps (B, 2K-1, X, Y)) -> image (B, C, X, Y), in about
    [-1, 1].
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Image from the concatenation of noise and condition maps."""
        channels = self.network.data_channels
        return super().forward(x[:, :channels], condition=x[:, channels:])


class MaskSampler(FlowSampler):
    """The mask flow with a single input tensor, see `with_planes`.

    forward: cat(noise (B, K-1, X, Y), description (B, 1 + 4 (K-1), X, Y)) -> distance maps
    (B, K-1, X, Y).
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Distance maps from the concatenation of noise and description."""
        channels = self.network.data_channels
        return super().forward(x[:, :channels], vector=x[:, channels:, 0, 0])


def with_planes(noise: Tensor, vector: Tensor) -> Tensor:
    """Noise (B, C, X, Y), with each entry of the vector (B, D) appended as a constant channel."""
    planes = vector[:, :, None, None].expand(-1, -1, *noise.shape[2:])
    return torch.cat([noise, planes], dim=1)
