"""The iteration update of distillation for a MONAI engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn

from alignflow.device import Precision
from alignflow.distillation.loss import StudentLoss
from alignflow.distillation.methods import Pair, Progressive, unrolled
from alignflow.flow.ema import EMA

Batch = dict[str, Tensor]
"""noise and data (B, C, X, Y), and condition (B, D, X, Y) or vector (B, D)."""


class DistillUpdate:
    """Trains a student with a few Euler steps on shorter steps.

    Args:
        method: computes prediction and target.
        loss: loss between prediction and target.
        precision: autocast and loss scaling.
        ema: average of the trained network's weights, updated after each step.
        clip: largest norm of the gradient.

    Attributes:
        steps: steps of the student; set by `Students`.
    """

    def __init__(
        self,
        *,
        method: Progressive,
        loss: StudentLoss,
        precision: Precision,
        ema: EMA,
        clip: float = 1.0,
    ) -> None:
        self.method = method
        self.loss = loss
        self.precision = precision
        self.ema = ema
        self.clip = clip
        self.steps = 1

    def begin(self, steps: int) -> None:
        """Start the phase of a student with `steps`, from the averaged weights of the last."""
        self.method.begin(steps, self.ema.module)
        self.ema.n_averaged.zero_()  # the first update copies the weights

    def __call__(self, engine: SupervisedTrainer, batch: Batch) -> dict[str, float]:
        """Train on one batch; returns {"loss", "pixels", "features"}."""
        engine.network.train()
        pair = self.pair(self.method, engine.network, batch, engine.state.device)
        loss, values = self.loss(*pair)
        self.precision.optimiser_step(loss, engine.network, engine.optimizer, self.clip)
        self.ema.update_parameters(engine.network)
        return values

    def pair(
        self,
        method: Callable[..., Pair],
        network: nn.Module,
        batch: Batch,
        device: torch.device | str,
    ) -> Pair:
        """Prediction of the student with `network`, and its target."""
        moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        noise, data = moved.pop("noise"), moved.pop("data")
        with self.precision.autocast():
            return method(network, noise, data, moved, self.steps)

    @torch.no_grad()
    def errors(
        self, network: nn.Module, batch: Batch, device: torch.device | str
    ) -> dict[str, float]:
        """Losses of the student's samples, by `network`, against the teacher's."""
        return self.loss(*self.pair(unrolled, network, batch, device))[1]

    def state_dict(self) -> dict[str, Any]:
        """State of loss scaling and method; the steps follow from the epoch."""
        return {"precision": self.precision.state_dict(), "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.precision.load_state_dict(state["precision"])
        self.method.load_state_dict(state["method"])


class DistillValidation:
    """Losses of the averaged network's samples on held-out pairs."""

    def __init__(self, update: DistillUpdate) -> None:
        self.update = update

    def __call__(self, engine: SupervisedEvaluator, batch: Batch) -> dict[str, float]:
        """Evaluate one batch; returns the same values as `DistillUpdate`."""
        return self.update.errors(engine.network, batch, engine.state.device)
