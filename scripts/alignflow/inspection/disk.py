"""How much disk an adaptation needs, and how much is free."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def image_network(network_def: Mapping[str, Any], channels: int, classes: int) -> dict[str, Any]:
    """Arguments of `VelocityUNet` from the `network_def` of `train.json`.

    Args:
        network_def: whose channels of data and condition are expressions.
        channels: C of the images.
        classes: K, background included.
    """
    plain = {k: v for k, v in network_def.items() if k != "_target_"}
    return plain | {"data_channels": channels, "condition_channels": 2 * classes - 1}


def bytes_written(
    parameters: int, channels: int, image_size: list[int], coupling: int, pairs: float, trains: bool
) -> float:
    """Rough estimate of what an adaptation writes.

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
