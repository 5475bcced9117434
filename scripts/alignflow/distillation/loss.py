"""The loss between the prediction of a student and its target."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from alignflow.alignment.features import EncoderFeatures
from alignflow.distributed import mean_over_processes


class StudentLoss:
    """Huber loss in pixels, plus the error in the features of a frozen encoder.

    The feature error penalises blur.

    Args:
        encoder: frozen encoder, or None.
        feature_weight: weight of the feature error.
        delta: |error| at which the Huber loss changes from squared to linear; images are in
            [-1, 1].
    """

    def __init__(
        self,
        encoder: EncoderFeatures | None = None,
        feature_weight: float = 0.0,
        delta: float = 0.1,
    ) -> None:
        self.encoder = encoder
        self.feature_weight = feature_weight
        self.delta = delta

    def __call__(
        self, prediction: Tensor, target: Tensor, scale: Tensor | float = 1.0
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss, and its parts by name.

        Args:
            prediction, target: images or distance maps (B, C, X, Y); the gradient goes to the
                prediction only.
            scale: factor of the pixel errors, (B, 1, 1, 1).
        """
        # divided by delta, the Huber loss is a mean absolute error for large errors
        pixels = huber_loss(scale * prediction, scale * target, delta=self.delta) / self.delta
        values, loss = {"pixels": float(pixels.detach())}, pixels
        if self.encoder is not None:
            features = feature_loss(self.encoder, prediction, target)
            loss = loss + self.feature_weight * features
            values["features"] = float(features.detach())
        return loss, {"loss": float(loss.detach()), **values}


def feature_loss(encoder: EncoderFeatures, prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute error of feature maps over their mean absolute value, averaged over layers.

    Args:
        encoder: frozen encoder.
        prediction, target: images (B, C, X, Y) in [-1, 1]; the gradient goes to the prediction.
    """
    with torch.no_grad():
        targets = encoder.maps(target)
    pairs = zip(encoder.maps(prediction), targets, strict=True)
    terms = [
        (p - t).abs().mean() / mean_over_processes(t.abs().mean()).clamp_min(1e-6) for p, t in pairs
    ]
    return torch.stack(terms).mean()
