"""A small segmenter, trained on real pairs alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
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
from torch import Tensor, nn
from tqdm import tqdm

from alignflow.device import Precision
from alignflow.errors import InputError
from alignflow.training.epochs import EpochSampler

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
