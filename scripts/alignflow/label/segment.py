"""A mask for one image of the site, on the image's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional

from alignflow.data.formats import load
from alignflow.data.references import require_fit, small_image, window_of
from alignflow.data.slices import slice_axis_of, stack_slices
from alignflow.label.values import tool_values
from alignflow.label.volumes import write_like
from alignflow.stage1 import Stage1


def segment_file(
    path: str | Path, segmenter: nn.Module, stage1: Stage1, stem: str | Path, batch_size: int = 16
) -> Path:
    """Write the segmenter's mask of an image file or a DICOM series.

    Args:
        path: the file, or the folder of a series.
        segmenter: logits (B, K, X, Y) from images (B, C, X, Y) in [-1, 1].
        stage1: record of the bundle: how images are read, and the classes.
        stem: of the file to write, without suffix, see `write_like`.
        batch_size: slices at once.

    Returns:
        The path written; its values are those of `tool_values`.

    Raises:
        InputError: an image that cannot be read, or is not like the source's.
    """
    image = load(path)
    require_fit(image, stage1)
    index = predict(image, segmenter, stage1, batch_size)
    values = np.array(list(tool_values(stage1.source.labels).values()))
    dtype = np.uint8 if values.max() < 256 else np.uint16
    return write_like(values[index.numpy()].astype(dtype)[None], image, stem)


@torch.no_grad()
def predict(image: MetaTensor, segmenter: nn.Module, stage1: Stage1, batch_size: int) -> Tensor:
    """Class indices (X, Y, Z), Z = 1 for a picture, of an image (C, X, Y[, Z]) in native units.

    Logits are enlarged, not the classes, so that outlines are smooth on a finer grid.
    """
    axis = slice_axis_of(image, stage1.reading["slice_axis"])
    window = window_of(image, stage1)
    device = next(segmenter.parameters()).device
    slices = stack_slices(image.as_tensor(), axis)
    parts = []
    for batch in slices.split(batch_size):
        small = torch.stack([small_image(pixels, window, stage1.image_size) for pixels in batch])
        logits = segmenter(small.to(device)).float()
        large = functional.interpolate(logits, slices.shape[2:], mode="bilinear")
        parts.append(large.argmax(dim=1).cpu())
    return torch.cat(parts).movedim(0, axis)
