"""Test-time adaptation of a segmenter on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from monai.utils import convert_to_tensor
from stages import write_json
from torch import Tensor, nn

from alignflow.data.references import load_references
from alignflow.device import default_device
from alignflow.files import replacing, sha256
from alignflow.segmentation.record import FILE, WEIGHTS, SegmenterRecord
from alignflow.stage1 import Stage1


def adapt_segmenter(
    segmenter_dir: Path,
    image_dir: Path,
    model_dir: Path,
    output_dir: Path,
    adapt: Callable[[nn.Module, Tensor], nn.Module],
) -> None:
    """Write `adapt(segmenter, images)` as a segmenter of its own.

    Args:
        segmenter_dir: what `run segment` wrote.
        image_dir: unlabelled images of the target.
        model_dir: the bundle that they are read by.
        output_dir: receives the weights and the record.
        adapt: from segmenter and images (N, C, X, Y) in [-1, 1] to the adapted segmenter.
    """
    found = load_references(image_dir, Stage1.load(str(model_dir))).images
    images = convert_to_tensor(found, track_meta=False)
    record = SegmenterRecord.load(segmenter_dir)
    adapted = adapt(record.build(segmenter_dir, default_device()), images)
    state = {name: value.cpu() for name, value in adapted.state_dict().items()}
    with replacing(output_dir / WEIGHTS) as temporary:
        torch.save(state, temporary)
    record.provenance |= {
        "weights_sha256": sha256(output_dir / WEIGHTS),
        "adapted_from": str(segmenter_dir),
        "adapted_on": str(image_dir),
    }
    write_json(output_dir / FILE, asdict(record))
