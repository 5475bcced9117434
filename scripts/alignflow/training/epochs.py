"""Epochs of a fixed number of steps whose order depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose
from monai.utils import set_determinism
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """`draws` indices of a dataset of `size`: whole permutations, one after another.

    Small datasets get epochs of a useful length, and no image is seen twice before every other was
    seen once.

    Args:
        size: length of the dataset.
        draws: indices in one epoch (steps times batch size).
        seed: random seed of the order; the epoch is set with `set_epoch`.
        rank, world: of several processes; each iterates over every `world`-th index from `rank`
            on, of the order that a single one sees.
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
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        passes = -(-self.draws // self.size)
        order = torch.cat([torch.randperm(self.size, generator=generator) for _ in range(passes)])
        return iter(order[self.rank : self.draws : self.world].tolist())


class EpochSeed:
    """Handler: at each epoch's start, everything that draws at random is seeded by (seed, epoch).

    A run resumed at an epoch therefore sees the batches and augmentations of the uninterrupted one.
    Processes that share a batch augment it each in its own way.
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
        """Seed for the epoch that starts."""
        epoch = engine.state.epoch
        self.sampler.set_epoch(epoch)
        # samplers that no override shares out among processes have no rank
        rank = getattr(self.sampler, "rank", 0)
        seed = (self.seed * 1_000_003 + epoch + 500_009 * rank) % 2**32
        set_determinism(seed=seed)
        if self.augmentation is not None:
            self.augmentation.set_random_state(seed=seed)
