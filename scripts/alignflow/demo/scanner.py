"""A simulated second scanner: the same anatomy with another contrast, bias field and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import leggrid2d


@dataclass(frozen=True)
class Scanner:
    """How the simulated scanner renders 8-bit intensities; no scanner was measured for it.

    With u = x / 255, and Legendre polynomials P of voxel coordinates in [-1, 1] across a slice:

        signal = 255 * gain * u**gamma * exp(sum_ij bias[i][j] P_i(x) P_j(y)) + offset
        image  = sqrt((signal + e_1)^2 + e_2^2),  e_1, e_2 ~ N(0, noise^2)   (Rician)

    rounded and clipped to 0..255.

    Attributes:
        gamma: of the contrast curve.
        gain: factor of the signal.
        offset: added to it, intensity units of 0..255.
        bias: coefficients [i][j] of the log of the bias field, i along x and j along y.
        noise: standard deviation of each noise channel, intensity units.
        seed: of the noise.
    """

    gamma: float = 2.0
    gain: float = 0.8
    offset: float = 15.0
    bias: tuple[tuple[float, ...], ...] = ((0.0, -0.3, -0.15), (0.2, 0.1, 0.0), (-0.1, 0.0, 0.0))
    noise: float = 7.0
    seed: int = 0

    def bias_field(self, shape: tuple[int, int]) -> np.ndarray:
        """Smooth positive factor of each pixel, float64 (X, Y)."""
        x, y = (np.linspace(-1, 1, size) for size in shape)
        return np.exp(leggrid2d(x, y, np.array(self.bias)))

    def render(self, image: np.ndarray, number: int) -> np.ndarray:
        """The image as this scanner would show it.

        Args:
            image: (X, Y) uint8.
            number: of the image; each number has its own noise.

        Returns:
            uint8 (X, Y).
        """
        contrast = 255 * (image / 255) ** self.gamma
        signal = self.gain * contrast * self.bias_field(image.shape) + self.offset
        draws = np.random.default_rng([self.seed, number]).normal(0, self.noise, (2, *image.shape))
        measured = np.hypot(signal + draws[0], draws[1])
        return np.rint(measured).clip(0, 255).astype(np.uint8)
