"""Draws masks from the mask flow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor, nn

from alignflow.device import Precision
from alignflow.flow.sampler import FlowSampler
from alignflow.inference.noise import pair_generator, pair_noise
from alignflow.masks.conditions import jitter
from alignflow.masks.distance import from_distance
from alignflow.masks.postprocess import MaskPostprocess
from alignflow.stage1 import Stage1
from alignflow.training.targets import flagged


class MaskGenerator:
    """Draws a mask for each pair, and draws it again if post-processing rejects it.

    Each mask is conditioned on the description (presence, area, position) of a random training
    mask, with a little noise. Rejections and their reasons are counted for the provenance.

    Args:
        stage1: record of the generator.
        sampler: sampler of the mask flow.
        precision: autocast of sampling.
        device: device of the sampler.
        seed: random seed of the run.
        jitter_scale: standard deviation of the noise on a description.
        smoothing: standard deviation, in pixels, of the Gaussian that smooths the distance maps,
            since a network on patches leaves single-pixel bumps on outlines. 0 for none.
        max_attempts: draws of a mask before the last is accepted although it was rejected.
    """

    def __init__(
        self,
        *,
        stage1: Stage1,
        sampler: FlowSampler,
        precision: Precision,
        device: str,
        seed: int = 0,
        jitter_scale: float = 0.05,
        smoothing: float = 0.0,
        max_attempts: int = 10,
    ) -> None:
        self.stage1 = stage1
        self.sampler = sampler.to(device).eval()
        self.precision = precision
        self.device = device
        self.seed = seed
        self.jitter_scale = jitter_scale
        self.smooth = GaussianFilter(2, smoothing) if smoothing else nn.Identity()
        self.max_attempts = max_attempts
        self.postprocess = MaskPostprocess.from_dict(stage1.postprocess)
        self.drawn = 0
        self.rejected: Counter[str] = Counter()
        self.accepted_after_max_attempts: list[int] = []

    def __call__(self, indices: list[int]) -> Tensor:
        """Masks of these pairs, uint8 class indices (B, 1, X, Y)."""
        labels: dict[int, Tensor] = {}
        waiting = list(indices)
        for attempt in range(self.max_attempts):
            last = attempt == self.max_attempts - 1
            candidates = self.draw(waiting, attempt)
            for index, candidate in zip(tuple(waiting), candidates, strict=True):
                self.drawn += 1
                cleaned, reason = self.postprocess(candidate[0].numpy())
                if reason is not None:
                    self.rejected[re.sub(r" \S+, training.*", "", reason)] += 1
                if reason is None or last:
                    labels[index] = torch.from_numpy(cleaned)[None].to(torch.uint8)
                    waiting.remove(index)
                    self.accepted_after_max_attempts += [index] if reason is not None else []
            if not waiting:
                break
        return torch.stack([labels[index] for index in indices])

    def draw(self, indices: list[int], attempt: int) -> Tensor:
        """Masks of one attempt before post-processing, uint8 (B, 1, X, Y)."""
        distance = self.distances(*self.start(indices, attempt))
        return from_distance(self.smooth(distance), self.stage1.scheme)

    def start(self, indices: list[int], attempt: int = 0) -> tuple[Tensor, Tensor]:
        """Noise (B, K-1, X, Y) and descriptions (B, 1 + 4 (K-1)) of these pairs."""
        vector = torch.stack([self.describe(index, attempt) for index in indices])
        return self.noise(indices, attempt), vector

    def noise(self, indices: list[int], attempt: int = 0) -> Tensor:
        """Noise x_0 (B, K-1, X, Y) of these pairs."""
        shape = (self.stage1.num_classes - 1, *self.stage1.image_size)
        return pair_noise(self.seed, indices, "mask", shape, attempt)

    @torch.no_grad()
    def distances(self, noise: Tensor, vector: Tensor) -> Tensor:
        """Distance maps float32 (B, K-1, X, Y) from noise and descriptions."""
        with self.precision.autocast():
            distance = self.sampler(noise.to(self.device), vector=vector.to(self.device))
        return distance.float().cpu()

    def describe(self, index: int, attempt: int) -> Tensor:
        """The vector condition (1 + 4 (K - 1),) of a pair."""
        generator = pair_generator(self.seed, index, "description", attempt)
        bank = torch.tensor(self.stage1.descriptions)
        chosen = torch.randint(len(bank), (1,), generator=generator)
        return flagged(jitter(bank[chosen], generator, self.jitter_scale))[0]

    def pop_counts(self) -> dict[str, Any]:
        """Counts since the last call: "drawn", "rejected" by reason, and accepted after all."""
        counts = {
            "drawn": self.drawn,
            "rejected": dict(self.rejected),
            "accepted_after_max_attempts": self.accepted_after_max_attempts,
        }
        self.drawn, self.rejected, self.accepted_after_max_attempts = 0, Counter(), []
        return counts


def mask_report(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sum of the results of `MaskGenerator.pop_counts`, for the provenance."""
    drawn, rejected, taken = 0, Counter[str](), []
    for one in counts:
        drawn += one["drawn"]
        rejected.update(one["rejected"])
        taken += one["accepted_after_max_attempts"]
    return {
        "drawn": drawn,
        "rejected": dict(sorted(rejected.items())),
        "rejection_rate": sum(rejected.values()) / max(drawn, 1),
        "taken_after_last_attempt": sorted(taken),
    }
