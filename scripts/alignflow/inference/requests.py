"""Requests for the generator: numbered pairs, with or without a mask."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.utils import convert_to_tensor

from alignflow.data.dicom import SUFFIXES as DICOM_SUFFIXES
from alignflow.data.folders import by_name, find_folders, list_images, list_masks, pair
from alignflow.data.formats import split_suffix
from alignflow.data.preprocessing import Preprocessing, read
from alignflow.errors import InputError
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)


class PairRequests(Dataset):
    """Pairs 0 to `num_pairs` - 1.

    An item is {"index": k}. With a folder of masks it also holds "label", uint8 (1, X, Y) class
    indices at the generator's size, and "geometry", the grid of the mask's file. Masks are used in
    the order of their names and repeated if there are more pairs than masks. Volumes contribute
    their slices with foreground; 2-D masks may be empty. With `whole_volumes` a pair is a volume:
    its items, one per slice, empty slices included, follow each other, share the index, and give
    the number of slices as "slices".

    Args:
        num_pairs: number of pairs; None for one pair per mask.
        stage1: record of the generator.
        mask_dir: folder of masks (its `labels/`, `masks/` or `labelsTr/` if it has one), or None.
            DICOM masks take their grid from the images beside it, in `images/`.
        whole_volumes: keep the slices of a volume together.

    Attributes:
        volumes: the index of each item with `whole_volumes`, else None.
        fingerprint: hash of masks and grids, as they were read.

    Raises:
        InputError: no masks in the folder, an unreadable mask, a value that is not a class, or
            whole volumes without a folder.
    """

    def __init__(
        self,
        num_pairs: int | None,
        stage1: Stage1,
        mask_dir: str | None = None,
        whole_volumes: bool = False,
    ) -> None:
        if whole_volumes and not mask_dir:
            raise InputError('config "whole_volumes": needs masks in "dataset_dir"')
        # the slices of each pair: one, or all of a volume
        masks = read_masks(mask_dir, stage1, whole_volumes) if mask_dir else []
        if num_pairs is None and not masks:
            raise InputError('config "num_pairs": null needs masks; set it, or "dataset_dir"')
        count = len(masks) if num_pairs is None else num_pairs
        if not isinstance(count, int) or count < 1:
            raise InputError(f'config "num_pairs": {count!r}; set a whole number, at least 1')
        items = [
            {"index": k, **mask}
            for k in range(count)
            for mask in (masks[k % len(masks)] if masks else [{}])
        ]
        super().__init__(items)
        self.volumes = [item["index"] for item in items] if whole_volumes else None
        self.fingerprint = _fingerprint([mask for volume in masks for mask in volume])


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of requests: labels are stacked, everything else is in lists."""
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    if "label" in batch:
        batch["label"] = torch.stack(batch["label"])
    return batch


def read_masks(
    mask_dir: str, stage1: Stage1, whole_volumes: bool = False
) -> list[list[dict[str, Any]]]:
    """For each pair its slices {"label", "geometry"[, "slices"]}, see `PairRequests`."""
    root = Path(mask_dir)
    if not root.is_dir():
        raise InputError(f"dataset_dir '{root}': no such folder of masks; fix the path")
    folder, files = _masks_with_images(root)
    preprocessing = stage1.preprocessing(foreground_only=not whole_volumes)
    modality = stage1.source.modality
    volumes = [_slices(mask, image, modality, preprocessing) for mask, image in files]
    if not any(volumes):
        raise InputError(f"dataset_dir '{folder}': no masks; give a folder of mask files")
    if not whole_volumes:
        return [[mask] for volume in volumes for mask in volume]
    empty = sum(not mask["label"].any() for volume in volumes for mask in volume)
    if empty and stage1.reading.get("foreground_only"):
        logger.warning(
            "dataset_dir '%s': %d slices have no foreground. Training left such slices out, so the "
            'images are unreliable unless you train with "foreground_only" set to false',
            folder,
            empty,
        )
    return [[mask | {"slices": len(volume)} for mask in volume] for volume in volumes]


def _masks_with_images(root: Path) -> tuple[Path, list[tuple[Path, Path | None]]]:
    """The folder of masks, and each mask with the image that DICOM needs, or None."""
    image_dir, mask_dirs = find_folders(root)
    folder = mask_dirs[0] if mask_dirs else root
    files = list_masks(folder) if mask_dirs or image_dir == root else []
    if image_dir == root or not any(split_suffix(file)[1] in DICOM_SUFFIXES for file in files):
        return folder, [(mask, None) for mask in files]
    masks, images = by_name(files, folder), by_name(list_images(image_dir), image_dir)
    image_of = {mask: images[name] for name, mask in pair(images, masks).items()}
    return folder, [(mask, image_of.get(mask)) for mask in files]


def _fingerprint(masks: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for mask in masks:
        for key, value in sorted(mask.items()):
            content = value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value)
            digest.update(key.encode())
            digest.update(content if isinstance(content, bytes) else content.encode())
    return digest.hexdigest()


def _slices(
    path: Path, image_path: Path | None, modality: str, preprocessing: Preprocessing
) -> list[dict[str, Any]]:
    """Slices of a mask; a DICOM mask is put on the grid of its image, if there is one."""
    item = {"label": str(path)}
    if split_suffix(path)[1] in DICOM_SUFFIXES and image_path is not None:
        item |= {"image": str(image_path), "modality": modality}
    return [
        {
            "label": convert_to_tensor(part["label"], track_meta=False),
            "geometry": part["label"].meta["geometry"],
        }
        for part in read(preprocessing, item)
    ]
