"""Predictions and targets of a few-step student, for training and for validation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from alignflow.distributed import local_rows, world
from alignflow.flow.guidance import Condition, guided_velocity
from alignflow.flow.path import linear_path
from alignflow.flow.sampler import FlowSampler

Pair = tuple[Tensor, Tensor, Tensor | float]
"""Prediction and target (B, C, X, Y) in float32, and the scale of errors, see `StudentLoss`."""


def unrolled(
    network: nn.Module, noise: Tensor, data: Tensor, condition: Condition, steps: int
) -> Pair:
    """For validation: the student's samples of the coupling's noise, and the coupling's data."""
    prediction = FlowSampler(network, steps=steps, method="euler")(noise, **condition)
    return prediction.float(), data, 1.0


class Progressive(nn.Module):
    """For training: a student's step against several steps of the teacher or previous student.

    The state is x_t = (1 - t) x_0 + t x_1, with t on the student's grid, new noise x_0 each time
    and data x_1 of the coupling. The student's step should end where the shorter steps end
    (Salimans and Ho, arXiv 2202.00512, alg. 2, for the linear path). Pixel errors are scaled to
    errors of the velocity. This is a module, so that checkpoints contain the previous student.

    Args:
        teacher: velocity network.
        steps: Euler steps of the teacher, from noise to data.
        guidance: of the teacher.
        seed: random seed of noise and times.
    """

    def __init__(
        self, teacher: nn.Module, steps: int = 16, guidance: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.before = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.before_steps = steps
        self.guidance = guidance
        self.student_steps: int | None = None
        self.generator = torch.Generator().manual_seed(seed)

    def begin(self, steps: int, student: nn.Module) -> None:
        """Start a phase: the student of the previous phase becomes the teacher."""
        if self.student_steps is not None:
            self.before.load_state_dict(student.state_dict())
            self.before_steps, self.guidance = self.student_steps, 1.0
        self.student_steps = steps

    def forward(
        self, network: nn.Module, noise: Tensor, data: Tensor, condition: Condition, steps: int
    ) -> Pair:
        """The data predicted from a state by the student, and by the shorter steps."""
        count, draws = world() * len(data), self.generator
        noise = local_rows(torch.randn((count, *data.shape[1:]), generator=draws)).to(data)
        t = local_rows(torch.randint(steps, (count,), generator=draws) / steps).to(data)
        x = linear_path(noise, data, t).x_t
        rest = (1 - t).view(-1, 1, 1, 1)
        target = x + rest * self.velocity(x, t, condition, steps)
        prediction = x + rest * network(x, t, **condition).float()
        return prediction, target, 1 / rest

    @torch.no_grad()
    def velocity(self, x: Tensor, t: Tensor, condition: Condition, steps: int) -> Tensor:
        """Mean velocity of the shorter steps over one step of the student from (x, t)."""
        velocity = guided_velocity(self.before, condition, self.guidance)
        count = max(self.before_steps // steps, 1)
        length, end = 1 / (count * steps), x
        for i in range(count):
            end = end + length * velocity(end, t + i * length).float()
        return (end - x) * steps

    def get_extra_state(self) -> dict[str, Any]:
        """State for a checkpoint, besides the weights."""
        return {
            "before_steps": self.before_steps,
            "guidance": self.guidance,
            "student_steps": self.student_steps,
            "generator": self.generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.before_steps = state["before_steps"]
        self.guidance = state["guidance"]
        self.student_steps = state["student_steps"]
        self.generator.set_state(state["generator"].cpu())
