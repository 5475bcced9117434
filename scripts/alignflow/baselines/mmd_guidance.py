"""Training-free MMD guidance: sampling is pulled towards the references, the weights stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from alignflow.flow.guidance import guided_velocity
from alignflow.flow.sampler import ImageSampler
from alignflow.flow.solver import Velocity, integrate

Features = Callable[[Tensor], Tensor]
"""features(images (B, C, X, Y)) gives (B, D), differentiable."""


class MMDGuidedSampler(ImageSampler):
    """The image flow, whose velocity descends the MMD between the batch and the references.

    v' = v + weight * pull(x_t + (1 - t) v): the prediction of the data at time t is what is
    compared. The images of a batch depend on each other. Source: Sani et al., arXiv 2601.08379,
    where the current state of a diffusion is compared; the gradient does not pass the network
    there either.

    Args:
        network, steps, method, guidance, shift, start: of `ImageSampler`.
        references: images (N, C, X, Y) in [-1, 1].
        weight: 0 for none; see `pull` for its unit.
        features: what is compared; None for `coarse_pixels`.
        bandwidths: of the RBF kernels, in median distances.
    """

    references: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        references: Tensor,
        steps: int,
        method: str = "heun",
        guidance: float = 1.0,
        shift: float = 1.0,
        start: float = 0.0,
        weight: float = 1.0,
        features: Features | None = None,
        bandwidths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    ) -> None:
        super().__init__(
            network, steps=steps, method=method, guidance=guidance, shift=shift, start=start
        )
        # not in the state dict: the weights are those of stage 1
        plain = convert_to_tensor(references, track_meta=False).float()
        self.register_buffer("references", plain, persistent=False)
        self.weight = weight
        self.features = features or coarse_pixels
        self.bandwidths = tuple(bandwidths)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Images (B, C, X, Y) from cat(noise, condition maps), as `ImageSampler`."""
        channels = self.network.data_channels
        condition = {"condition": x[:, channels:]}
        plain = guided_velocity(self.network, condition, self.guidance)
        velocity = pulled_velocity(plain, self.pull, self.weight)
        return integrate(
            velocity,
            x[:, :channels],
            steps=self.steps,
            method=self.method,
            shift=self.shift,
            start=self.start,
            final_euler=self.final_euler,
        )

    def pull(self, prediction: Tensor) -> Tensor:
        """`pull` towards this sampler's references."""
        return pull(prediction, self.references, self.features, self.bandwidths)


def pulled_velocity(
    velocity: Velocity, pull_of: Callable[[Tensor], Tensor], weight: float
) -> Velocity:
    """v(x, t) + weight * pull_of(x + (1 - t) v(x, t))."""

    def guided(x: Tensor, t: Tensor) -> Tensor:
        v = velocity(x, t)
        remaining = (1 - t).view(-1, *[1] * (x.dim() - 1))
        return v + weight * pull_of(x + remaining * v)

    return guided


def pull(
    samples: Tensor,
    references: Tensor,
    features: Features,
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
) -> Tensor:
    """Descent direction of the squared MMD, for each sample (B, C, X, Y).

    -B s^2 / 2 times the gradient, s being the median distance: for kernels much wider than the
    data this is the mean of the references minus that of the samples (as `features` see them),
    whatever B is.
    """
    with torch.no_grad():
        targets = features(references)
    with torch.enable_grad():
        x = samples.detach().float().requires_grad_()
        found = features(x)
        scale = median_distance(torch.cat([found.detach(), targets]))
        distance = mmd2_biased(found / scale, targets / scale, bandwidths)
        (gradient,) = torch.autograd.grad(distance, x)
    return -len(x) * scale**2 / 2 * gradient


def mmd2_biased(x: Tensor, y: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Squared MMD (V-statistic, for any number of rows) of x (B, D) and y (N, D).

    The kernel is the mean of h^2 exp(-|x - y|^2 / (2 h^2)) over the bandwidths h: so weighted,
    a wide kernel pulls with the strength of its mean difference and not less.
    """
    kernel = partial(_kernel, bandwidths=bandwidths)
    return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor, bandwidths: Sequence[float]) -> Tensor:
    squared = squared_distances(x, y)
    return torch.stack([h**2 * torch.exp(-squared / (2 * h**2)) for h in bandwidths]).mean(0)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 as (B, N); unlike `cdist`, differentiable where two rows are equal."""
    products = x @ y.T
    return ((x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * products).clamp(min=0)


def median_distance(rows: Tensor) -> Tensor:
    """Median of the distances between different rows (M, D); 1 where all are equal."""
    squared = squared_distances(rows, rows)
    above = torch.triu(torch.ones_like(squared, dtype=torch.bool), diagonal=1)
    median = squared[above].median().sqrt()
    return torch.where(median > 0, median, torch.ones_like(median))


def coarse_pixels(images: Tensor, size: int = 16) -> Tensor:
    """Images (B, C, X, Y) averaged to at most `size` x `size` cells, as (B, D).

    Scaled so that the distance of two coarse images is that of their pixels; the gradient of a
    distance then has the size of the pixels' difference.
    """
    x, y = (min(side, size) for side in images.shape[-2:])
    pixels = images.shape[-2] * images.shape[-1] / (x * y)
    return adaptive_avg_pool2d(images, (x, y)).flatten(1) * pixels**0.5
