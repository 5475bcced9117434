"""The teacher's images as a set, which the student's are to resemble."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from alignflow.alignment.reward import SetReward
from alignflow.distillation.coupling import ImageCoupling
from alignflow.flow.sampler import FlowSampler


@torch.no_grad()
def fit_to_teacher(
    reward: SetReward,
    teacher: nn.Module,
    coupling: ImageCoupling,
    device: str,
    held_out: int,
    samples: int = 256,
    batch_size: int = 16,
) -> SetReward:
    """The distance to the teacher's images, in units of what one Euler step of it makes.

    Args:
        reward: not yet fitted.
        teacher: velocity network.
        coupling: whose images are the references.
        device: of the networks.
        held_out: first pairs of the coupling, which are left out.
        samples: pairs from which Euler's step starts.
        batch_size: of that step.
    """
    chosen = Subset(coupling, range(held_out, min(held_out + samples, len(coupling))))
    step = FlowSampler(teacher, steps=1, method="euler")
    made = [
        step(batch["noise"].to(device), condition=batch["condition"].to(device))
        for batch in DataLoader(chosen, batch_size=batch_size)
    ]
    reward.fit(torch.cat(made), coupling.images[held_out:].to(device))
    return reward
