"""Fixed-step solvers of dx/dt = v(x, t) from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(x, t) with x (B, C, X, Y) and t (B,) gives (B, C, X, Y)."""


def time_grid(steps: int) -> list[float]:
    """`steps` + 1 evenly spaced times from 0 to 1."""
    if steps < 1:
        raise ValueError(f"need steps >= 1, got {steps}")
    return [i / steps for i in range(steps + 1)]


def euler_step(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """First order: one evaluation, at the start."""
    return x + dt * velocity(x, _times(x, t))


def midpoint_step(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Second order: the whole step uses the velocity half a step ahead."""
    middle = x + dt / 2 * velocity(x, _times(x, t))
    return x + dt * velocity(middle, _times(x, t + dt / 2))


def heun_step(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Second order: the mean of the velocities at the start and at Euler's end point."""
    start = velocity(x, _times(x, t))
    end = velocity(x + dt * start, _times(x, t + dt))
    return x + dt / 2 * (start + end)


STEPS = {"euler": euler_step, "midpoint": midpoint_step, "heun": heun_step}


def integrate(
    velocity: Velocity, x: Tensor, *, steps: int, method: str = "heun", final_euler: bool = False
) -> Tensor:
    """The data at t = 1 that noise `x` (B, C, X, Y) flows to; differentiable. See `trajectory`."""
    return trajectory(velocity, x, steps=steps, method=method, final_euler=final_euler)[-1]


def trajectory(
    velocity: Velocity, x: Tensor, *, steps: int, method: str = "heun", final_euler: bool = False
) -> list[Tensor]:
    """All `steps` + 1 states from `x` to the data.

    With `final_euler` the last step is Euler's (Karras et al., arXiv 2206.00364, alg. 1): Heun's
    would evaluate the velocity at t = 1, which training with logit-normal times never sees; this
    leaves grain in the image. A single Euler step does not lower the solver's order.

    Raises:
        ValueError: on a method other than euler, midpoint, heun.
    """
    if method not in STEPS:
        raise ValueError(f"solver {method!r} unknown; choose one of {', '.join(STEPS)}")
    states = [x]
    for t, end in pairwise(time_grid(steps)):
        step = euler_step if final_euler and end == 1 else STEPS[method]
        states.append(step(velocity, states[-1], t, end - t))
    return states


def _times(x: Tensor, t: float) -> Tensor:
    return x.new_full((x.shape[0],), t)
