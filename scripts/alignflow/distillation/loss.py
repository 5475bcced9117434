"""How far a student's images lie from what it should have prediction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from alignflow.alignment.features import EncoderFeatures
from alignflow.distributed import mean_over_processes


class StudentLoss:
    """Huber's loss in pixels, and the error in the features of a frozen encoder.

    The latter counts what a blurred mean loses.

    Args:
        encoder: frozen, or None.
        feature_weight: weight of the loss in features against that in pixels.
        delta: |error| at which Huber's loss turns from square to linear; images lie in [-1, 1].
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
            prediction, target: images, or distance maps (B, C, X, Y); only the first has gradients.
            scale: what errors in pixels are multiplied by, (B, 1, 1, 1).
        """
        # divided by delta, both parts are mean absolute errors where errors are large
        pixels = huber_loss(scale * prediction, scale * target, delta=self.delta) / self.delta
        values, loss = {"pixels": float(pixels.detach())}, pixels
        if self.encoder is not None:
            features = feature_loss(self.encoder, prediction, target)
            loss = loss + self.feature_weight * features
            values["features"] = float(features.detach())
        return loss, {"loss": float(loss.detach()), **values}


def feature_loss(encoder: EncoderFeatures, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over layers of the absolute error of feature maps, over their mean absolute value.

    Args:
        encoder: frozen.
        prediction, target: images (B, C, X, Y) in [-1, 1]; the gradient goes to the former.
    """
    with torch.no_grad():
        targets = encoder.maps(target)
    pairs = zip(encoder.maps(prediction), targets, strict=True)
    terms = [
        (p - t).abs().mean() / mean_over_processes(t.abs().mean()).clamp_min(1e-6) for p, t in pairs
    ]
    return torch.stack(terms).mean()
