"""Fixed-step solvers of dx/dt = v(x, t) from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(x, t) with x (B, C, X, Y) and t (B,) gives (B, C, X, Y)."""


def time_grid(steps: int, start: float = 0.0) -> list[float]:
    """`steps` + 1 evenly spaced times from `start` to 1, both ends exact."""
    if steps < 1 or not 0 <= start < 1:
        raise ValueError(f"need steps >= 1 and start in [0, 1), got {steps} and {start}")
    return [*(start + (1 - start) * i / steps for i in range(steps)), 1.0]


def euler_step(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """First order: one evaluation, at the start."""
    return x + dt * velocity(x, _times(x, t))


def midpoint_step(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Second order: the velocity half a step ahead carries the whole step."""
    middle = x + dt / 2 * velocity(x, _times(x, t))
    return x + dt * velocity(middle, _times(x, t + dt / 2))


def heun_step(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Second order: the mean of the velocities at the start and at Euler's end point."""
    start = velocity(x, _times(x, t))
    end = velocity(x + dt * start, _times(x, t + dt))
    return x + dt / 2 * (start + end)


STEPS = {"euler": euler_step, "midpoint": midpoint_step, "heun": heun_step}


def integrate(
    velocity: Velocity,
    x: Tensor,
    *,
    steps: int,
    method: str = "heun",
    start: float = 0.0,
    final_euler: bool = False,
) -> Tensor:
    """Carry the state `x` (B, C, X, Y) at `start`, noise at 0, to data; differentiable."""
    options: dict[str, Any] = {
        "steps": steps,
        "method": method,
        "start": start,
        "final_euler": final_euler,
    }
    return trajectory(velocity, x, **options)[-1]


def trajectory(
    velocity: Velocity,
    x: Tensor,
    *,
    steps: int,
    method: str = "heun",
    start: float = 0.0,
    final_euler: bool = False,
) -> list[Tensor]:
    """All `steps` + 1 states on the way, `x` first, data last.

    With `final_euler` the last step is Euler's (Karras et al., arXiv 2206.00364, alg. 1): Heun's
    would ask for the velocity at t = 1, which training with logit-normal times never sees, and
    which leaves a grain. One Euler step among many does not lower the order of the whole.

    Raises:
        ValueError: on a method other than euler, midpoint, heun.
    """
    if method not in STEPS:
        raise ValueError(f"solver {method!r} unknown; choose one of {', '.join(STEPS)}")
    states = [x]
    for t, end in pairwise(time_grid(steps, start)):
        step = euler_step if final_euler and end == 1 else STEPS[method]
        states.append(step(velocity, states[-1], t, end - t))
    return states


def _times(x: Tensor, t: float) -> Tensor:
    return x.new_full((x.shape[0],), t)
