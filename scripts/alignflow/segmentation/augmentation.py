"""Random augmentation of batches of images and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alignflow.data.mirroring import mirror_at_random


class BatchAugmentation:
    """Flips, colour changes and affine maps, drawn independently for each image.

    The operations are those of MONAI's RandFlip, RandAdjustContrast, RandScaleIntensity and
    RandShiftIntensity (both `channel_wise`), RandAffine, RandGaussianSmooth and RandGaussianNoise.
    MONAI processes item by item, which took longer than the training step; here a batch is
    processed at once, on its own device.

    Each colour change, and the affine map, is applied with probability `prob`. All random numbers
    come from one generator on the CPU, so that they are the same on every device.

    Args:
        flip: probability of a flip along X, and of a flip along Y.
        prob: probability of each other change.
        gamma: range of the exponent for gamma correction within the image's intensity range.
        scale: largest relative change of a channel.
        shift: largest offset of a channel (images are in [-1, 1]).
        rotate: largest angle, radians.
        zoom: largest relative change of size.
        noise: largest standard deviation of Gaussian noise.
        blur: largest standard deviation of a Gaussian blur, pixels.
        crop: [X, Y] of a random crop, taken first; None for the whole image.
    """

    def __init__(
        self,
        *,
        flip: float = 0.5,
        prob: float = 0.5,
        gamma: Sequence[float] = (1.0, 1.0),
        scale: float = 0.0,
        shift: float = 0.0,
        rotate: float = 0.0,
        zoom: float = 0.0,
        noise: float = 0.0,
        blur: float = 0.0,
        crop: Sequence[int] | None = None,
    ) -> None:
        self.flip = flip
        self.prob = prob
        self.gamma = gamma
        self.scale = scale
        self.shift = shift
        self.rotate = rotate
        self.zoom = zoom
        self.noise = noise
        self.blur = blur
        self.crop = crop
        self.generator = torch.Generator()

    @property
    def settings(self) -> dict[str, Any]:
        """All arguments, to compare runs."""
        return {name: value for name, value in vars(self).items() if name != "generator"}

    def set_random_state(self, seed: int) -> None:
        """Seed the generator."""
        self.generator.manual_seed(seed)

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented image (B, C, X, Y) in [-1, 1] and label (B, 1, X, Y), types unchanged."""
        if self.crop is not None:
            image, label = self._cropped(image, label, self.crop)
        image, label = mirror_at_random([image, label], (2, 3), self.generator, self.flip)
        if self.rotate or self.zoom:
            image, label = self._affine(image, label)
        image = self._coloured(image)
        if self.blur:
            image = self._blurred(image)
        if self.noise:
            draws = torch.randn(image.shape, generator=self.generator).to(image.device)
            image = image + self._amount(image, 0.0, self.noise) * draws
        return image, label

    def _uniform(self, like: Tensor, low: float, high: float, channels: int = 1) -> Tensor:
        draws = torch.rand(len(like), channels, 1, 1, generator=self.generator)
        return (low + (high - low) * draws).to(like.device)

    def _chosen(self, like: Tensor, probability: float) -> Tensor:
        return self._uniform(like, 0.0, 1.0) < probability

    def _amount(self, like: Tensor, low: float, high: float, channels: int = 1) -> Tensor:
        """Uniform random numbers for the images to change, 0 for the others."""
        return self._chosen(like, self.prob) * self._uniform(like, low, high, channels)

    def _cropped(self, image: Tensor, label: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        room = torch.tensor([image.shape[2] - size[0] + 1, image.shape[3] - size[1] + 1])
        draws = torch.rand(len(image), 2, generator=self.generator)
        corners = (draws * room).long().tolist()
        parts = [
            (one[:, x : x + size[0], y : y + size[1]], two[:, x : x + size[0], y : y + size[1]])
            for one, two, (x, y) in zip(image, label, corners, strict=True)
        ]
        images, labels = zip(*parts, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _coloured(self, image: Tensor) -> Tensor:
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        span = (high - low).clamp_min(1e-7)
        log_gamma = self._amount(image, math.log(self.gamma[0]), math.log(self.gamma[1]))
        image = ((image - low) / span).pow(log_gamma.exp()) * span + low
        channels = image.shape[1]
        image = image * (1 + self._amount(image, -self.scale, self.scale, channels))
        return image + self._amount(image, -self.shift, self.shift, channels)

    def _affine(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        angle = self._amount(image, -self.rotate, self.rotate)[:, 0, 0, 0]
        size = 1 + self._amount(image, -self.zoom, self.zoom)[:, 0, 0, 0]
        cosine, sine, none = angle.cos() / size, angle.sin() / size, torch.zeros_like(angle)
        # grid_sample's coordinates run from -1 to 1 along both axes; correct for unequal sides.
        aspect = image.shape[3] / image.shape[2]
        rows = [cosine, -sine / aspect, none, sine * aspect, cosine, none]
        theta = torch.stack(rows, dim=1).view(-1, 2, 3)
        grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
        # Outside the image the border is repeated, also for the mask.
        turned = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
        mask = functional.grid_sample(
            label.to(image.dtype), grid, "nearest", padding_mode="border", align_corners=False
        )
        return turned, mask.to(label.dtype)

    def _blurred(self, image: Tensor) -> Tensor:
        """Gaussian blur with a different sigma for each image; 0 changes nothing."""
        sigma = self._amount(image, 0.0, self.blur)[:, :, 0].clamp_min(1e-3)
        reach = math.ceil(3 * self.blur)
        offsets = torch.arange(-reach, reach + 1, device=image.device)
        kernel = (-0.5 * (offsets / sigma) ** 2).exp()
        kernel = (
            (kernel / kernel.sum(-1, keepdim=True)).expand(-1, image.shape[1], -1).flatten(0, 1)
        )
        flat = image.flatten(0, 1)[None]
        for size, pad in (((-1, 1), (0, 0, reach, reach)), ((1, -1), (reach, reach, 0, 0))):
            padded = functional.pad(flat, pad, mode="replicate")
            weight = kernel.view(len(kernel), 1, *size)
            flat = functional.conv2d(padded, weight, groups=len(kernel))
        return flat[0].view_as(image)
