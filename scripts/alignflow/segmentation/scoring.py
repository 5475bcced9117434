"""Scores a segmenter on the labelled images of a site."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.metrics import (
    DiceMetric,
    MeanIoU,
    compute_hausdorff_distance,
    get_confusion_matrix,
)
from monai.networks.utils import one_hot
from torch import Tensor, nn

from alignflow.data.references import References
from alignflow.errors import InputError
from alignflow.evaluation.faithfulness import Table, summary
from alignflow.files import replacing
from alignflow.pictures import evenly, outline_tiles, save_sheet
from alignflow.segmentation.keep import KeepWeights
from alignflow.segmentation.record import SegmenterRecord
from alignflow.stage1 import Stage1
from alignflow.training.tracking import Tracking

logger = logging.getLogger(__name__)

Inferer = Callable[[Tensor, nn.Module], Tensor]


@torch.no_grad()
def predict(segmenter: nn.Module, images: Tensor, inferer: Inferer, batch_size: int = 64) -> Tensor:
    """Class indices uint8 (N, 1, X, Y), on the CPU, from images (N, C, X, Y) in [-1, 1]."""
    device = next(segmenter.parameters()).device
    parts = [
        inferer(part.to(device), segmenter).argmax(dim=1, keepdim=True).byte().cpu()
        for part in images.split(batch_size)
    ]
    return torch.cat(parts)


def overlap_tables(predicted: Tensor, labels: Tensor, num_classes: int) -> dict[str, Table]:
    """Dice, IoU, HD95, sensitivity and precision (N, K-1) of each image and class.

    NaN if the reference lacks the class. HD95, the 95th percentile of the distances between the two
    outlines, is in pixels; it is the image's diagonal if the class was not found. Sensitivity below
    precision means that predicted outlines are too narrow, for instance because the site draws them
    wider.

    Args:
        predicted, labels: class indices (N, 1, X, Y).
        num_classes: K, background included.
    """
    options: dict[str, Any] = {
        "include_background": False,
        "reduction": "none",
        "ignore_empty": True,
    }
    metrics = {"dice": DiceMetric(**options), "iou": MeanIoU(**options)}
    counts, distances = [], []
    for p, y in zip(predicted.split(64), labels.split(64), strict=True):
        pair = one_hot(p, num_classes), one_hot(y, num_classes)
        for metric in metrics.values():
            metric(*pair)
        counts.append(get_confusion_matrix(*pair, include_background=False))
        with warnings.catch_warnings():  # about images without a class, handled below
            warnings.simplefilter("ignore")
            distances.append(compute_hausdorff_distance(*pair, percentile=95))
    tables = {name: cast("Tensor", metric.aggregate()) for name, metric in metrics.items()}
    hits, false, _, missed = torch.cat(counts).double().unbind(dim=-1)
    tables["sensitivity"] = hits / (hits + missed)  # 0 / 0 is NaN
    precision = hits / (hits + false).clamp(min=1)  # 0 where nothing was predicted
    tables["precision"] = precision.where(hits + missed > 0, torch.nan)
    distance = torch.cat(distances).double().nan_to_num(math.inf)
    distance = distance.clamp(max=math.hypot(*labels.shape[2:]))
    tables["hd95"] = distance.where(hits + missed > 0, torch.nan)
    return {name: table.double().numpy() for name, table in tables.items()}


def score_site(
    segmenter_dir: str,
    site: References | None,
    stage1: Stage1,
    inferer: Inferer,
    output_dir: str,
    device: str,
) -> dict[str, Any] | None:
    """Write `scores.json` and `test.png` of a trained segmenter; does nothing without a site.

    Args:
        segmenter_dir: folder of the segmenter.
        site: labelled images at the segmenter's size.
        stage1: record of the bundle with which the images were read.
        inferer: MONAI inferer.
        output_dir: output folder.
        device: device for the predictions.

    Raises:
        InputError: the segmenter has other classes, channels or size.
    """
    if site is None:
        return None
    record = SegmenterRecord.load(segmenter_dir)
    require_fit(record, site, stage1)
    segmenter = record.build(segmenter_dir, device)
    labels = cast("Tensor", site.labels)
    predicted = predict(segmenter, site.images, inferer)
    tables = overlap_tables(predicted, labels, len(record.labels))
    scores = {name: summary(table) for name, table in tables.items()}
    classes = list(record.labels)[1:]
    per_image = {
        name: {metric: _row(tables[metric][i], classes) for metric in tables}
        for i, name in enumerate(site.names)
    }
    content = scores | {
        "classes": classes,
        "counted": int((~np.isnan(tables["dice"])).any(axis=1).sum()),
        "segmenter_sha256": record.provenance["weights_sha256"],
        "images_sha256": site.fingerprint,
        "images": per_image,
    }
    with replacing(Path(output_dir) / "scores.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    save_outlines(Path(output_dir) / "test.png", site.images, labels, predicted)
    logger.info(
        "Dice %.3f (%.3f to %.3f), IoU %.3f, sensitivity %.3f, precision %.3f on %d images; "
        "wrote scores.json and test.png to '%s'",
        *(scores["dice"][key] for key in ("mean", "low", "high")),
        *(scores[key]["mean"] for key in ("iou", "sensitivity", "precision")),
        content["counted"],
        output_dir,
    )
    return content


def log_scores(tracking: Tracking | None, kept: KeepWeights, site: dict[str, Any] | None) -> None:
    """Log Dice and IoU, on source validation and at a site, to the training's MLflow run.

    Args:
        tracking: MLflow handler of the training; None logs nothing.
        kept: has the scores on the validation split.
        site: result of `score_site`.
    """
    metrics = {f"source_{name}": kept.scores[name]["mean"] for name in ("dice", "iou")}
    for name in ("dice", "iou") if site is not None else ():
        for key, suffix in (("mean", ""), ("low", "_low"), ("high", "_high")):
            metrics[f"site_{name}{suffix}"] = cast("dict[str, Any]", site)[name][key]
    if tracking is not None:
        tracking.log_late(metrics)


def require_fit(record: SegmenterRecord, site: References, stage1: Stage1) -> None:
    """Raise `InputError` if a segmenter cannot be scored on images read by this bundle."""
    facts = {
        "labels": (record.labels, stage1.source.labels),
        "channels": (record.channels, stage1.source.channels),
        "image_size": (record.image_size, list(site.images.shape[2:])),
    }
    for name, (own, given) in facts.items():
        if own != given:
            raise InputError(
                f"segmenter_dir: its {name} are {own}, but the images were read with {given}; "
                "set the model_dir and grid_size that it was trained with"
            )


def save_outlines(path: Path, images: Tensor, labels: Tensor, predicted: Tensor) -> None:
    """Write a sheet of up to 32 images: true outlines above, predicted outlines below."""
    shown = evenly(len(images), 32)
    rows = [outline_tiles(images[shown], masks[shown]) for masks in (labels, predicted)]
    save_sheet(path, rows, columns=8)


def _row(values: Table, classes: list[str]) -> dict[str, float | None]:
    """Scores by class, None for NaN, which JSON cannot represent."""
    return {
        name: None if np.isnan(v) else float(v) for name, v in zip(classes, values, strict=True)
    }
