"""Test images carried to the source by its own flow (SDEdit, arXiv 2108.01073; 2508.06327)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from alignflow.device import default_device
from alignflow.flow.path import linear_path
from alignflow.flow.solver import euler_step
from alignflow.inference.weights import load_sampler
from alignflow.networks.velocity import VelocityUNet
from alignflow.segmentation.data import read_test
from alignflow.segmentation.scoring import score_site
from alignflow.stage1 import WEIGHTS, Stage1

Network = Callable[..., Tensor]
"""network(x, t, condition=maps), the velocity."""


def score_carried(
    output_dir: Path, model_dir: str, segmenter_dir: str, test_dir: str, start: float, steps: int
) -> None:
    """Write the scores of a segmenter on carried images, as `run test` does on the images.

    Args:
        output_dir: receives `scores.json`.
        model_dir: bundle of the source.
        segmenter_dir: what `run segment` wrote.
        test_dir: labelled images of the target.
        start: time at which the noisy images join the path, in [0, 1]; 0 keeps nothing of them.
        steps: of Euler's method from there.
    """
    stage1, device = Stage1.load(model_dir), default_device()
    site = read_test(test_dir, stage1, stage1.image_size)
    assert site is not None
    network, weights = VelocityUNet(**stage1.image_network), Path(model_dir) / WEIGHTS["image"]
    flow = load_sampler(network, str(weights), device, steps=steps).network
    channels = 2 * stage1.num_classes - 1
    images = carry(site.images, flow, channels, device, start=start, steps=steps)
    site = replace(site, images=images)
    score_site(segmenter_dir, site, stage1, lambda x, net: net(x), str(output_dir), device)


@torch.no_grad()
def carry(
    images: Tensor,
    network: Network,
    channels: int,
    device: str,
    *,
    start: float,
    steps: int,
    seed: int = 0,
) -> Tensor:
    """Images (N, C, X, Y), noised to `start` and integrated without a mask as condition.

    Args:
        images: in [-1, 1].
        network: velocity network of the source.
        channels: of its condition maps, all zero here: 'not given'.
        device: of the network.
        start, steps: see `score_carried`.
        seed: of the noise.
    """
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    x = linear_path(noise, torch.as_tensor(images), torch.full((len(images),), start)).x_t
    dt = (1 - start) / steps
    parts = []
    for part in x.split(64):
        part = part.to(device)
        condition = part.new_zeros(len(part), channels, *part.shape[2:])
        velocity = partial(network, condition=condition)
        for step in range(steps):
            part = euler_step(velocity, part, start + step * dt, dt)
        parts.append(part.cpu())
    return torch.cat(parts).clamp(-1, 1)
