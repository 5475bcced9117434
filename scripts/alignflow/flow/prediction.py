"""What a network's output stands for, and the velocity that follows from it."""

from __future__ import annotations

from torch import Tensor

PREDICTIONS = ("velocity", "data")
SHORTEST_TIME = 0.05
"""Least 1 - t in the velocity of a predicted image: errors are enlarged 20 times at most."""


def velocity_of(output: Tensor, x: Tensor, t: Tensor, prediction: str) -> Tensor:
    """v(x, t) from a network's output (B, C, X, Y) at x (B, C, X, Y) and t (B,).

    "velocity": the output itself. "data": the output is the clean image, x_hat, and

        v = (x_hat - x) / max(1 - t, .05)

    (JiT, Li and He, arXiv 2511.13720, table 1, in our direction of time). Noise fills all
    dimensions of a patch and images only few, so a narrow network can predict an image where it
    cannot predict a velocity, which holds the noise.
    """
    if prediction == "velocity":
        return output
    left = (1 - t).clamp(min=SHORTEST_TIME).view(-1, *[1] * (x.dim() - 1))
    return (output.float() - x.float()) / left
