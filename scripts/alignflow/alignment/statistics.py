"""Differentiable low-order statistics of images, used as feature spaces."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad


def colour(images: Tensor, levels: int = 16, floor: float = -0.95) -> Tensor:
    """Distribution of intensities, regardless of place: (B, C * levels + C * (C - 1) / 2).

    The mean values between `levels` + 1 quantiles of each channel (similar to histogram matching),
    and the correlation of each pair of channels. Background, that is pixels at the lower end of the
    window in all channels, is excluded: the amount of air or black frame is not a property of
    colour, and matching it would darken the rest.

    Args:
        images: (B, C, X, Y) in [-1, 1].
        levels: number of quantile blocks, evenly spread.
        floor: pixels with all channels at or below it are background.
    """
    flat = images.flatten(2)
    seen = (flat > floor).any(dim=1, keepdim=True)
    return torch.cat([_block_means(flat, seen, levels), _correlations(flat, seen)], dim=1)


def texture(images: Tensor, bins: int = 8) -> Tensor:
    """Sharpness, grain and contrast of detail: (B, C * (bins + 3)).

    Log power in `bins` rings of the spectrum, and log of the mean, root mean square and
    fourth-power mean of the gradient's magnitude.

    Args:
        images: (B, C, X, Y) in [-1, 1].
        bins: number of rings up to the Nyquist frequency.
    """
    power = torch.fft.rfft2(images - images.mean(dim=(2, 3), keepdim=True), norm="ortho")
    energy = power.real.square() + power.imag.square()
    rings = _rings(images.shape[2], images.shape[3], bins, images.device)
    spectrum = (torch.einsum("bcxy,kxy->bck", energy, rings) + 1e-4).log()
    magnitude = _gradient(images).flatten(2)
    moments = [(magnitude.pow(p).mean(dim=2) + 1e-6).log() / p for p in (1, 2, 4)]
    return torch.cat([spectrum.flatten(1), torch.stack(moments, dim=2).flatten(1)], dim=1)


def layout(images: Tensor, grid: int = 4) -> Tensor:
    """Coarse layout: means of grid x grid blocks of (B, C, X, Y), (B, C * grid^2)."""
    return adaptive_avg_pool2d(images, grid).flatten(1)


def _block_means(flat: Tensor, seen: Tensor, levels: int) -> Tensor:
    """Mean seen value between quantiles: (B, C * levels) from (B, C, N), (B, 1, N)."""
    ordered = flat.masked_fill(~seen, -torch.inf).sort(dim=2).values  # seen pixels come last
    sums = pad(ordered.masked_fill(ordered.isinf(), 0).cumsum(dim=2), (1, 0))
    pixels, count = flat.shape[2], seen.sum(dim=2).clamp(min=levels)  # (B, 1)
    share = torch.arange(levels + 1, device=flat.device) / levels
    edges = (pixels - count + (count * share).round()).long()[:, None].expand(-1, flat.shape[1], -1)
    at_edges = sums.gather(2, edges)
    return (at_edges.diff(dim=2) / edges.diff(dim=2)).flatten(1)


def _correlations(flat: Tensor, seen: Tensor) -> Tensor:
    """Correlation over the seen pixels of each pair of channels: (B, C * (C - 1) / 2)."""
    count = seen.sum(dim=2, keepdim=True).clamp(min=1)
    centred = (flat - (flat * seen).sum(dim=2, keepdim=True) / count) * seen
    scaled = centred / (centred.square().sum(dim=2, keepdim=True) + 1e-4).sqrt()
    rows, columns = torch.triu_indices(flat.shape[1], flat.shape[1], offset=1)
    return torch.einsum("bcn,bdn->bcd", scaled, scaled)[:, rows, columns]


def _rings(height: int, width: int, bins: int, device: torch.device) -> Tensor:
    """(bins, X, Y // 2 + 1): ring k averages frequencies of k/bins to (k+1)/bins of Nyquist's."""
    x = torch.fft.fftfreq(height, device=device).abs()[:, None]
    y = torch.fft.rfftfreq(width, device=device)[None]
    ring = ((x.square() + y.square()).sqrt() * 2 * bins).long()
    members = torch.stack([ring == k for k in range(bins)]).float()
    members[0, 0, 0] = 0  # the mean belongs to `colour`
    return members / members.sum(dim=(1, 2), keepdim=True).clamp(min=1)


def _gradient(images: Tensor) -> Tensor:
    """Magnitude of forward differences, 0 across the last row and column: (B, C, X, Y)."""
    along_x = pad(images.diff(dim=2), (0, 0, 0, 1))
    along_y = pad(images.diff(dim=3), (0, 1, 0, 0))
    return (along_x.square() + along_y.square() + 1e-8).sqrt()
