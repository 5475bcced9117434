"""What an adaptation costs on this machine: time of a training step, and disk."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alignflow.device import Precision, tune_allocator
from alignflow.networks.velocity import VelocityUNet

TIMED = 4
"""Training steps that are timed, after one that is not."""


def image_network(network_def: Mapping[str, Any], channels: int, classes: int) -> dict[str, Any]:
    """Arguments of `VelocityUNet` from the `network_def` of `train.json`.

    Args:
        network_def: whose channels of data and condition are expressions.
        channels: C of the images.
        classes: K, background included.
    """
    plain = {k: v for k, v in network_def.items() if k != "_target_"}
    return plain | {"data_channels": channels, "condition_channels": 2 * classes - 1}


def measure(
    arguments: Mapping[str, Any], image_size: list[int], batch_size: int, device: str
) -> tuple[float, int]:
    """Seconds of a training step of the image flow (median), and its number of parameters."""
    tune_allocator()
    network = VelocityUNet(**arguments).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    precision = Precision(device)
    channels = int(arguments["data_channels"])
    x = torch.randn(batch_size, channels, *image_size, device=device)
    condition = torch.randn(
        batch_size, int(arguments["condition_channels"]), *image_size, device=device
    )
    t = torch.rand(batch_size, device=device)
    seconds = []
    for _ in range(TIMED + 1):
        start = time.perf_counter()
        with precision.autocast():
            loss = network(x, t, condition=condition).float().square().mean()
        precision.optimiser_step(loss, network, optimizer, clip=1.0)
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), sum(p.numel() for p in network.parameters())


def disk(
    parameters: int, channels: int, image_size: list[int], coupling: int, pairs: float, trains: bool
) -> float:
    """Bytes that an adaptation writes, roughly.

    Args:
        parameters: of the image flow; the mask flow is taken for as large.
        channels, image_size: of the images.
        coupling: pairs of noise and image that distillation keeps.
        pairs: bytes of all image-mask pairs.
        trains: whether stage 1 is trained.
    """
    weights = 4.0 * 2 * parameters
    checkpoints = 2 * 4 * weights  # two of each flow: weights, average, two moments
    tracked = 2 * weights  # MLflow keeps a copy
    stage = weights + checkpoints + tracked
    students = 3 * weights
    noise = 6.0 * coupling * channels * image_size[0] * image_size[1]  # float32 and float16
    return (stage if trains else 0) + stage + stage + students + noise + pairs


def free(folder: Path) -> float:
    """Bytes free where a folder lies or will lie."""
    while not folder.exists():
        folder = folder.parent
    return float(shutil.disk_usage(folder).free)
