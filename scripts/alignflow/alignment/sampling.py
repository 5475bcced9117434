"""Samples from fixed masks and noise, to fit the reward and to monitor alignment."""

from __future__ import annotations

import torch
from monai.data import Dataset
from torch import Tensor

from alignflow.alignment.reward import SetReward
from alignflow.alignment.site import spread_evenly
from alignflow.device import Precision
from alignflow.flow.sampler import FlowSampler


class FixedSamples:
    """Samples of some masks from fixed noise: only the network changes.

    Args:
        bank: masks, see `MaskBank`.
        count: number of masks to use, evenly spread over the bank.
        channels: C of the images.
        precision: autocast of sampling.
        device: device of the network.
        batch_size: samples at once.
        seed: random seed of the noise.

    Attributes:
        labels: (S, 1, X, Y) class indices.
    """

    def __init__(
        self,
        bank: Dataset,
        *,
        count: int,
        channels: int,
        precision: Precision,
        device: str,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self.labels, self.maps = spread_evenly(bank, count)
        shape = (len(self.labels), channels, *self.labels.shape[2:])
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        self.precision = precision
        self.device = device
        self.batch_size = batch_size

    @torch.no_grad()
    def draw(self, sampler: FlowSampler) -> Tensor:
        """Images float32 (S, C, X, Y), on the network's device."""
        images = []
        batches = zip(
            self.noise.split(self.batch_size), self.maps.split(self.batch_size), strict=True
        )
        for noise, maps in batches:
            with self.precision.autocast():
                image = sampler(noise.to(self.device), condition=maps.to(self.device))
            images.append(image.float())
        return torch.cat(images)


def fit_reward(
    reward: SetReward, unaligned: Tensor, references: Tensor, noise: float, seed: int
) -> SetReward:
    """Fit the reward to unaligned samples (S, C, X, Y) with added noise, and to references."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(unaligned.shape, generator=generator)
    seen = unaligned + noise * draws.to(unaligned.device)
    reward.fit(seen, references)
    return reward
