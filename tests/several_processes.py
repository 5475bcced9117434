"""Run by test_distributed.py, alone and by torchrun: what each process gets, in FOLDER/W_RANK.pt.

The inputs are those of the whole batch, of which each process takes its share.
"""

import os
import sys

import torch
from torch import nn

from alignflow.alignment.masks import dice_loss
from alignflow.alignment.reward import SetReward
from alignflow.alignment.statistics import colour, layout
from alignflow.distillation.loss import feature_loss
from alignflow.distributed import (
    all_gather_objects,
    all_gather_rows,
    all_true,
    from_first,
    local_batch,
    local_rows,
    mean_over_processes,
    own_batches,
    rank,
    start_processes,
    stop_processes,
    world,
)
from alignflow.errors import InputError


def images(n, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return 0.2 * torch.randn(n, 1, 16, 16, generator=generator) + shift


def convolution(outputs):
    torch.manual_seed(0)
    return nn.Conv2d(1, outputs, 3, padding=1).requires_grad_(False)


class Maps:
    """Stands where an encoder does: its feature maps are those of a convolution."""

    network = convolution(4)

    def maps(self, x):
        return [self.network(x), self.network(x).square()]


def refused(function, *arguments):
    try:
        function(*arguments)
    except InputError as error:
        return str(error)
    return ""


def reward_of(x):
    reward = SetReward({"colour": colour, "layout": layout}, queue_size=6)
    reward.fit(images(24, 0), images(6, 1, 0.3))
    reward(local_rows(images(8, 5)))  # fills the queue
    loss, values = reward(x)
    return loss, values, {name: term.queue.content for name, term in reward.terms.items()}


def found():
    x = local_rows(images(8, 3)).requires_grad_()
    loss, values, queues = reward_of(x)
    labels = local_rows((images(8, 4) > 0.1).to(torch.uint8))
    mask = dice_loss(convolution(2), x, labels, 2)
    features = feature_loss(Maps(), x, local_rows(images(8, 6)))
    numbers = list(range(10))
    return {
        "reward": loss.detach(),
        "values": values,
        "queues": queues,
        "reward_gradient": torch.autograd.grad(loss, x)[0],
        "mask": mask.detach(),
        "mask_gradient": torch.autograd.grad(mask, x)[0],
        "features": mean_over_processes(float(features.detach())),
        "features_gradient": torch.autograd.grad(features, x)[0] / world(),
        "gathered": all_gather_rows(x).detach(),
        "ranks": all_gather_objects(rank()),
        "mean_rank": mean_over_processes(float(rank())),
        "everywhere": [all_true(True), all_true(rank() == 0)],
        "from_first": from_first({"a": rank() + 0.1, "b": 2.0}),
        "batches": own_batches(numbers, 3),
        "volumes": own_batches(numbers, 3, [0, 0, 1, 1, 1, 2, 3, 3, 3, 4]),
        "refused": [refused(local_batch, 7), refused(own_batches, numbers, 10)],
        "few_volumes": refused(own_batches, numbers, 3, [0] * 10),
        "local_batch": local_batch(8),
    }


if __name__ == "__main__":
    if "WORLD_SIZE" in os.environ:
        start_processes("cpu")
    torch.save(found(), os.path.join(sys.argv[1], f"{world()}_{rank()}.pt"))
    if world() > 1:
        stop_processes()
