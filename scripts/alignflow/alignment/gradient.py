"""Gradient of a reward of the samples with respect to the velocity network.

The sample is drawn without a gradient, keeping the states x_i only at the active steps. Then, with
stop(v) for a copy of v without a gradient,

    d = 0;  for each active step i, in order:
        v = v_theta(x_i + d)    "full";   v_theta(x_i)    "surrogate"
        d <- d + weight * dt_i * (v - stop(v))
    x_hat = x + d

d is 0 in value, so the reward sees the sample x itself, and its gradient flows through the active
steps. "full" makes all N steps active, with weight 1: this is back-propagation through the solver.
"surrogate" draws K of them, late steps more often, and gives them the weight N / K: memory does not
grow with N (FlowBP-Sparse, arXiv 2606.11075).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from alignflow.errors import InputError
from alignflow.flow.solver import Velocity, euler_step, time_grid

METHODS = ("surrogate", "full")


@dataclass(frozen=True)
class Plan:
    """One draw of a scheme.

    Attributes:
        times: the solver's grid, from 0 to 1.
        active: indices of the steps with a gradient, in the order of time.
        weight: weight of the velocities of the active steps.
        connected: whether the gradient of earlier active steps passes through later ones.
    """

    times: list[float]
    active: list[int]
    weight: float = 1.0
    connected: bool = False


@dataclass
class Visited:
    """States x_i (B, C, X, Y) at the active steps, and the sample that the reward sees."""

    states: list[Tensor]
    sample: Tensor


class GradientScheme:
    """Draws plans.

    Args:
        steps: N, Euler steps from noise to data.
        method: one of `METHODS`, see the module.
        active: K of "surrogate".
        late_bias: "surrogate" draws step i with probability proportional to
            ((i + 1) / N)^late_bias, since late steps decide the appearance.

    Raises:
        InputError: an unknown method, or K outside 1 to N.
    """

    def __init__(
        self, *, steps: int, method: str = "surrogate", active: int = 2, late_bias: float = 1.0
    ) -> None:
        if method not in METHODS:
            raise InputError(f"gradient: method {method!r}; set one of {', '.join(METHODS)}")
        if not 1 <= active <= steps:
            raise InputError(f"gradient: {active} active of {steps} steps; set 1 to {steps}")
        self.times = time_grid(steps)
        self.method = method
        self.active = active
        self.late_bias = late_bias

    def draw(self, generator: torch.Generator) -> Plan:
        """The plan of one update."""
        steps = len(self.times) - 1
        if self.method == "full":
            return Plan(self.times, list(range(steps)), connected=True)
        odds = ((torch.arange(steps) + 1) / steps) ** self.late_bias
        chosen = torch.multinomial(odds, self.active, generator=generator)
        return Plan(self.times, sorted(chosen.tolist()), weight=steps / self.active)


@torch.no_grad()
def roll_out(velocity: Velocity, noise: Tensor, plan: Plan) -> Visited:
    """Euler's sample from noise (B, C, X, Y), with the states at the plan's active steps."""
    states, x = [], noise
    for i, (t, end) in enumerate(pairwise(plan.times)):
        if i in plan.active:
            states.append(x)
        x = euler_step(velocity, x, t, end - t)
    return Visited(states, x)


def connect(
    velocity: Velocity, visited: Visited, plan: Plan
) -> tuple[Tensor, Sequence[tuple[Tensor, Tensor, Tensor]]]:
    """The same sample with a gradient through the active steps.

    Returns:
        x_hat (B, C, X, Y), equal to `visited.sample`; and (x_i, t_i, v_theta(x_i)) of each active
        step, for the anchor.
    """
    d = torch.zeros_like(visited.sample)
    seen = []
    for i, state in zip(plan.active, visited.states, strict=True):
        t = state.new_full((len(state),), plan.times[i])
        v = velocity(state + d if plan.connected else state, t)
        d = d + plan.weight * (plan.times[i + 1] - plan.times[i]) * (v - v.detach())
        seen.append((state, t, v))
    return visited.sample + d, seen
