"""Monitoring of an alignment, and choice of the weights to keep."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from alignflow.alignment.matching import ReferenceMatching
from alignflow.alignment.reward import SetReward
from alignflow.alignment.sampling import FixedSamples
from alignflow.alignment.site import Split
from alignflow.distributed import from_first
from alignflow.evaluation.faithfulness import dice_table, image_scores
from alignflow.flow.sampler import FlowSampler

logger = logging.getLogger(__name__)


class Monitor:
    """Handler: measures fixed samples every epoch, keeps the best weights, and stops early.

    The best epoch has the smallest flow-matching loss on the held-out references or, without
    `matching`, the smallest distance to them (to the fitted references if none is held out), among
    the epochs that keep spread and mask faithfulness. With `matching` and no held-out reference,
    the last such epoch is the best. The initial weights are a candidate too, so an alignment that
    only harms changes nothing.

    Measures, and adds to the trainer's metrics:
        left_out: weighted distance to the held-out references, 1 at the start.
        fitted: the same for the references that the reward uses.
        spread: mean pairwise feature distance of the samples over that of all references
            (for a single reference, over that of the unaligned samples).
        nearest: median distance of a sample to its nearest reference over that of held-out
            references (if there are none, of references to each other); small means copying.
        dice: Dice of the segmenter's prediction with the masks that were asked for.
        matching: flow-matching loss on the held-out references, always with the same noise.

    Args:
        samples: drawn at every epoch.
        sampler: sampler of the network in training.
        split: the references.
        reward: fitted reward.
        segmenter: predicts masks of the references.
        num_classes: K.
        matching: flow matching on the held-out references; None if it has no weight.
        lowest_spread: smallest spread, as a share of the unaligned samples' or of 1, whichever is
            smaller.
        largest_dice_loss: largest allowed fall of `dice`. Used only without `matching`: the
            segmenter may fail on images of the site even if they follow their masks.
        patience: epochs without improvement before the run stops; 0 for never.
    """

    def __init__(
        self,
        *,
        samples: FixedSamples,
        sampler: FlowSampler,
        split: Split,
        reward: SetReward,
        segmenter: nn.Module,
        num_classes: int,
        matching: ReferenceMatching | None = None,
        lowest_spread: float = 0.8,
        largest_dice_loss: float = 0.02,
        patience: int = 4,
    ) -> None:
        self.samples = samples
        self.sampler = sampler
        self.split = split
        self.reward = reward
        self.segmenter = segmenter
        self.num_classes = num_classes
        self.matching = matching
        self.lowest_spread = lowest_spread
        self.largest_dice_loss = largest_dice_loss
        self.patience = patience
        self.own_spread = 0.0
        self.curve: list[dict[str, float]] = []
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Register at the start and at each epoch's end."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.restore)

    def start(self, engine: Engine) -> None:
        """Measure the unaligned generator, unless a resumed run has done so."""
        if not self.curve:
            self.curve.append(self.measure())
            self.keep(0)

    def __call__(self, engine: Engine) -> None:
        """Measure, keep the weights if they are the best so far, stop after `patience` epochs."""
        values = self.measure()
        self.curve.append(values)
        engine.state.metrics.update(values)
        if self.key(values) < self.key(self.curve[self.best_epoch]):
            self.keep(len(self.curve) - 1)
        if self.patience and len(self.curve) - 1 - self.best_epoch >= self.patience:
            logger.info("no better weights for %d epochs; stopped", self.patience)
            engine.terminate()

    def key(self, values: dict[str, float]) -> float:
        """Smaller is better; infinite if the samples have lost spread or their masks."""
        first = self.curve[0]
        narrow = values["spread"] < self.lowest_spread * min(first["spread"], 1.0)
        loss = first["dice"] - values["dice"]
        unfaithful = self.matching is None and loss > self.largest_dice_loss
        if (narrow or unfaithful) and values is not first:
            return math.inf
        if self.matching is not None:
            return values["matching"]
        return values["left_out"] if self.split.left_out is not None else values["fitted"]

    def measure(self) -> dict[str, float]:
        """See the class."""
        images = self.samples.draw(self.sampler)
        split, reward = self.split, self.reward
        found = reward.features(images)
        self.own_spread = self.own_spread or self._spread_of_references(found)
        left_out = split.fitted if split.left_out is None else split.left_out
        scores = dice_table(self.segmenter, images, self.samples.labels, self.num_classes)
        values = {
            "left_out": reward.total(reward.distance(images, left_out)),
            "fitted": reward.total(reward.distance(images, split.fitted)),
            "spread": mean_pairwise(found) / self.own_spread,
            "nearest": self._nearest(found),
            "dice": float(image_scores(scores).mean()),
        }
        if self.matching is not None:
            with torch.no_grad():
                loss = self.matching(self.sampler.network, torch.Generator().manual_seed(0))
            values["matching"] = float(loss)
        return from_first(values)

    def _spread_of_references(self, unaligned: Tensor) -> float:
        """Mean pairwise feature distance; for a single reference that of the unaligned samples."""
        fitted, left_out = self.split.fitted, self.split.left_out
        everything = fitted if left_out is None else torch.cat([fitted, left_out])
        several = len(everything) > 1
        return mean_pairwise(self.reward.features(everything) if several else unaligned)

    def _nearest(self, found: Tensor) -> float:
        fitted = self.reward.features(self.split.fitted)
        nearest = torch.cdist(found, fitted).min(dim=1).values.median()
        if self.split.left_out is not None:
            own = torch.cdist(self.reward.features(self.split.left_out), fitted).min(dim=1).values
        elif len(fitted) > 1:
            own = torch.cdist(fitted, fitted).fill_diagonal_(torch.inf).min(dim=1).values
        else:
            return float(nearest)
        return float(nearest / own.median())

    def keep(self, epoch: int) -> None:
        """Save a copy of the current weights."""
        state = self.sampler.state_dict()
        self.best_weights = {k: copy.deepcopy(v).cpu() for k, v in state.items()}
        self.best_epoch = epoch

    def restore(self, engine: Engine) -> None:
        """Put the best weights back when training is complete."""
        self.sampler.load_state_dict(self.best_weights)
        best = {k: f"{v:.3f}" for k, v in self.curve[self.best_epoch].items()}
        logger.info("kept the weights of epoch %d: %s", self.best_epoch, best)
        if self.best_epoch == 0:
            logger.warning("these are the weights before alignment: alignment changed nothing")

    def state_dict(self) -> dict[str, Any]:
        """Curve and best weights."""
        return {
            "own_spread": self.own_spread,
            "curve": self.curve,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.own_spread = state["own_spread"]
        self.curve, self.best_epoch = state["curve"], state["best_epoch"]
        self.best_weights = state["best_weights"]


def mean_pairwise(features: Tensor) -> float:
    """Mean distance between different rows of (N, D), N >= 2."""
    return float(torch.pdist(features).mean())
