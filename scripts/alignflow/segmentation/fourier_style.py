"""Fourier domain adaptation (FDA): replaces low-frequency amplitudes by a target image's."""

from __future__ import annotations

import torch
from torch import Tensor

from alignflow.errors import InputError


def fourier_style(image: Tensor, reference: Tensor, beta: float) -> Tensor:
    """`image` with the low-frequency amplitude of `reference`, clipped to [-1, 1].

    Source: Yang and Soatto, arXiv 2004.05498, eq. 2 and 3; clipped because the intensity window
    is fixed.

    Args:
        image, reference: (C, X, Y) in [-1, 1], of equal shape.
        beta: half the side of the replaced square of frequencies, as a share of the spectrum, in
            [0, 0.5]. With 0 the image is unchanged; other values replace at least the mean.
    """
    return swap_low_amplitude(image, reference, beta).clip(-1, 1)


def swap_low_amplitude(image: Tensor, reference: Tensor, beta: float) -> Tensor:
    """`fourier_style` before clipping.

    Raises:
        InputError: beta out of range, or different shapes.
    """
    if not 0 <= beta <= 0.5:
        raise InputError(f"beta: {beta}; set it from 0 to 0.5")
    if image.shape != reference.shape:
        raise InputError(
            f"reference: {tuple(reference.shape)}, but the image is {tuple(image.shape)}; "
            "read both at the same size and with the same channels"
        )
    # In [0, 1] as in the paper, where the amplitude of the mean is the brightness. In [-1, 1] the
    # mean of a dark image is negative, and its phase would be kept.
    source = torch.fft.fft2((image.float() + 1) / 2)
    target = torch.fft.fft2((reference.float() + 1) / 2)
    low = low_frequencies(image.shape[-2], image.shape[-1], beta).to(image.device)
    amplitude = torch.where(low, target.abs(), source.abs())
    return 2 * torch.fft.ifft2(torch.polar(amplitude, source.angle())).real - 1


def low_frequencies(x: int, y: int, beta: float) -> Tensor:
    """Mask (X, Y) of the spectrum: |k_x| <= beta X and |k_y| <= beta Y; none where beta is 0."""
    if beta == 0:
        return torch.zeros(x, y, dtype=torch.bool)
    inside_x, inside_y = (torch.fft.fftfreq(n).abs() <= beta for n in (x, y))
    return inside_x[:, None] & inside_y[None, :]
