"""Mask faithfulness: how well a segmenter finds the mask in a generated image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor, nn

from alignflow.errors import InputError

Table = NDArray[np.float64]


@torch.no_grad()
def dice_table(
    segmenter: nn.Module, images: Tensor, labels: Tensor, num_classes: int, batch_size: int = 64
) -> Table:
    """Dice (N, K-1) of each image and class, NaN if the reference lacks the class.

    Args:
        segmenter: logits (B, K, X, Y) from images (B, C, X, Y).
        images: (N, C, X, Y) in [-1, 1].
        labels: class indices (N, 1, X, Y).
        num_classes: K, background included.
        batch_size: batch size of the segmenter.
    """
    device = next(segmenter.parameters()).device
    metric = DiceMetric(include_background=False, reduction="none", ignore_empty=True)
    for image, label in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        predicted = segmenter(image.to(device)).argmax(dim=1, keepdim=True).cpu()
        metric(one_hot(predicted, num_classes), one_hot(label, num_classes))
    return cast("Tensor", metric.aggregate()).double().numpy()


def image_scores(table: Table) -> Table:
    """Mean over the classes of each image (M,), without images that have no foreground.

    Raises:
        InputError: fewer than two images have foreground.
    """
    present = ~np.isnan(table)
    counted = present.any(axis=1)
    if counted.sum() < 2:
        raise InputError(
            f"dice: {counted.sum()} images with foreground; give two or more, else there is no "
            "interval"
        )
    return np.nanmean(table[counted], axis=1)


def summary(table: Table) -> dict[str, float]:
    """Dice of a set, from its `dice_table`.

    Returns:
        "mean", over images, of the mean over their classes; "low" and "high" of its 95% bootstrap
        interval over images; and "class1", ..., the means over images with that class (omitted if
        there are none). All in [0, 1].
    """
    scores = image_scores(table)
    low, high = bootstrap_interval([scores], np.mean)
    result = {"mean": float(scores.mean()), "low": low, "high": high}
    for j, column in enumerate(table.T, start=1):
        if not np.isnan(column).all():
            result[f"class{j}"] = float(np.nanmean(column))
    return result


def bootstrap_interval(
    samples: Sequence[Table], statistic: Callable[..., float], resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap interval of a statistic; samples are resampled separately.

    Slices of a volume are not independent, so for volumes the interval is too narrow.

    Args:
        samples: each (N,), N >= 2.
        statistic: takes the samples as arguments, each a vector.
        resamples: number of bootstrap draws.
        seed: random seed of the draws.
    """
    found = bootstrap(
        tuple(samples),
        statistic,
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
