"""What is asked of the generator: pairs by number, with or without a mask."""

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
from alignflow.data.references import load_references
from alignflow.errors import InputError
from alignflow.stage1 import Stage1

logger = logging.getLogger(__name__)


class PairRequests(Dataset):
    """Pairs 0 to `num_pairs` - 1.

    An item is {"index": k}, and with a folder of masks also {"label": uint8 (1, X, Y) class index
    at the generator's size, "geometry": the grid that the mask came on}. Masks are used in the
    order of their names, from the first again when there are fewer than pairs; volumes give their
    slices with foreground, 2-D masks may be empty. With `with_images` the folder holds pairs, and
    items have "start" as well, the image float32 (C, X, Y) in [-1, 1] that generation starts from.
    With `whole_volumes` a pair is a volume: its items, one for each slice, empty ones included,
    share the index and follow each other, and "slices" is their number.

    Args:
        num_pairs: how many; None for one pair for each mask.
        stage1: record of the generator.
        mask_dir: folder of masks (its `labels/`, `masks/` or `labelsTr/` if it has one), or None.
            Images beside it, in `images/`, give DICOM masks their grid and are not used else.
        with_images: read images beside the masks.
        whole_volumes: keep the slices of a volume together.

    Attributes:
        volumes: with `whole_volumes` the index of each item, else None.
        fingerprint: hash of masks, grids and images, as they were read.

    Raises:
        InputError: no masks in the folder, an unreadable one, a value that is no class; images or
            volumes asked for, but no folder, or both.
    """

    def __init__(
        self,
        num_pairs: int | None,
        stage1: Stage1,
        mask_dir: str | None = None,
        with_images: bool = False,
        whole_volumes: bool = False,
    ) -> None:
        if with_images and not mask_dir:
            raise InputError('config "start_time": above 0 it needs images: set "dataset_dir"')
        if whole_volumes and (with_images or not mask_dir):
            raise InputError(
                'config "whole_volumes": needs masks in "dataset_dir", and "start_time" 0'
            )
        masks: list[list[dict[str, Any]]] = []  # of each pair its slices: one, or those of a volume
        if mask_dir and with_images:
            masks = [[pair] for pair in read_pairs(mask_dir, stage1)]
        elif mask_dir:
            masks = read_masks(mask_dir, stage1, whole_volumes)
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
    """A batch of requests: labels and images stacked, everything else as lists."""
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    for key in {"label", "start"} & batch.keys():
        batch[key] = torch.stack(batch[key])
    return batch


def read_pairs(dataset_dir: str, stage1: Stage1) -> list[dict[str, Any]]:
    """{"start", "label", "geometry"} of each pair of a folder that has a mask with foreground."""
    pairs = load_references(dataset_dir, stage1)
    if pairs.labels is None or not all(pairs.given):
        raise InputError(f"dataset_dir '{dataset_dir}': images without masks; give masks of all")
    items = zip(pairs.images, pairs.labels, pairs.geometries, strict=True)
    return [
        {"start": image, "label": label, "geometry": geometry}
        for image, label, geometry in items
        if label.any()
    ]


def read_masks(
    mask_dir: str, stage1: Stage1, whole_volumes: bool = False
) -> list[list[dict[str, Any]]]:
    """Of each pair its slices {"label", "geometry"[, "slices"]}, see `PairRequests`."""
    root = Path(mask_dir)
    if not root.is_dir():
        raise InputError(f"dataset_dir '{root}': no such folder of masks; correct the path")
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
            "dataset_dir '%s': %d slices have no foreground, and training left such slices out: "
            'their images are a guess, unless you train with "foreground_only" set to false',
            folder,
            empty,
        )
    return [[mask | {"slices": len(volume)} for mask in volume] for volume in volumes]


def _masks_with_images(root: Path) -> tuple[Path, list[tuple[Path, Path | None]]]:
    """The folder of masks, and each with its image, where one in DICOM has one."""
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
    """Slices of one mask; one in DICOM is laid on the grid of its image, where there is one."""
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
