"""Mixes pairs of the source, generated pairs and pairs of the site in each batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import torch
from torch.utils.data import Sampler

from alignflow.errors import InputError
from alignflow.training.epochs import EpochSampler


class MixedSampler(Sampler[int]):
    """Indices of epochs whose batches contain fixed shares of several kinds of pairs.

    The kinds follow each other: 0 to sizes[0] - 1, then sizes[1] of the next kind, and so on. The
    first kind fills the rest of each batch. After k batches a kind has floor(k * batch_size *
    share) draws, or one less if the others fill a small batch; if the share divides the batch, it
    is exact in each batch. As in `EpochSampler`, which draws each kind, the order depends only on
    seed and epoch.

    Args:
        sizes: pairs of each kind; the share of an empty kind is 0.
        shares: share of each kind except the first, in [0, 1].
        batch_size: draws in a batch.
        steps: batches in an epoch.
        seed: random seed of the order.

    Raises:
        InputError: the shares sum to more than 1, or to less with an empty first kind.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        shares: Sequence[float],
        batch_size: int,
        steps: int,
        seed: int = 0,
    ) -> None:
        self.sizes = list(sizes)
        self.shares = [
            share if size else 0.0 for size, share in zip(sizes[1:], shares, strict=True)
        ]
        left = 1 - sum(self.shares)
        if left < -1e-9 or (left > 1e-9 and not sizes[0]):
            raise InputError(
                f"shares of the batch: {self.shares} for {self.sizes[1:]} pairs and {sizes[0]} of "
                "the source; their sum must be at most 1, and 1 without source pairs"
            )
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (from 1) for the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        batches = self._batches()
        ends = accumulate(self.sizes)
        totals = [sum(counts) for counts in zip(*batches, strict=True)]
        orders = [
            iter((end - size + self._order(size, total, kind)).tolist())
            for kind, (end, size, total) in enumerate(zip(ends, self.sizes, totals, strict=True))
        ]
        for counts in batches:
            for order, count in zip(orders, counts, strict=True):
                yield from islice(order, count)

    def _batches(self) -> list[list[int]]:
        """Number of pairs of each kind in each batch."""
        batches, given = [], [0] * len(self.shares)
        for k in range(1, self.steps + 1):
            counts: list[int] = []
            for kind, share in enumerate(self.shares):
                # 1e-9 because 10 * 0.3 is a little less than 3.
                owed = int(k * self.batch_size * share + 1e-9) - given[kind]
                counts.append(min(owed, self.batch_size - sum(counts)))
                given[kind] += counts[-1]
            batches.append([self.batch_size - sum(counts), *counts])
        return batches

    def _order(self, size: int, draws: int, kind: int) -> torch.Tensor:
        if not draws:
            return torch.zeros(0, dtype=torch.long)
        sampler = EpochSampler(size, draws, 3 * self.seed + kind)
        sampler.set_epoch(self.epoch)
        return torch.tensor(list(sampler))
