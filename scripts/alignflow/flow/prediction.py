"""The velocity from a network's output, which may be the velocity itself or the clean image."""

from __future__ import annotations

from torch import Tensor

PREDICTIONS = ("velocity", "data")
SHORTEST_TIME = 0.05
"""Lower bound of 1 - t in the velocity of a predicted image: it limits errors to 20 times."""


def velocity_of(output: Tensor, x: Tensor, t: Tensor, prediction: str) -> Tensor:
    """v(x, t) from a network's output (B, C, X, Y) at x (B, C, X, Y) and t (B,).

    "velocity": the output itself. "data": the output is the clean image, x_hat, and

        v = (x_hat - x) / max(1 - t, .05)

    (JiT, Li and He, arXiv 2511.13720, table 1, in our direction of time). Noise fills all
    dimensions of a patch but images only a few, so a narrow network can predict an image even where
    it cannot predict a velocity, which contains the noise.
    """
    if prediction == "velocity":
        return output
    left = (1 - t).clamp(min=SHORTEST_TIME).view(-1, *[1] * (x.dim() - 1))
    return (output.float() - x.float()) / left
