"""Which pairs, real or synthetic, make up each batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from alignflow.errors import InputError
from alignflow.training.epochs import EpochSampler


class MixedSampler(Sampler[int]):
    """Indices of epochs whose batches hold a fixed share of synthetic pairs.

    Real pairs are 0 to `real` - 1, synthetic ones follow. After k batches exactly the whole part of
    k * batch_size * share draws were synthetic; a share that divides the batch is exact in each.
    Order depends on seed and epoch alone, as in `EpochSampler`, which both kinds go by.

    Args:
        real, synthetic: numbers of pairs; without synthetic ones the share is 0.
        batch_size: draws in a batch.
        steps: batches in an epoch.
        share: of synthetic pairs, in [0, 1].
        schedule: "mixed", or "synthetic_first": `synthetic_epochs` epochs of synthetic pairs alone,
            then real ones alone.
        synthetic_epochs: see `schedule`.
        epochs: of the whole training.
        seed: of the order.

    Raises:
        InputError: a schedule without synthetic pairs, or that leaves no epoch for the real ones.
    """

    def __init__(
        self,
        *,
        real: int,
        synthetic: int,
        batch_size: int,
        steps: int,
        share: float = 0.25,
        schedule: str = "mixed",
        synthetic_epochs: int = 0,
        epochs: int = 1,
        seed: int = 0,
    ) -> None:
        self.real = real
        self.synthetic = synthetic
        self.batch_size = batch_size
        self.steps = steps
        self.share = share if synthetic else 0.0
        self.seed = seed
        self.epoch = 0
        self.synthetic_epochs = synthetic_epochs if schedule == "synthetic_first" else None
        if self.synthetic_epochs is not None and not synthetic:
            raise InputError('config "schedule": synthetic_first needs pairs; set "pairs_dir"')
        if self.synthetic_epochs is not None and not 0 < self.synthetic_epochs < epochs:
            raise InputError(
                f'config "synthetic_epochs": {synthetic_epochs}; set it from 1 to {epochs - 1}, '
                'fewer than "epochs", so that real pairs come last'
            )

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 1) whose order the next iteration gives."""
        self.epoch = epoch

    @property
    def epoch_share(self) -> float:
        """Share of synthetic pairs in the chosen epoch."""
        if self.synthetic_epochs is None:
            return self.share
        return 1.0 if self.epoch <= self.synthetic_epochs else 0.0

    def __iter__(self) -> Iterator[int]:
        # 1e-9: 10 * 0.3 is a little less than 3.
        per_batch = self.batch_size * self.epoch_share + 1e-9
        ends = [int(k * per_batch) for k in range(self.steps + 1)]
        real = self._order(self.real, len(self) - ends[-1], 0)
        synthetic = self._order(self.synthetic, ends[-1], 1)
        for k in range(self.steps):
            first, last = ends[k], ends[k + 1]
            done = k * self.batch_size - first
            yield from real[done : done + self.batch_size - (last - first)].tolist()
            yield from (self.real + synthetic[first:last]).tolist()

    def _order(self, size: int, draws: int, stream: int) -> torch.Tensor:
        if not draws:
            return torch.zeros(0, dtype=torch.long)
        sampler = EpochSampler(size, draws, 2 * self.seed + stream)
        sampler.set_epoch(self.epoch)
        return torch.tensor(list(sampler))
