"""The loss of conditional flow matching."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import mse_loss

from alignflow.flow.guidance import Condition
from alignflow.flow.path import linear_path

Loss = Callable[[Tensor, Tensor], Tensor]


def flow_matching_loss(
    network: Callable[..., Tensor],
    noise: Tensor,
    data: Tensor,
    t: Tensor,
    condition: Condition,
    loss: Loss = mse_loss,
) -> Tensor:
    """Loss between v(x_t, t | c) and x_1 - x_0 (Lipman et al., arXiv 2210.02747, eq. 23).

    Args:
        network: called as network(x_t, t, **condition).
        noise: x_0, (B, C, X, Y).
        data: x_1, same shape.
        t: times in [0, 1], (B,).
        condition: keyword arguments of the network.
        loss: compares the predicted velocity, in float32, with that of the path; mean squared
            error by default.
    """
    path = linear_path(noise, data, t)
    return loss(network(path.x_t, t, **condition).float(), path.velocity)
