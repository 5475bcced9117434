"""Masks of a site's references: given, or predicted by a segmenter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from alignflow.data.references import References
from alignflow.masks.postprocess import MaskPostprocess


@dataclass
class ReferenceMasks:
    """Masks of references, given or predicted.

    Attributes:
        labels: class indices uint8 (N, 1, X, Y).
        confidence: float32 (N, 1, X, Y) in [0, 1]; 1 where the mask was given.
    """

    labels: Tensor
    confidence: Tensor

    def __getitem__(self, chosen: Tensor) -> ReferenceMasks:
        """The masks of some references, by index."""
        return ReferenceMasks(self.labels[chosen], self.confidence[chosen])


@torch.no_grad()
def pseudo_masks(
    segmenter: nn.Module, images: Tensor, postprocess: MaskPostprocess, batch_size: int = 16
) -> ReferenceMasks:
    """Masks that a segmenter predicts, averaged over the four flips and cleaned.

    The confidence of a pixel is 1 - H / log K, with H the entropy of its averaged probabilities. It
    is low where the segmenter is uncertain and where the flips disagree.

    Args:
        segmenter: logits (B, K, X, Y).
        images: (N, C, X, Y) in [-1, 1].
        postprocess: rules learned from the training masks.
        batch_size: images at a time.
    """
    parts = [_flip_averaged(segmenter, part) for part in images.split(batch_size)]
    probability = torch.cat(parts).cpu()
    entropy = -(probability * probability.clamp(min=1e-8).log()).sum(dim=1, keepdim=True)
    confidence = 1 - entropy / math.log(probability.shape[1])
    cleaned = [torch.from_numpy(postprocess.clean(m.numpy())) for m in probability.argmax(dim=1)]
    return ReferenceMasks(torch.stack(cleaned)[:, None].to(torch.uint8), confidence.clamp(0, 1))


def _flip_averaged(segmenter: nn.Module, images: Tensor) -> Tensor:
    flips: list[list[int]] = [[], [2], [3], [2, 3]]
    views = [segmenter(images.flip(dims)).float().softmax(dim=1).flip(dims) for dims in flips]
    return torch.stack(views).mean(dim=0)


def reference_masks(
    references: References, segmenter: nn.Module, postprocess: MaskPostprocess
) -> ReferenceMasks:
    """Masks of all references: the given masks, and `pseudo_masks` for the others."""
    device = next(segmenter.parameters()).device
    images = convert_to_tensor(references.images, track_meta=False).to(device)
    masks = pseudo_masks(segmenter, images, postprocess)
    if references.labels is None:
        return masks
    given = torch.tensor(references.given).view(-1, 1, 1, 1)
    return ReferenceMasks(
        torch.where(given, references.labels, masks.labels),
        masks.confidence.masked_fill(given, 1.0),
    )
