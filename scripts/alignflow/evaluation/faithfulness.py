"""Mask faithfulness: does a segmenter trained on real pairs find the mask in a generated image?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAdjustContrastd,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SelectItemsd,
)
from monai.utils import set_determinism
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor, nn
from tqdm import tqdm

from alignflow.data.dataset import SliceDataset
from alignflow.device import Precision
from alignflow.errors import InputError
from alignflow.training.epochs import EpochSampler

Table = NDArray[np.float64]
STRIDES = (2, 2, 2)


def train_segmenter(
    dataset: Sequence[Any] | Dataset,
    num_classes: int,
    *,
    steps: int = 1500,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "auto",
    channels: Sequence[int] = (16, 32, 64, 64),
    progress: bool = True,
) -> nn.Module:
    """A small U-Net trained on real pairs: DiceCE, AdamW, cosine schedule, colour augmentation.

    Args:
        dataset: items with "image" (C, X, Y) in [-1, 1] and "label" (1, X, Y) class index, sides
            divisible by 8, such as a `SliceDataset`.
        num_classes: K, background included.
        steps, batch_size, learning_rate: of the optimisation.
        seed: of weights, order and augmentation; also sets the global generators.
        device, precision: of `alignflow.device.Precision`.
        channels: of MONAI's `UNet`.
        progress: show a bar.

    Returns:
        The network, logits (B, K, X, Y) from images (B, C, X, Y), on `device`, in eval mode.

    Raises:
        InputError: for sides that the network cannot halve.
    """
    _check_size(dataset[0]["image"])
    set_determinism(seed=seed)
    network = UNet(
        spatial_dims=2,
        in_channels=dataset[0]["image"].shape[0],
        out_channels=num_classes,
        channels=channels,
        strides=STRIDES,
        num_res_units=2,
    ).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    # Over the batch: the Dice of a class that one image lacks has no use as a loss.
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    computation = Precision(device, precision)
    batches = _batches(dataset, steps, batch_size, seed)
    for batch in tqdm(batches, desc="segmenter", unit="step", disable=not progress):
        with computation.autocast():
            logits = network(batch["image"].to(device))
        loss = criterion(logits.float(), batch["label"].to(device))
        computation.optimiser_step(loss, network, optimizer, clip=1.0)
        schedule.step()
    return network.eval()


def augmentation() -> Compose:
    """Flips, and brightness and contrast of the whole image and of each channel."""
    keys = ["image", "label"]
    return Compose(
        [
            SelectItemsd(keys),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandFlipd(keys, prob=0.5, spatial_axis=1),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.7, 1.5)),
            RandScaleIntensityd("image", factors=0.2, prob=0.5, channel_wise=True),
            RandShiftIntensityd("image", offsets=0.2, prob=0.5, channel_wise=True),
            EnsureTyped(keys, track_meta=False),
        ]
    )


def dice(
    segmenter: nn.Module, images: Tensor, labels: Tensor, num_classes: int
) -> dict[str, float]:
    """Dice of the segmenter's masks with `labels`: each image's, then their mean.

    A class absent from a reference mask does not count for that image, whatever was predicted
    (`ignore_empty` of MONAI's `DiceMetric`); an image without any foreground does not count at all.

    Args:
        segmenter: from `train_segmenter`.
        images: (N, C, X, Y) in [-1, 1].
        labels: class indices (N, 1, X, Y).
        num_classes: K, background included.

    Returns:
        "mean" over images of the mean over their classes, "low" and "high" of its 95% bootstrap
        interval over images, and "class1", ...: means over the images with that class (left out
        where none has it). All in [0, 1].

    Raises:
        InputError: for fewer than two images with foreground.
    """
    return summary(dice_table(segmenter, images, labels, num_classes))


@torch.no_grad()
def dice_table(
    segmenter: nn.Module, images: Tensor, labels: Tensor, num_classes: int, batch_size: int = 64
) -> Table:
    """Dice (N, K-1) of each image and class, NaN where the reference lacks the class."""
    device = next(segmenter.parameters()).device
    metric = DiceMetric(include_background=False, reduction="none", ignore_empty=True)
    for image, label in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        predicted = segmenter(image.to(device)).argmax(dim=1, keepdim=True).cpu()
        metric(one_hot(predicted, num_classes), one_hot(label, num_classes))
    return cast("Tensor", metric.aggregate()).double().numpy()


def image_scores(table: Table) -> Table:
    """Mean over the classes that an image has, images without foreground left out: (M,).

    Raises:
        InputError: for fewer than two images with foreground.
    """
    present = ~np.isnan(table)
    counted = present.any(axis=1)
    if counted.sum() < 2:
        raise InputError(
            f"dice: {counted.sum()} images with foreground; give two or more, else it has no spread"
        )
    return np.nanmean(table[counted], axis=1)


def summary(table: Table) -> dict[str, float]:
    """What `dice` returns, from a `dice_table`."""
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
    """95% percentile interval of a statistic, each sample being resampled by itself.

    Slices of one volume are not independent: for volumes the interval is too narrow.

    Args:
        samples: each (N,), N >= 2.
        statistic: takes the samples as arguments, each a vector.
        resamples: number of draws.
        seed: of the draws.
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


def stacked(dataset: SliceDataset) -> tuple[Tensor, Tensor]:
    """All images (N, C, X, Y) and labels (N, 1, X, Y) of a data set, without augmentation."""
    return torch.stack([item["image"] for item in dataset.data]), dataset.label_stack


def _batches(
    dataset: Sequence[Any] | Dataset, steps: int, batch_size: int, seed: int
) -> DataLoader:
    augment = augmentation()
    augment.set_random_state(seed=seed)
    sampler = EpochSampler(len(dataset), steps * batch_size, seed)
    augmented = Dataset(cast("Sequence[Any]", dataset), augment)
    return DataLoader(augmented, batch_size=batch_size, sampler=sampler)


def _check_size(image: Tensor) -> None:
    divisor = int(np.prod(STRIDES))
    if any(side % divisor for side in image.shape[1:]):
        raise InputError(
            f"segmenter: images of {tuple(image.shape[1:])} pixels; "
            f"resize to multiples of {divisor}"
        )
