"""One step of distillation, as the iteration update of a MONAI engine."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from alignflow.alignment.features import EncoderFeatures
from alignflow.device import Precision
from alignflow.distributed import mean
from alignflow.flow.ema import EMA
from alignflow.flow.sampler import FlowSampler

Batch = dict[str, Tensor]
"""noise and data (B, C, X, Y), and the condition: condition (B, D, X, Y) or vector (B, D)."""


class DistillUpdate:
    """Regression of a few Euler steps, unrolled, on what the teacher made of the same noise.

    Both ends of the coupling are given, so the loss is a plain one (Luhman and Luhman, arXiv
    2101.02388; InstaFlow, Liu et al., arXiv 2309.06380, eq. 5), with a part in pixels and a part
    in the features of a frozen encoder; the latter counts what a blurred mean loses.

    Args:
        precision: autocast and loss scaling.
        ema: average of the trained network's weights, updated after each step.
        encoder: frozen, or None.
        feature_weight: of the loss in features against that in pixels.
        delta: |error| at which Huber's loss turns from square to linear; images lie in [-1, 1].
        clip: largest norm of the gradient.

    Attributes:
        steps: of the student; set by `Students`.
    """

    def __init__(
        self,
        *,
        precision: Precision,
        ema: EMA,
        encoder: EncoderFeatures | None = None,
        feature_weight: float = 0.0,
        delta: float = 0.1,
        clip: float = 1.0,
    ) -> None:
        self.precision = precision
        self.ema = ema
        self.encoder = encoder
        self.feature_weight = feature_weight
        self.delta = delta
        self.clip = clip
        self.steps = 1

    def __call__(self, engine: SupervisedTrainer, batch: Batch) -> dict[str, float]:
        """Train on one batch; returns {"loss", "pixels", "features"}."""
        engine.network.train()
        loss, values = self.losses(engine.network, batch, engine.state.device)
        self.precision.optimiser_step(loss, engine.network, engine.optimizer, self.clip)
        self.ema.update_parameters(engine.network)
        return values

    def losses(
        self, network: nn.Module, batch: Batch, device: torch.device | str
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of the student with `network`, and its parts."""
        moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        noise, data = moved.pop("noise"), moved.pop("data")
        with self.precision.autocast():
            made = FlowSampler(network, steps=self.steps, method="euler")(noise, **moved)
        made = made.float()
        # divided by delta, both parts are mean absolute errors where errors are large
        pixels = huber_loss(made, data, delta=self.delta) / self.delta
        values = {"pixels": float(pixels.detach())}
        loss = pixels
        if self.encoder is not None:
            features = feature_loss(self.encoder, made, data)
            loss = loss + self.feature_weight * features
            values["features"] = float(features.detach())
        return loss, {"loss": float(loss.detach()), **values}

    def state_dict(self) -> dict[str, Any]:
        """Loss scaling; the steps follow from the epoch."""
        return self.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it up where a checkpoint left it."""
        self.precision.load_state_dict(state)


class DistillValidation:
    """The same losses of the averaged network on held-out pairs."""

    def __init__(self, update: DistillUpdate) -> None:
        self.update = update

    @torch.no_grad()
    def __call__(self, engine: SupervisedEvaluator, batch: Batch) -> dict[str, float]:
        """Evaluate one batch; returns what `DistillUpdate` does."""
        return self.update.losses(engine.network, batch, engine.state.device)[1]


def feature_loss(encoder: EncoderFeatures, made: Tensor, data: Tensor) -> Tensor:
    """Mean over layers of the absolute error of feature maps, over their mean absolute value.

    Args:
        encoder: frozen.
        made, data: images (B, C, X, Y) in [-1, 1]; the gradient goes to the former.
    """
    with torch.no_grad():
        wanted = encoder.maps(data)
    pairs = zip(encoder.maps(made), wanted, strict=True)
    terms = [(m - w).abs().mean() / mean(w.abs().mean()).clamp_min(1e-6) for m, w in pairs]
    return torch.stack(terms).mean()
