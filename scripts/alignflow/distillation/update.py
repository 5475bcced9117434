"""One step of distillation, as the iteration update of a MONAI engine."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn

from alignflow.device import Precision
from alignflow.distillation.loss import StudentLoss
from alignflow.distillation.methods import Progressive, Unrolled
from alignflow.flow.ema import EMA

Batch = dict[str, Tensor]
"""noise and data (B, C, X, Y), and the condition: condition (B, D, X, Y) or vector (B, D)."""


class DistillUpdate:
    """A student of a few Euler steps learns by one of the methods.

    Args:
        method: what is made and wanted, see `alignflow.distillation.methods`.
        loss: between the two.
        precision: autocast and loss scaling.
        ema: average of the trained network's weights, updated after each step.
        clip: largest norm of the gradient.

    Attributes:
        steps: of the student; set by `Students`.
    """

    def __init__(
        self,
        *,
        method: Unrolled | Progressive,
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
        """A phase begins, of a student of so many steps, from the average of the last one."""
        self.method.begin(steps, self.ema.module)
        self.ema.n_averaged.zero_()  # the first update copies the weights

    def __call__(self, engine: SupervisedTrainer, batch: Batch) -> dict[str, float]:
        """Train on one batch; returns {"loss", "pixels", "features"}."""
        engine.network.train()
        loss, values = self.losses(self.method, engine.network, batch, engine.state.device)
        self.precision.optimiser_step(loss, engine.network, engine.optimizer, self.clip)
        self.ema.update_parameters(engine.network)
        return values

    def losses(
        self,
        method: Unrolled | Progressive,
        network: nn.Module,
        batch: Batch,
        device: torch.device | str,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of the student with `network`, and its parts."""
        moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        noise, data = moved.pop("noise"), moved.pop("data")
        with self.precision.autocast():
            made, wanted, scale = method(network, noise, data, moved, self.steps)
        return self.loss(made, wanted, scale)

    def state_dict(self) -> dict[str, Any]:
        """Loss scaling, and what the method keeps; the steps follow from the epoch."""
        return {"precision": self.precision.state_dict(), "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up where a checkpoint left it."""
        self.precision.load_state_dict(state["precision"])
        self.method.load_state_dict(state["method"])


class DistillValidation:
    """Losses of the averaged network, its steps unrolled, on held-out pairs of the coupling."""

    def __init__(self, update: DistillUpdate) -> None:
        self.update = update

    @torch.no_grad()
    def __call__(self, engine: SupervisedEvaluator, batch: Batch) -> dict[str, float]:
        """Evaluate one batch; returns what `DistillUpdate` does."""
        return self.update.losses(Unrolled(), engine.network, batch, engine.state.device)[1]
