"""A picture of images of the site with the outlines predicted by segmenters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monai.inferers.inferer import SimpleInferer, SlidingWindowInferer
from torch import Tensor
from torch.nn.functional import interpolate

from alignflow.data.references import load_references
from alignflow.pictures import evenly, image_tiles, outline_tiles, save_rows, y_points_up
from alignflow.segmentation.record import SegmenterRecord
from alignflow.segmentation.scoring import predict
from alignflow.stage1 import Stage1

SHOWN = 6


def save_picture(
    path: Path, site: Path, model_dir: Path, segmenters: Mapping[str, Path], device: str
) -> None:
    """Write a picture of up to 6 images of the site, evenly spread, without and with outlines.

    There is no row of true outlines if no image has a mask. If the folder has masks, only images
    with foreground are shown.

    Args:
        path: path of the PNG.
        site: folder of images, with or without masks.
        model_dir: bundle that defines how images are read.
        segmenters: name of the row -> folder of the segmenter.
        device: device for the predictions.

    Raises:
        InputError: images or a segmenter cannot be read.
    """
    stage1 = Stage1.load(str(model_dir))
    records = {name: SegmenterRecord.load(folder) for name, folder in segmenters.items()}
    size = next(iter(records.values())).image_size
    found = load_references(site, replace(stage1, image_size=size))
    chosen = spread_out(found.labels, len(found))
    images = found.images[chosen]
    rows = {"image": image_tiles(images)}
    if found.labels is not None:
        rows["true outline"] = outline_tiles(images, found.labels[chosen])
    for name, record in records.items():
        segmenter = record.build(segmenters[name], device)
        inferer: Any = SimpleInferer()
        if record.inferer_mode == "sliding":
            inferer = SlidingWindowInferer(stage1.image_size, overlap=0.5, mode="gaussian")
        own = interpolate(images, record.image_size, mode="bilinear", antialias=True)
        predicted = predict(segmenter, own, inferer).float()
        rows[name] = outline_tiles(
            images, interpolate(predicted, size, mode="nearest-exact").byte()
        )
    save_rows(path, rows, y_points_up(stage1.source))


def spread_out(labels: Tensor | None, count: int) -> Tensor:
    """Indices of up to 6 of `count` images, evenly spread, with foreground if possible.

    Args:
        labels: class indices (N, 1, X, Y), or None.
        count: N.
    """
    numbers = torch.arange(count)
    if labels is not None and labels.any():
        numbers = labels.flatten(1).any(dim=1).nonzero()[:, 0]
    return numbers[evenly(len(numbers), SHOWN)]
