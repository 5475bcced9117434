"""What is asked of the generator: pairs by number, with or without a mask."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.transforms import Resize

from alignflow.data.formats import has_geometry, load, split_suffix
from alignflow.data.labels import check_values, to_index
from alignflow.data.references import load_references
from alignflow.data.slices import is_single_slice, slice_axis_of, slice_geometry, stack_slices
from alignflow.data.spec import Geometry
from alignflow.errors import InputError
from alignflow.stage1 import Stage1


class PairRequests(Dataset):
    """Pairs 0 to `num_pairs` - 1.

    An item is {"index": k}, and with a folder of masks also {"label": uint8 (1, X, Y) class index
    at the generator's size, "geometry": the grid that the mask came on}. Masks are used in the
    order of their names, from the first again when there are fewer than pairs; volumes give their
    slices with foreground, 2-D masks may be empty. With `with_images` the folder holds pairs, and
    items have "start" as well, the image float32 (C, X, Y) in [-1, 1] that generation starts from.

    Args:
        num_pairs: how many; None for one pair for each mask.
        stage1: record of the generator.
        mask_dir: folder of masks (its `labels/` or `masks/` if it has one), or None.
        slice_axis: along which volumes are cut, as in training.
        with_images: read images beside the masks.

    Raises:
        InputError: no masks in the folder, an unreadable one, a value that is no class; images
            asked for, but no folder.

    Attributes:
        fingerprint: hash of masks, grids and images, as they were read.
    """

    def __init__(
        self,
        num_pairs: int | None,
        stage1: Stage1,
        mask_dir: str | None = None,
        slice_axis: int = 2,
        with_images: bool = False,
    ) -> None:
        if with_images and not mask_dir:
            raise InputError('config "start_time": above 0 it needs images: set "dataset_dir"')
        masks: list[dict[str, Any]] = []
        if mask_dir and with_images:
            masks = read_pairs(mask_dir, stage1)
        elif mask_dir:
            masks = read_masks(mask_dir, stage1, slice_axis)
        if num_pairs is None and not masks:
            raise InputError('config "num_pairs": null needs masks; set it, or "dataset_dir"')
        count = len(masks) if num_pairs is None else num_pairs
        if not isinstance(count, int) or count < 1:
            raise InputError(f'config "num_pairs": {count!r}; set a whole number, at least 1')
        self.fingerprint = _fingerprint(masks)
        super().__init__(
            [{"index": k, **(masks[k % len(masks)] if masks else {})} for k in range(count)]
        )


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


def read_masks(mask_dir: str, stage1: Stage1, slice_axis: int) -> list[dict[str, Any]]:
    """{"label", "geometry"} of each mask slice in a folder, see `PairRequests`."""
    root = Path(mask_dir)
    if not root.is_dir():
        raise InputError(f"dataset_dir '{root}': no such folder of masks; correct the path")
    folder = next((root / n for n in ("labels", "masks") if (root / n).is_dir()), root)
    files = sorted(path for path in folder.iterdir() if split_suffix(path)[1])
    masks = [mask for path in files for mask in _slices(path, stage1, slice_axis)]
    if not masks:
        raise InputError(f"dataset_dir '{folder}': no masks; give a folder of mask files")
    return masks


def _fingerprint(masks: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for mask in masks:
        for key, value in sorted(mask.items()):
            content = value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value)
            digest.update(key.encode())
            digest.update(content if isinstance(content, bytes) else content.encode())
    return digest.hexdigest()


def _slices(path: Path, stage1: Stage1, slice_axis: int) -> list[dict[str, Any]]:
    mask = load(path, is_mask=True)
    check_values(path.name, mask.unique().tolist(), stage1.source.labels)
    axis = slice_axis_of(mask, slice_axis)
    resize = Resize(spatial_size=stage1.image_size, mode="nearest-exact")
    found = []
    for k, native in enumerate(
        stack_slices(to_index(mask.as_tensor(), stage1.source.labels), axis)
    ):
        if native.any() or is_single_slice(mask):
            shape = (native.shape[1], native.shape[2])
            geometry: Geometry = {"shape": list(shape), "affine": None}
            if has_geometry(mask):
                geometry = slice_geometry(mask.affine.numpy(), shape, axis, k)
            label = torch.as_tensor(resize(native.float())).to(torch.uint8)
            found.append({"label": label, "geometry": geometry})
    return found
