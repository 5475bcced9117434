"""Reads the sets of images for an evaluation."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from alignflow.data.references import References, load_references
from alignflow.errors import InputError
from alignflow.evaluation.encoder import features
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)

SYNTHETIC = ("unaligned", "aligned")


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, X, Y) in [-1, 1] with features (N, D) and, if known, masks."""

    directory: str
    images: Tensor
    features: Tensor
    masked: Tensor
    """Images (M, C, X, Y) that come with a mask, M <= N."""
    labels: Tensor
    """Their masks, class indices (M, 1, X, Y)."""
    fingerprint: str
    names: list[str]
    """File name of each image."""
    given: list[bool]
    """Which images come with a mask."""

    def __len__(self) -> int:
        return len(self.images)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "directory": self.directory,
            "images": len(self),
            "masks": len(self.labels),
            "sha256": self.fingerprint,
        }


def read_sets(
    folders: dict[str, str | None], stage1: Stage1, encoder: nn.Module, batch_size: int = 64
) -> dict[str, ImageSet]:
    """Read the given folders, and compute the features of their images.

    Generated pairs ("unaligned", "aligned") are read with the window they were written with, since
    percentiles of each pair would remove differences in brightness. Everything else is read as the
    source was. Target images that are also references are excluded.

    Args:
        folders: folders of "source", "reference", "unaligned", "aligned" and "target", or None.
        stage1: record of the bundle.
        encoder: images (N, C, X, Y) to features (N, D).
        batch_size: batch size of the encoder.

    Raises:
        InputError: see `load_references`; no target image besides the references.
    """
    as_written = stage1.as_written()
    given = {name: str(folder) for name, folder in folders.items() if folder is not None}
    loaded = {
        name: load_references(folder, as_written if name in SYNTHETIC else stage1)
        for name, folder in given.items()
    }
    if "target" in loaded:
        loaded["target"] = unseen(loaded["target"], loaded["reference"], given["target"])
    return {name: _image_set(given[name], r, encoder, batch_size) for name, r in loaded.items()}


def unseen(target: References, references: References, directory: str) -> References:
    """The target images without those that are identical to a reference."""
    seen = {image.numpy().tobytes() for image in references.images}
    kept = [i for i, image in enumerate(target.images) if image.numpy().tobytes() not in seen]
    if not kept:
        raise InputError(
            f"target_dir '{directory}': all images are references; give others, or leave it out"
        )
    if len(kept) < len(target):
        logger.warning(
            "%d of %d target images are references; left out", len(target) - len(kept), len(target)
        )
    return References(**{f.name: _pick(getattr(target, f.name), kept) for f in fields(target)})


def _pick(values: Any, kept: list[int]) -> Any:
    """Select from a field of `References`: a tensor, a list, or None."""
    if values is None or isinstance(values, Tensor):
        return None if values is None else values[kept]
    return [values[i] for i in kept]


def _image_set(directory: str, read: References, encoder: nn.Module, batch_size: int) -> ImageSet:
    given = torch.tensor(read.given, dtype=torch.bool)
    empty = torch.empty(0, 1, *read.images.shape[2:], dtype=torch.uint8)
    return ImageSet(
        directory=directory,
        images=read.images,
        features=features(encoder, read.images, batch_size),
        masked=read.images[given],
        labels=empty if read.labels is None else read.labels[given],
        fingerprint=read.fingerprint,
        names=read.names,
        given=read.given,
    )
