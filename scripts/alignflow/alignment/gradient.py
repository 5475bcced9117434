"""Gradient of a reward of the samples with respect to the velocity network.

One scheme with the axes of FlowBP (arXiv 2606.11075): which solver steps carry a gradient, what
the reward sees, how steps are weighted, and how they are bridged. The roll-out runs without a
gradient and keeps the states x_i at active steps alone. Then

    d = 0;  for each active step i, in order:
        v = v_theta(x_i + bridge * d)
        d <- d + weight_i * length_i * (v - stop(v))
    x_hat = x + d

d is 0 in value, so the reward sees the sample x itself, and its gradient flows through the active
steps. Settings:

    method     active steps      length     weight  bridge  reward sees
    surrogate  K, late-biased    dt_i       N / K   0       end point           FlowBP-Sparse
    full       all               dt_i       1       1       end point           back-propagation
    last       the last K        dt_i       1       1       end point           DRaFT-K, 2309.17400
    posterior  one, random       1 - t_i    1       0       x_i + (1 - t_i) v   ReFL, 2304.05977
    two_leap   two, random       to the     1       alpha   end point           LeapAlign 2604.15311
                                 next leap
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from alignflow.errors import InputError
from alignflow.flow.solver import Velocity, euler_step, time_grid

METHODS = ("surrogate", "full", "last", "posterior", "two_leap")


@dataclass(frozen=True)
class Active:
    """A solver step that carries a gradient: its index, the length and weight of its velocity."""

    index: int
    length: float
    weight: float = 1.0


@dataclass(frozen=True)
class Plan:
    """One draw of a scheme.

    Attributes:
        times: the solver's grid, from 0 to 1.
        active: in the order of time.
        bridge: how much of the gradient of earlier active steps passes through later ones.
        posterior: the reward sees the one-step data prediction of the last active step.
    """

    times: list[float]
    active: list[Active]
    bridge: float = 0.0
    posterior: bool = False


@dataclass
class Visited:
    """States x_i (B, C, X, Y) at the active steps, and the sample that the reward sees."""

    states: list[Tensor]
    sample: Tensor


class GradientScheme:
    """Draws plans.

    Args:
        steps: N, Euler steps of the roll-out.
        method: one of `METHODS`, see the module.
        active: K of surrogate and last.
        late_bias: step i of surrogate is drawn with probability proportional to
            ((i + 1) / N)^late_bias: late steps paint appearance.
        bridge: alpha of two_leap.

    Raises:
        InputError: an unknown method, or K outside 1 to N.
    """

    def __init__(
        self,
        *,
        steps: int,
        method: str = "surrogate",
        active: int = 2,
        late_bias: float = 1.0,
        bridge: float = 0.3,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"gradient: method {method!r}; set one of {', '.join(METHODS)}")
        if not 1 <= active <= steps or (method == "two_leap" and steps < 2):
            raise InputError(f"gradient: {active} active of {steps} steps; set 1 to {steps}")
        self.times = time_grid(steps)
        self.method = method
        self.active = active
        self.late_bias = late_bias
        self.bridge = bridge

    def draw(self, generator: torch.Generator) -> Plan:
        """The plan of one update."""
        times, steps = self.times, len(self.times) - 1
        dt = [end - start for start, end in pairwise(times)]
        if self.method == "full":
            return Plan(times, [Active(i, dt[i]) for i in range(steps)], bridge=1.0)
        if self.method == "last":
            late = range(steps - self.active, steps)
            return Plan(times, [Active(i, dt[i]) for i in late], bridge=1.0)
        if self.method == "posterior":
            (i,) = self._choose(1, generator)
            return Plan(times, [Active(i, 1 - times[i])], posterior=True)
        if self.method == "two_leap":
            i, j = self._choose(2, generator)
            leaps = [Active(i, times[j] - times[i]), Active(j, 1 - times[j])]
            return Plan(times, leaps, bridge=self.bridge)
        chosen = self._choose(self.active, generator)
        return Plan(times, [Active(i, dt[i], steps / self.active) for i in chosen])

    def _choose(self, count: int, generator: torch.Generator) -> list[int]:
        steps = len(self.times) - 1
        odds = ((torch.arange(steps) + 1) / steps) ** self.late_bias
        return sorted(torch.multinomial(odds, count, generator=generator).tolist())


@torch.no_grad()
def roll_out(velocity: Velocity, noise: Tensor, plan: Plan) -> Visited:
    """Euler's sample from noise (B, C, X, Y), with the states at the plan's active steps."""
    wanted = {active.index for active in plan.active}
    states, x = [], noise
    for i, (t, end) in enumerate(pairwise(plan.times)):
        if i in wanted:
            states.append(x)
            if plan.posterior:
                return Visited(states, euler_step(velocity, x, t, 1 - t))
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
    for active, state in zip(plan.active, visited.states, strict=True):
        t = state.new_full((len(state),), plan.times[active.index])
        v = velocity(state + plan.bridge * d if plan.bridge else state, t)
        d = d + active.weight * active.length * (v - v.detach())
        seen.append((state, t, v))
    return visited.sample + d, seen
