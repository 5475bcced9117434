"""The site's anatomy, estimated from the references' masks, and the mask loss of alignment."""

from __future__ import annotations

import math

import torch
from monai.networks.utils import one_hot
from torch import Tensor, nn

from alignflow.distributed import all_gather_rows
from alignflow.masks.conditions import FIELDS, describe


def site_descriptions(
    bank: Tensor, masks: Tensor, num_classes: int, *, count: int = 256, prior: float = 3.0
) -> Tensor:
    """Descriptions of training masks, resampled so that areas are distributed as at the site.

    Each class's log-area is assumed normal, at the source and at the site. The weight of a training
    mask is the ratio of the two densities (importance resampling), so that position and presence
    depend on size as they do at the source. Since there are few references, mean and variance of
    the site are shrunk towards the source's by `prior` pseudo-observations.

    Args:
        bank: descriptions of the training masks (N, 4 (K - 1)), of `masks.conditions.describe`.
        masks: masks of the references, given or predicted, uint8 (n, 1, X, Y).
        num_classes: K, background included.
        count: descriptions to return.
        prior: weight of the source, as a number of references.

    Returns:
        (count, 4 (K - 1)), rows of the bank.
    """
    source = bank.unflatten(1, (-1, FIELDS))
    site = describe(masks, num_classes).unflatten(1, (-1, FIELDS))
    log_weight = torch.zeros(len(bank))
    for k in range(num_classes - 1):
        here, there = _areas(source[:, k]), _areas(site[:, k])
        if len(here) < 2 or len(there) == 0:
            continue
        mean, var = here.mean(), here.var().clamp(min=1e-4)
        new_mean, new_var = _shrunk(mean, var, there, prior)
        area, present = source[:, k, 1], source[:, k, 0] > 0
        ratio = (area - mean).square() / var - (area - new_mean).square() / new_var
        log_weight += torch.where(present, ratio / 2, 0.0)
    weight = (log_weight - log_weight.max()).exp()
    # Systematic resampling is deterministic: equal weights always give the same rows.
    points = (torch.arange(count) + 0.5) / count * weight.sum()
    return bank[torch.searchsorted(weight.cumsum(0), points).clamp(max=len(bank) - 1)]


def effective_size(descriptions: Tensor) -> float:
    """Effective number of different rows in a resampled bank (Kish): count / E[repeats]."""
    _, repeats = descriptions.unique(dim=0, return_counts=True)
    return float(len(descriptions) ** 2 / repeats.double().square().sum())


def dice_loss(segmenter: nn.Module, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """1 - soft Dice between a segmenter's prediction and the masks, over the batch; scalar.

    The batch is that of all processes; the gradient is that of this process's images.

    Args:
        segmenter: logits (B, K, X, Y).
        images: (B, C, X, Y) in [-1, 1].
        labels: class indices (B, 1, X, Y).
        num_classes: K.
    """
    probability = segmenter(images).float().softmax(dim=1)[:, 1:]
    target = one_hot(labels, num_classes)[:, 1:].to(probability)
    overlap = all_gather_rows((probability * target).sum(dim=(2, 3))).sum(dim=0)
    total = all_gather_rows((probability + target).sum(dim=(2, 3))).sum(dim=0)
    return 1 - ((2 * overlap + 1) / (total + 1)).mean()


def _areas(description: Tensor) -> Tensor:
    return description[description[:, 0] > 0, 1]


def _shrunk(mean: Tensor, var: Tensor, there: Tensor, prior: float) -> tuple[Tensor, Tensor]:
    n = len(there)
    new_mean = (n * there.mean() + prior * mean) / (n + prior)
    spread = (there - new_mean).square().sum() + prior * var
    return new_mean, (spread / (n + prior)).clamp(max=float(var), min=float(var) / math.e**2)
