"""Epochs of fixed length, whose order depends only on seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose
from monai.utils import set_determinism
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """`draws` indices of a dataset of `size`: successive permutations.

    So epochs of small datasets have a useful length, and every image is seen once before any is
    seen twice.

    Args:
        size: length of the dataset.
        draws: indices per epoch (steps times batch size).
        seed: random seed of the order; the epoch is set with `set_epoch`.
        rank, world: number of this process and of all processes; each iterates over every
            `world`-th index of the single-process order, starting at `rank`.
    """

    def __init__(self, size: int, draws: int, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        self.size = size
        self.draws = draws
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def __len__(self) -> int:
        return self.draws // self.world

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch for the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        passes = -(-self.draws // self.size)
        order = torch.cat([torch.randperm(self.size, generator=generator) for _ in range(passes)])
        return iter(order[self.rank : self.draws : self.world].tolist())


class EpochSeed:
    """Handler: seeds all random numbers with (seed, epoch) at the start of each epoch.

    A resumed run therefore sees the same batches and augmentations as an uninterrupted run.
    Different processes use different random augmentations.
    """

    def __init__(
        self, sampler: EpochSampler, augmentation: Compose | None = None, seed: int = 0
    ) -> None:
        self.sampler = sampler
        self.augmentation = augmentation
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register at EPOCH_STARTED."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the current epoch."""
        epoch = engine.state.epoch
        self.sampler.set_epoch(epoch)
        # only samplers that are shared among processes have a rank
        rank = getattr(self.sampler, "rank", 0)
        seed = (self.seed * 1_000_003 + epoch + 500_009 * rank) % 2**32
        set_determinism(seed=seed)
        if self.augmentation is not None:
            self.augmentation.set_random_state(seed=seed)
