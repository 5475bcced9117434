"""A mask for one image of the site, on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional

from alignflow.data.preprocessing import read
from alignflow.data.references import require_fit
from alignflow.label.values import tool_values
from alignflow.label.volumes import file_grid, on_grid, write_like
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
    slices = read(stage1.preprocessing(), {"image": str(path), "modality": stage1.source.modality})
    images = [part["image"] for part in slices]
    require_fit(images[0], stage1)
    index = predict(images, segmenter, batch_size)
    values = np.array(list(tool_values(stage1.source.labels).values()))
    dtype = np.uint8 if values.max() < 256 else np.uint16
    image = file_grid(images[0])
    native = on_grid(index, images[0].meta["geometry"], image, stage1.reading["slice_axis"])
    return write_like(values[native].astype(dtype), image, stem)


@torch.no_grad()
def predict(images: Sequence[MetaTensor], segmenter: nn.Module, batch_size: int) -> Tensor:
    """Class indices (1, A, B, n) of n slices, in the size that they were cut in.

    Logits are enlarged, not the classes, so that outlines are smooth on a finer grid.
    """
    device = next(segmenter.parameters()).device
    size = tuple(images[0].meta["geometry"]["shape"])
    parts = []
    for first in range(0, len(images), batch_size):
        batch = torch.stack([part.as_tensor() for part in images[first : first + batch_size]])
        logits = segmenter(batch.to(device)).float()
        parts.append(functional.interpolate(logits, size, mode="bilinear").argmax(dim=1).cpu())
    return torch.cat(parts).movedim(0, -1)[None]
