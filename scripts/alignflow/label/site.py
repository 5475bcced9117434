"""The images of a datastore and their masks as a data set that the workflows read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from alignflow.data.formats import load, split_suffix
from alignflow.errors import InputError
from alignflow.label.values import readable_values, tool_index
from alignflow.label.volumes import write_like
from alignflow.stage1 import Stage1


def link_site(
    folder: Path, images: Mapping[str, Path], masks: Mapping[str, Path], stage1: Stage1
) -> Path:
    """Fill `folder/images` with links and `folder/masks` with masks in the source's values.

    Args:
        folder: new; a data set for `align` (some masks) or `segment` (a mask for each image).
        images: path by id: a file, or the folder of a DICOM series.
        masks: path by id, with values of the tool or of the source.
        stage1: record of the bundle.

    Returns:
        The folder.

    Raises:
        InputError: no images; a mask that cannot be read, or has a value that is no class.
    """
    if not images:
        raise InputError("datastore: no images; add some to the studies")
    for name, path in images.items():
        _link(path, folder / "images" / file_name(name, path))
    for name, path in masks.items():
        write_mask(path, folder / "masks" / name, stage1)
    return folder


def file_name(name: str, path: Path) -> str:
    """What an image of this id is linked as; a folder has no suffix."""
    return name if path.is_dir() else name + split_suffix(path)[1]


def write_mask(path: Path, stem: Path, stage1: Stage1) -> Path:
    """Write a mask of the tool so that it is read as the source's are; returns the path."""
    mask = load(path, is_mask=True)
    labels, threshold = stage1.source.labels, stage1.reading["mask_threshold"]
    index = tool_index(mask.as_tensor(), labels, threshold, path.name)
    values = readable_values(labels, threshold)[index.numpy()]
    small = values.min() >= 0 and values.max() < 256
    volume = values.astype(np.uint8 if small else np.float32)
    return write_like(volume if volume.ndim == 4 else volume[..., None], mask, stem)


def fingerprint(parts: Iterable[object]) -> str:
    """Short hash of some facts, in their order."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(path.resolve(), place)
